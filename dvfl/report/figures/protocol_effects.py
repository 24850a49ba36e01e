"""Forest plot: what each difference of the released code does to the accuracy, alone."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dvfl.config import Config
from dvfl.report import style
from dvfl.report.inputs import TABLES
from dvfl.report.protocol_effects import ALPHA, effects
from dvfl.report.tables import read_table


def data(config: Config) -> pd.DataFrame:
    """One row per data set and finding: the difference in points, its interval, its Holm-adjusted p value."""
    return effects(read_table(TABLES / "protocol_effects.csv"))


def draw(frame: pd.DataFrame) -> Figure:
    """A panel per data set, a line per finding; filled where the corrected test shows one, on the same clips."""
    places = list(frame.groupby("dataset", sort=False))
    lines = max(len(here) for _, here in places)
    figure, axes = style.panels(len(places), 1, 0.8 + 0.28 * lines)
    for cell, (dataset, here) in zip(axes[:, 0], places, strict=True):
        _panel(cell, here)
        cell.set_title(dataset)
    axes[-1, 0].set_xlabel("as released − as described, top-1 on test (percentage points); p after Holm's correction")
    return figure


def _panel(cell: Axes, frame: pd.DataFrame) -> None:
    look = style.looks(["distilled"])["distilled"]
    for position, row in enumerate(frame.itertuples()):
        error = [[row.value - row.ci_low], [row.ci_high - row.value]]
        same_split = pd.isna(row.against_split)
        marker, fill = ("o" if same_split else "D"), (look.color if row.p_holm <= ALPHA and same_split else "white")
        cell.errorbar(row.value, position, xerr=error, fmt=marker, color=look.color, mfc=fill, capsize=2)
        p_value = "p < 0.001" if row.p_holm < 0.001 else f"p = {row.p_holm:.3f}"
        cell.text(1.01, position, p_value, transform=cell.get_yaxis_transform(), va="center")
    names = [
        f"{row.finding} ({row.arm}{'' if pd.isna(row.against_split) else ', other clips'})"
        for row in frame.itertuples()
    ]
    cell.set_yticks(range(len(frame)), names)
    cell.set_ylim(len(frame) - 0.5, -0.5)
    cell.axvline(0, color="black", linewidth=0.8)
    cell.grid(visible=False, axis="y")
