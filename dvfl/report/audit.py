"""Table `audit`: what each split holds, what is missing, and what of its test clips stands in train."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pandas as pd

from dvfl import plan
from dvfl.config import Config
from dvfl.report.results import require
from dvfl.report.rows import setting, table_frame


def build_audit(config: Config) -> pd.DataFrame:
    """The findings of every split but those of single classes, which stand in results/data/<dataset>/audit."""
    return table_frame("audit", [row for place in audited(config) for row in _rows(*place)])


def audited(config: Config) -> list[tuple[str, str]]:
    """Data sets and splits that are audited."""
    return [(dataset, split) for dataset in config.datasets for split in config.dataset_definitions[dataset].splits]


def read_audit(dataset: str, split: str) -> pd.DataFrame:
    """All findings of a split; `value` is empty where something could not be tested."""
    texts = ("subset", "class_name", "status", "metric", "unit", "definition")
    path = require(plan.audit_path(dataset, split))
    return pd.read_csv(path, dtype=dict.fromkeys(texts, str), keep_default_na=False, na_values={"value": [""]})


def finding_rows(findings: pd.DataFrame) -> Iterator[dict[str, Any]]:
    """Tidy rows of the findings about no single class."""
    for found in findings[findings["class_name"] == ""].itertuples():
        text = setting(subset=found.subset or None, status=found.status or None, definition=found.definition)
        yield {"setting": text, "metric": found.metric, "unit": found.unit, "value": found.value}


def _rows(dataset: str, split: str) -> Iterator[dict[str, Any]]:
    for row in finding_rows(read_audit(dataset, split)):
        yield {"dataset": dataset, "split": split} | row
