"""Table `growth`: what was measured at each size, and the exponents of the power laws through it.

Cost ~ size^exponent is a straight line in logarithms; its slope is fitted by least squares. The interval is that of the
slope (95 %, Student's t), so it covers how far the points lie off a line: where a fixed cost bends them it is wide, and
the slope between the two largest sizes says where the cost is going.

Not among the tables that every run makes: measuring is a target of its own.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from dvfl.report.rows import setting, setting_parts, table_frame

# Metrics that a law is fitted to, and units.
FITTED = {"cpu_seconds": "s", "peak_memory_increase_mb": "MB"}
_MEASURED = {"cpu_seconds": "s", "seconds": "s", "peak_memory_mb": "MB", "peak_memory_increase_mb": "MB"}


@dataclass(frozen=True)
class PowerLaw:
    """cost = factor * size^exponent; low..high: its 95 % interval; at_end: its value between the two largest."""

    factor: float
    exponent: float
    low: float
    high: float
    at_end: float
    points: int


def power_law(sizes: Sequence[float], costs: Sequence[float]) -> PowerLaw | None:
    """The law through the points whose cost is above 0; None where fewer than three are."""
    from scipy import stats

    points = sorted((size, cost) for size, cost in zip(sizes, costs, strict=True) if cost > 0)
    if len(points) < 3:
        return None
    x, y = np.log(points).T
    line = stats.linregress(x, y)
    off = stats.t.ppf(0.975, len(points) - 2) * line.stderr
    at_end = (y[-1] - y[-2]) / (x[-1] - x[-2])
    return PowerLaw(math.exp(line.intercept), line.slope, line.slope - off, line.slope + off, at_end, len(points))


def build_growth(rows: Sequence[Mapping[str, Any]], about: Mapping[str, Any]) -> pd.DataFrame:
    """The table of what `dvfl.bench.growth.measure_growth` found; `about`: further parts of every setting."""
    return table_frame("growth", [*_exponent_rows(rows, about), *_point_rows(rows, about)])


def _point_rows(rows: Sequence[Mapping[str, Any]], about: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    for row in rows:
        named = _named(row) | {"setting": _setting(row, about, size=row["size"])}
        for metric, unit in _MEASURED.items():
            yield named | {"metric": metric, "unit": unit, "value": row[metric]}


def _exponent_rows(rows: Sequence[Mapping[str, Any]], about: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    for _, alike in pd.DataFrame(rows).groupby(["along", "work"], sort=False):
        row = alike.iloc[0].to_dict()
        measured = alike.loc[alike["cpu_seconds"].notna(), "size"]
        span = f"{measured.min()}..{measured.max()}"
        named = _named(row) | {"setting": _setting(row, about, size=span)}
        for metric in FITTED:
            law = power_law(alike["size"], alike[metric])
            if law is not None:
                interval = {"value": law.exponent, "ci_low": law.low, "ci_high": law.high}
                yield named | {"metric": f"{metric}_exponent", "unit": ""} | interval
                yield named | {"metric": f"{metric}_exponent_at_end", "unit": "", "value": law.at_end}


def _named(row: Mapping[str, Any]) -> dict[str, str]:
    return {"model": "" if row["clips"] else row["model"]}


def _setting(row: Mapping[str, Any], about: Mapping[str, Any], size: Any) -> str:
    """What was done, along which size and at which, and what the other sizes were."""
    parts = {"work": row["work"], "along": row["along"], "size": size}
    if not row["clips"]:
        height = "*" if row["along"] == "resolution" else row["img_size"]
        frames = "*" if row["along"] == "frames" else row["frames"]
        parts |= {"input": f"{frames}x{height}x{height}", "batch": "*" if row["along"] == "batch" else row["batch"]}
        parts |= {"precision": row["precision"]}
    return setting(**parts, threads=row["threads"], **about)


def points(table: pd.DataFrame) -> pd.DataFrame:
    """What was measured, out of the table: along, work, size, metric, value."""
    measured = table[table["metric"].isin(list(_MEASURED))]
    parts = measured["setting"].map(setting_parts)
    named = {key: parts.str.get(key) for key in ("along", "work", "size")}
    frame = measured.assign(**named)[["along", "work", "size", "metric", "value"]]
    return frame.astype({"size": "int64"}).reset_index(drop=True)
