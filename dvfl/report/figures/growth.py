"""How time and memory grow with frames, resolution, batch and clips: points, and the power law through them."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from dvfl.config import Config
from dvfl.report import style
from dvfl.report.growth import FITTED, points, power_law
from dvfl.report.inputs import TABLES
from dvfl.report.rows import select
from dvfl.report.tables import read_table

_COLUMNS = {
    "cpu_seconds": ("CPU time", "s (log scale)"),
    "peak_memory_increase_mb": ("memory that the peak adds", "MB (log scale)"),
}
_SIZES = {
    "frames": "frames of a clip (log scale)",
    "resolution": "height and width, pixels (log scale)",
    "batch": "clips in a batch (log scale)",
    "clips": "clips of the data set (log scale)",
}
_LOOKS = {
    "forward": ("forward pass", style.looks(["student"])["student"]),
    "step": ("training step", style.looks(["distilled"])["distilled"]),
    "split": ("split", style.looks(["student"])["student"]),
    "index": ("index", style.looks(["distilled"])["distilled"]),
}


def data(config: Config) -> pd.DataFrame:
    """One row per point: along, work, size, metric, value, and `law`, the cost that the power law has there."""
    frame = points(read_table(TABLES / "growth.csv"))
    frame = frame[frame["metric"].isin(list(FITTED))].reset_index(drop=True)
    frame["law"] = np.nan
    for _, rows in frame.groupby(["along", "work", "metric"], sort=False):
        law = power_law(rows["size"], rows["value"])
        if law is not None:
            frame.loc[rows.index, "law"] = law.factor * rows["size"] ** law.exponent
    return frame


def draw(frame: pd.DataFrame) -> Figure:
    """A row per size that grows; left time, right memory."""
    sizes = list(dict.fromkeys(frame["along"]))
    figure, axes = style.panels(len(sizes), len(_COLUMNS), 1.9)
    for row, along in zip(axes, sizes, strict=True):
        for cell, (metric, (title, unit)) in zip(row, _COLUMNS.items(), strict=True):
            _panel(cell, select(frame, along=along, metric=metric))
            cell.set_title(title if along == sizes[0] else "")
            cell.set_xlabel(_SIZES[along])
            cell.set_ylabel(unit)
    return figure


def _panel(cell: Axes, frame: pd.DataFrame) -> None:
    for work, rows in frame.groupby("work", sort=False):
        name, look = _LOOKS[work]
        rows = rows[rows["value"] > 0].sort_values("size")
        law = power_law(rows["size"], rows["value"])
        label = f"{name}: exponent {law.exponent:.2f} [{law.low:.2f}, {law.high:.2f}]" if law else name
        cell.plot(rows["size"], rows["law"], color=look.color, linestyle=look.linestyle, linewidth=1)
        cell.plot(rows["size"], rows["value"], look.marker, color=look.color, label=label)
    cell.set_xscale("log")
    cell.set_yscale("log")
    low, high = cell.get_ylim()
    cell.set_ylim(low, high * (high / low) ** 0.45)  # room for the legend
    cell.legend(loc="upper left", borderpad=0.1, borderaxespad=0.2, labelspacing=0.2, handletextpad=0.2)
    sizes = sorted(set(frame["size"]))
    shown = sizes if sizes[-1] < 1000 else [size for size in sizes if np.log10(size) % 1 == 0]
    cell.xaxis.set_major_locator(FixedLocator(shown))
    cell.xaxis.set_major_formatter(FuncFormatter(lambda size, _: f"{size:,g}"))
    cell.xaxis.set_minor_locator(NullLocator())
    cell.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    cell.yaxis.set_minor_locator(NullLocator())
