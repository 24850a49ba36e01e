"""The tidy row that all tables share: one number, what it is, and which runs it comes from.

`setting` is a list of `key=value` parts joined by "; ", written by `setting(...)`:

    views       temporal clips x spatial crops of a test clip
    weights     `given`, where weights from elsewhere took the place of the training
    alpha, temperature   of the distillation, after a study's choice
    interval    what ci_low..ci_high covers: `seeds+groups`, `seeds`, `groups` or `none` (95 %)
    paired      what two compared runs have in common: `seed`; in `protocol_effects` also `seed, clip`
    against_split        the reference's split, in `protocol_effects`, where it is another
    test        of p values: `t` over what the interval covers, or `sign flip` over groups
    teachers    how many teachers the seeds were distilled from: with 1, all seeds share it
    seed        the row is about this seed's weights alone
    subset, status       of clips that are counted or tested on
    definition           what exactly is counted, in `audit`
    class                whose clips are counted, in `audit_classes`
    study, trial, against, chosen        of ablations
    number, state        of a trial of a search: from 0; `complete`, `pruned` or `failed`
    epoch       after which a trial that was not finished had the top-1 in `top1_so_far`
    larger_than_noise    `yes` where the p value is below 5 % when adjusted for all of a study's trials, else `no`
    divergence, features     of the distillation, where it is not forward KL, or features weigh something
    splits      the splits that `split=mean` is the mean over
    shown       how the test clips of a check were changed
    input, classes, batch, precision, device, threads, machine        of profiles
    work, along, size, torch, date       in `growth`: what was measured, along which size, at which; when

In `claims` the setting is a sentence that begins with the verdict.

`model` is a model's name, with what sets the network apart from the model of that name (`dvfl.networks.label`); in
`efficiency` it is the name of the profile, which may also say whose classes the network tells apart.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import pandas as pd

from dvfl.evaluate.statistics import Interval

COLUMNS = (
    "table",
    "dataset",
    "split",
    "protocol",
    "model",
    "arm",
    "setting",
    "metric",
    "unit",
    "value",
    "ci_low",
    "ci_high",
    "n_seeds",
    "published",
    "difference",
    "run_ids",
)
NUMBERS = ("value", "ci_low", "ci_high", "published", "difference")
TEXTS = tuple(name for name in COLUMNS if name not in (*NUMBERS, "n_seeds"))

# Enough for every quantity here, and few enough that the last bits of a sum do not show.
_SIGNIFICANT = 6


def setting(**parts: Any) -> str:
    """The parts that are not None, as `key=value; key=value`."""
    return "; ".join(f"{key}={plain(value)}" for key, value in parts.items() if value is not None)


def setting_parts(text: str) -> dict[str, str]:
    """The inverse of `setting`; values are text and may themselves hold '='."""
    return dict(part.split("=", 1) for part in text.split("; ") if "=" in part)


def plain(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def in_percent(interval: Interval) -> dict[str, Any]:
    """Unit, value and interval of a row, of a metric that is a fraction."""
    return {
        "unit": "percent",
        "value": 100 * interval.estimate,
        "ci_low": 100 * interval.low,
        "ci_high": 100 * interval.high,
    }


def table_frame(table: str, rows: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    """Rows in the order given, with all `COLUMNS`; what a row does not name is empty.

    `difference` is value - published, where both are there and no row says otherwise.
    """
    frame = pd.DataFrame([{"table": table, **row} for row in rows], columns=list(COLUMNS))
    numbers = list(NUMBERS)
    frame[numbers] = frame[numbers].astype("float64")
    frame["difference"] = frame["difference"].fillna(frame["value"] - frame["published"])
    frame[numbers] = frame[numbers].map(_rounded)
    frame["n_seeds"] = frame["n_seeds"].astype("Int64")
    frame[list(TEXTS)] = frame[list(TEXTS)].fillna("").astype(object)
    return frame


def select(frame: pd.DataFrame, **values: Any) -> pd.DataFrame:
    """The rows whose columns have these values."""
    chosen = frame
    for column, value in values.items():
        chosen = chosen[chosen[column] == value]
    return chosen


def _rounded(value: float) -> float:
    return value if math.isnan(value) else float(f"{value:.{_SIGNIFICANT}g}")


def number_text(value: Any) -> str:
    """A number as the CSV holds it: '' where there is none, whole numbers without a point."""
    if pd.isna(value):
        return ""
    return str(int(value)) if float(value).is_integer() else f"{value:.{_SIGNIFICANT}g}"
