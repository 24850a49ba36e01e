"""Tidy rows laid out for reading: one line per arm or model, one column per metric.

Rows that agree in everything but the metric become one line. Lines that have the same metrics form
a block, a table of its own; what all lines of a block share moves into its heading.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pandas as pd

from dvfl.report.rows import setting_parts

_IDENTITY = ("table", "dataset", "split", "protocol", "model", "arm", "setting", "n_seeds")
_EMPTY = "–"

_NAMES = {
    "dataset": "data set",
    "n_seeds": "seeds",
    "larger_than_noise": "larger than noise",
    "top1": "top-1",
    "top5": "top-5",
    "ece": "ECE",
    "macro_f1": "macro F1",
    "top1_difference": "difference in top-1",
    "p_value": "p",
    "p_value_holm": "p, Holm-adjusted",
    "teacher_top1_on_training_clips": "teacher's top-1 on training clips",
    "params": "parameters",
    "gmacs": "multiply-adds",
    "gflops": "operations",
    "other_gops": "other operations",
    "weights_mb": "weights",
    "file_mb": "exported file",
    "latency_ms": "latency",
    "latency_p95_ms": "latency, 95th percentile",
    "clips_per_second": "throughput",
    "peak_memory_mb": "peak memory",
    "peak_memory_increase_mb": "increase of peak memory",
    "cpu_seconds": "CPU time",
    "seconds": "wall time",
    "cpu_seconds_exponent": "exponent of CPU time",
    "cpu_seconds_exponent_at_end": "of CPU time between the two largest",
    "peak_memory_increase_mb_exponent": "exponent of memory",
    "peak_memory_increase_mb_exponent_at_end": "of memory between the two largest",
    "params_ratio": "parameters, ratio",
    "gmacs_ratio": "multiply-adds, ratio",
    "latency_ratio": "latency, ratio",
    "memory_ratio": "peak memory, ratio",
    "compute_reduction_vs_teacher": "compute, ratio",
}
_UNITS = {"percent": "%", "percentage points": "points"}
_NO_UNIT = ("probability", "ratio", "clips", "groups", "")


@dataclass(frozen=True)
class Block:
    """A heading of what all lines share, the column names, and the lines."""

    table: str
    heading: str
    columns: list[str]
    lines: list[list[str]]


def blocks(frame: pd.DataFrame) -> Iterator[Block]:
    """The blocks of a table, in the order of their first rows."""
    lines: dict[tuple[str, ...], list[int]] = {}
    texts = frame[list(_IDENTITY)].astype(str).replace("<NA>", "")
    for position, key in enumerate(texts.itertuples(index=False, name=None)):
        lines.setdefault(key, []).append(position)
    kinds: dict[tuple[object, ...], list[list[int]]] = {}
    for positions in lines.values():
        kinds.setdefault(_kind(frame.iloc[positions[0]]), []).append(positions)
    for (table, *_), members in kinds.items():
        yield _block(frame, str(table), members)


def _kind(row: pd.Series) -> tuple[object, ...]:
    """Lines of one kind stand in one block: the first metric tells, and what it is about."""
    parts = setting_parts(row["setting"])
    return row["table"], row["metric"], parts.get("study"), "against" in parts, "seed" in parts


def _block(frame: pd.DataFrame, table: str, members: list[list[int]]) -> Block:
    labels = pd.DataFrame([_labels(frame.iloc[positions[0]]) for positions in members]).fillna("")
    # A single line shares everything with itself: what it is about stays in the line.
    kept = ("arm", "setting", "n_seeds", "trial", "chosen", "larger_than_noise")
    shared = [name for name in labels if labels[name].nunique() == 1 and name not in kept]
    heading = [_shared(name, labels[name].iloc[0]) for name in shared if labels[name].iloc[0]]
    own = [name for name in labels if name not in shared and (labels[name] != "").any()]
    rows = [frame.iloc[i] for positions in members for i in positions]
    metrics = list(dict.fromkeys((row["metric"], row["unit"]) for row in rows))
    lines = []
    for line, positions in enumerate(members):
        cells = {(row["metric"], row["unit"]): _cell(row) for _, row in frame.iloc[positions].iterrows()}
        values = [cells.get(metric, "") for metric in metrics]
        lines.append([str(labels[name].iloc[line]) for name in own] + values)
    columns = [_NAMES.get(name, name) for name in own] + [_metric(*metric) for metric in metrics]
    return Block(table, "; ".join(heading), columns, lines)


def _labels(row: pd.Series) -> dict[str, str]:
    """What names a line: identity columns, and each part of the setting on its own."""
    parts = setting_parts(row["setting"])
    sentence = {} if parts and row["table"] != "claims" else {"setting": row["setting"]}
    names = {name: row[name] for name in ("dataset", "split", "protocol", "arm", "model")}
    seeds = {"n_seeds": "" if pd.isna(row["n_seeds"]) else str(row["n_seeds"])}
    return names | (sentence or parts) | seeds


def _shared(name: str, value: str) -> str:
    plain = name in ("dataset", "split", "protocol", "model")
    return value if plain else f"{_NAMES.get(name, name)} {value}"


def metric_name(metric: str) -> str:
    """A metric's name as readers see it."""
    return _NAMES.get(metric, metric.replace("_", " "))


def _metric(metric: str, unit: str) -> str:
    name = metric_name(metric)
    return name if unit in _NO_UNIT else f"{name} ({_UNITS.get(unit, unit)})"


def _cell(row: pd.Series) -> str:
    text = _EMPTY if pd.isna(row["value"]) else _number(row["value"], row["unit"])
    if not pd.isna(row["ci_low"]):
        low, high = (_number(row[name], row["unit"]) for name in ("ci_low", "ci_high"))
        text += f" [{low}, {high}]"
    if not pd.isna(row["published"]):
        text += f" (published: {row['published']:g})"
    return text


def _number(value: float, unit: str) -> str:
    if unit in ("percent", "percentage points"):
        return f"{value:.1f}"
    if unit == "probability":
        return "<0.001" if value < 0.001 else f"{value:.3f}"
    if float(value).is_integer():
        return str(int(value))
    return f"{value:.4g}"
