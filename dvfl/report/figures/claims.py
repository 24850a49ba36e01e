"""Published numbers and claims beside ours, and by name those that were not tested."""

from __future__ import annotations

import textwrap

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, NullLocator

from dvfl.config import Config
from dvfl.report import style
from dvfl.report.inputs import TABLES
from dvfl.report.layout import metric_name
from dvfl.report.published import ANY
from dvfl.report.rows import select
from dvfl.report.tables import read_table

# What is measured in each unit, and above what a claim without a number of its own puts it.
_UNITS = {
    "million": ("parameters (million, log scale)", np.nan),
    "ratio": ("teacher / student", 1.0),
    "percent": ("accuracy on test (%)", np.nan),
    "percentage points": ("gain of distillation (percentage points)", 0.0),
}
_LOOKS = {"reproduced": ("#0072B2", "o"), "not reproduced": ("#D55E00", "X")}
_ROW = 0.24  # inches
_LINE = 78  # characters of a line of names


def data(config: Config) -> pd.DataFrame:
    """The rows of table claims, with `verdict`, how their setting begins, and `above`, the bound that some claim."""
    claims = read_table(TABLES / "claims.csv")
    claims["verdict"] = claims["setting"].str.split(":").str[0]
    bounds = claims["unit"].map({unit: bound for unit, (_, bound) in _UNITS.items()})
    claims["above"] = bounds.where(claims["published"].isna())
    names = ["dataset", "split", "protocol", "model", "arm", "metric", "unit", "verdict"]
    return claims[[*names, "published", "above", "value", "ci_low", "ci_high"]]


def draw(frame: pd.DataFrame) -> Figure:
    """One panel for each unit that was tested, one row for each claim; below, what was not tested."""
    tested = frame[frame["value"].notna()]
    untested = frame[frame["value"].isna()]
    units = [(unit, select(tested, unit=unit)) for unit in _UNITS if (tested["unit"] == unit).any()]
    places = _names(untested)
    lines = sum(len(names) + 0.3 for _, names in places)
    heights = [0.75 + _ROW * len(rows) for _, rows in units] + ([0.35 + 0.16 * lines] if places else [])
    figure = Figure(figsize=(style.WIDTH, 0.4 + sum(heights)), layout="constrained")
    axes = figure.subplots(len(heights), 1, squeeze=False, height_ratios=heights)[:, 0]
    for cell, (unit, rows) in zip(axes, units, strict=False):
        _panel(cell, unit, rows)
    if places:
        _untested(axes[-1], places, len(untested), len(frame))
    marks = [Line2D([], [], color=color, marker=mark, ls="", label=name) for name, (color, mark) in _LOOKS.items()]
    published = {"color": "black", "markerfacecolor": "none", "ls": ""}
    marks.append(Line2D([], [], marker="D", label="published", **published))
    marks.append(Line2D([], [], marker=">", label="claimed to be above", **published))
    figure.legend(handles=marks, loc="outside upper center", ncols=len(marks))
    return figure


def _panel(cell: Axes, unit: str, rows: pd.DataFrame) -> None:
    for y, row in enumerate(rows.itertuples()):
        color, marker = _LOOKS[row.verdict]
        claimed, mark = (row.above, ">") if np.isnan(row.published) else (row.published, "D")
        cell.plot(claimed, y, marker=mark, markersize=8, color="black", markerfacecolor="none", zorder=3)
        cell.plot(row.value, y, marker=marker, color=color)
        if not np.isnan(row.ci_low):
            cell.hlines(y, row.ci_low, row.ci_high, color=color)
        text = f"{row.value:.3g}, {row.verdict}"
        cell.annotate(text, (1.01, y), xycoords=("axes fraction", "data"), va="center", color=color)
    label, _ = _UNITS[unit]
    cell.set_yticks(range(len(rows)), [_label(row) for row in rows.itertuples()])
    cell.set_ylim(len(rows) - 0.4, -0.6)
    cell.set_xlabel(label)
    if unit == "million":
        cell.set_xscale("log")
        cell.set_xticks(sorted(rows["published"].dropna().unique()))
        cell.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        cell.xaxis.set_minor_locator(NullLocator())
    elif unit == "ratio":
        cell.set_xlim(left=0)


def _label(row: tuple) -> str:
    """What a row is about: the models of sizes and ratios, else data set, split and arm."""
    if row.unit == "million":
        return row.model
    if row.unit == "ratio":
        return metric_name(row.metric)
    place = style.place(row.dataset, row.split)
    return place if row.unit == "percentage points" else f"{place}: {metric_name(row.metric)} of {row.arm}"


def _names(untested: pd.DataFrame) -> list[tuple[str, list[str]]]:
    """Data sets with the number of their untested claims, and lines that name these."""
    found = []
    for dataset, rows in untested.groupby("dataset", sort=False):
        metrics: dict[tuple[str, str], list[str]] = {}
        for (split, metric), alike in rows.groupby(["split", "metric"], sort=False):
            who = ", ".join(dict.fromkeys(alike["model" if dataset == ANY else "arm"]))
            metrics.setdefault((who, split), []).append(metric_name(metric))
        parts = [
            f"{' and '.join(names)} of {who}{f' ({split})' if split else ''}" for (who, split), names in metrics.items()
        ]
        found.append(
            (f"{'models' if dataset == ANY else dataset}: {len(rows)}", textwrap.wrap("; ".join(parts), _LINE))
        )
    return found


def _untested(cell: Axes, places: list[tuple[str, list[str]]], count: int, total: int) -> None:
    cell.set_title(f"{count} of {total} claims are not tested here", loc="left")
    cell.axis("off")
    y = 0.0
    for place, names in places:
        cell.text(-0.02, y, place, va="top", ha="right")
        cell.text(0.0, y, "\n".join(names), va="top")
        y += len(names) + 0.3
    cell.set(xlim=(0, 1), ylim=(y, 0))
