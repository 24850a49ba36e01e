"""Tables `audit` and `audit_classes`: what each split holds, what is missing, and what of its test clips leaks."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pandas as pd

from dvfl import paths
from dvfl.config import Config
from dvfl.files import required
from dvfl.report.rows import setting, table_frame


def build_audit(config: Config) -> pd.DataFrame:
    """The findings of every split but those of single classes."""
    return table_frame("audit", _rows(config, of_classes=False))


def build_audit_classes(config: Config) -> pd.DataFrame:
    """Clips and hours of every class in every subset of every split."""
    return table_frame("audit_classes", _rows(config, of_classes=True))


def audited(config: Config) -> list[tuple[str, str]]:
    """Data sets and splits that are audited."""
    return [(dataset, split) for dataset in config.datasets for split in config.dataset_definitions[dataset].splits]


def read_audit(dataset: str, split: str) -> pd.DataFrame:
    """All findings of a split; `value` is empty where something could not be tested."""
    texts = ("subset", "class_name", "status", "metric", "unit", "definition")
    path = required(paths.audit_path(dataset, split))
    return pd.read_csv(path, dtype=dict.fromkeys(texts, str), keep_default_na=False, na_values={"value": [""]})


def _rows(config: Config, of_classes: bool) -> Iterator[dict[str, Any]]:
    """Tidy rows of the findings about single classes, or of the others."""
    for dataset, split in audited(config):
        findings = read_audit(dataset, split)
        for found in findings[(findings["class_name"] != "") == of_classes].itertuples():
            # The line of a class holds its clips and its hours: what they are is said by the caption.
            about = {"class": found.class_name} if of_classes else {"definition": found.definition}
            text = setting(subset=found.subset or None, status=found.status or None, **about)
            row = {"setting": text, "metric": found.metric, "unit": found.unit, "value": found.value}
            yield {"dataset": dataset, "split": split} | row
