"""Accuracy against size and against compute: what a point of accuracy costs."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from dvfl.config import Config
from dvfl.networks import profile_names
from dvfl.report import style
from dvfl.report.accuracy import shown_splits
from dvfl.report.inputs import TABLES
from dvfl.report.results import read_index
from dvfl.report.rows import select
from dvfl.report.tables import read_table

_LABELS = {
    "params": "parameters (million, log scale)",
    "gmacs": "GMACs of one view (log scale)",
    "latency_ms": "latency (ms)",
}
_LARGEST = 900.0  # area of the largest bubble, square points
_APART = 1.06  # arms of one model stand side by side, this factor apart


def data(config: Config) -> pd.DataFrame:
    """dataset, split, arm, model, top1, ci_low, ci_high, chance (percent), params (million), gmacs, latency_ms.

    One row per arm; where a data set has several splits, their mean. Cost is that of the very network that the arm
    trains on the data set, at its own input size.
    """
    accuracy = select(read_table(TABLES / "accuracy.csv"), metric="top1")
    efficiency = read_table(TABLES / "efficiency.csv")
    summed_up = [split in shown_splits(config, dataset) for dataset, split in accuracy[["dataset", "split"]].to_numpy()]
    shown = accuracy.loc[summed_up, ["dataset", "split", "arm", "model", "value", "ci_low", "ci_high"]]
    shown = shown.rename(columns={"value": "top1"}).reset_index(drop=True)
    classes = {dataset: read_index(dataset)["label"].nunique() for dataset in config.datasets}
    shown["chance"] = 100 / shown["dataset"].map(classes)
    names = profile_names(config)
    profiles = pd.Series([names[place] for place in zip(shown["dataset"], shown["arm"], strict=True)], dtype=object)
    for metric in _LABELS:
        of_profile = select(efficiency, metric=metric).drop_duplicates("model")
        shown[metric] = profiles.map(of_profile.set_index("model")["value"])
    return shown


def draw_accuracy_vs_params(frame: pd.DataFrame) -> Figure:
    return _draw(frame, "params", "gmacs")


def draw_accuracy_vs_gmacs(frame: pd.DataFrame) -> Figure:
    return _draw(frame, "gmacs", "latency_ms")


def _draw(frame: pd.DataFrame, x: str, size: str) -> Figure:
    """One panel per data set and split; the area of a bubble is `size`."""
    places = list(frame.groupby(["dataset", "split"], sort=False))
    columns = min(2, len(places))
    rows = -(-len(places) // columns)
    figure, axes = style.panels(rows, columns, 3.2, sharex=True, sharey=True)
    cells = axes.ravel()
    area = _LARGEST / frame[size].max()
    looks = style.looks(frame["arm"])
    for cell, ((dataset, split), rows_here) in zip(cells, places, strict=False):
        _panel(cell, rows_here, x, size, area, looks)
        cell.set_title(style.place(dataset, split))
        cell.set_xlabel(_LABELS[x])
    for cell in cells[len(places) :]:
        cell.set_visible(False)
    for row in axes:
        style.percent_axis(row[0], "top-1 on test (%)")
    arms = list(dict.fromkeys(frame["arm"]))
    marks = [Line2D([], [], color=looks[arm].color, marker=looks[arm].marker, linestyle="", label=arm) for arm in arms]
    name = _LABELS[size].split(" (log")[0].replace(" (million, log scale)", " (million)")
    sizes = sorted(frame[size].unique())
    shown = [sizes[0], sizes[-1]] if len(sizes) > 1 else sizes
    bubbles = [
        Line2D(
            [],
            [],
            marker="o",
            linestyle="",
            color="0.85",
            markeredgecolor="0.4",
            markersize=(area * value) ** 0.5,
            label=f"{value:.3g}",
        )
        for value in shown
    ]
    figure.legend(
        handles=marks,
        loc="outside right upper",
        title="arm\n(bar: 95 % interval;\narms of one model\nstand side by side)",
    )
    figure.legend(
        handles=bubbles,
        loc="outside right lower",
        title=f"area: {name}",
        labelspacing=2.9,
        handletextpad=2.2,
        borderpad=1.8,
    )
    return figure


def _panel(cell: Axes, rows: pd.DataFrame, x: str, size: str, area: float, looks: dict[str, style.Look]) -> None:
    for _, alike in rows.groupby(x, sort=False):
        middle = (len(alike) - 1) / 2
        for position, row in enumerate(alike.itertuples()):
            look = looks[row.arm]
            at = getattr(row, x) * _APART ** (position - middle)
            bubble = {"s": area * getattr(row, size), "color": look.color, "alpha": 0.2}
            cell.scatter(at, row.top1, linewidth=0, **bubble)
            error = [[row.top1 - row.ci_low], [row.ci_high - row.top1]]
            cell.errorbar(at, row.top1, error, color=look.color, marker=look.marker, capsize=2)
    cell.axhline(rows["chance"].iloc[0], color="0.4", linestyle=":", linewidth=1)
    cell.annotate(
        "chance",
        (1, rows["chance"].iloc[0]),
        xycoords=("axes fraction", "data"),
        xytext=(-2, -2),
        textcoords="offset points",
        ha="right",
        va="top",
        color="0.3",
        fontsize="small",
    )
    cell.set_xscale("log")
    low, high = rows[x].min(), rows[x].max()
    cell.set_xlim(low / 2, high * 2)
    cell.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    cell.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    cell.xaxis.set_minor_locator(NullLocator())
