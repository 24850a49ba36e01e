"""Validation accuracy over alpha and temperature, and which of them was chosen."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from dvfl.ablate.trials import study_trials
from dvfl.config import Config
from dvfl.report import style
from dvfl.report.inputs import TABLES
from dvfl.report.rows import select, setting_parts
from dvfl.report.tables import read_table

ALPHA, TEMPERATURE = "distill.alpha", "distill.temperature"
_COLUMNS = ["dataset", "split", "arm", "study", "subset", "trial", "alpha", "temperature"]
_VALUES = ["top1", "ci_low", "ci_high", "n_seeds", "chosen"]


def data(config: Config) -> pd.DataFrame:
    """One row per trial: top1 with interval (percent); alpha = 0 has no temperature.

    Empty if the tables include no study of both alpha and temperature.
    """
    study = next((name for name in config.ablation.run_studies if _is_grid(config.ablation.studies[name].grid)), None)
    if study is None:
        return pd.DataFrame(columns=_COLUMNS + _VALUES)
    trials = study_trials(config.ablation.studies[study])
    records = []
    table = select(read_table(TABLES / "ablation.csv"), metric="top1")
    for row in table.to_dict("records"):
        parts = setting_parts(row["setting"])
        if parts["study"] != study:
            continue
        point = trials[parts["trial"]]
        records.append(
            {key: row[key] for key in ("dataset", "split", "arm", "ci_low", "ci_high", "n_seeds")}
            | {key: parts[key] for key in ("study", "subset", "trial")}
            | {
                "alpha": point[ALPHA],
                "temperature": point.get(TEMPERATURE, np.nan),
                "top1": row["value"],
                "chosen": parts.get("chosen") == "yes",
            }
        )
    return pd.DataFrame(records, columns=_COLUMNS + _VALUES)


def draw(frame: pd.DataFrame) -> Figure:
    """A heat map per data set and arm; the frame marks the choice, alpha = 0 stands beside."""
    if frame.empty:
        return style.note("not run: no study of distill.alpha and distill.temperature")
    places = list(frame.groupby(["dataset", "split", "arm"], sort=False))
    # Numbers of 8 points need half an inch of width.
    columns = min(2 if frame["temperature"].nunique() <= 4 else 1, len(places))
    figure, axes = style.panels(-(-len(places) // columns), columns, 3.0)
    cells = axes.ravel()
    low, high = frame["top1"].min(), frame["top1"].max()
    image = None
    for cell, ((dataset, split, arm), here) in zip(cells, places, strict=False):
        image = _panel(cell, here, low, high)
        baseline = here[here["alpha"] == 0]
        title = f"{style.place(dataset, split)}: {arm}"
        if not baseline.empty:
            at_zero = baseline.iloc[0]
            interval = f"[{at_zero['ci_low']:.0f}, {at_zero['ci_high']:.0f}]"
            title += f"\nα = 0, labels only: {at_zero['top1']:.1f} {interval}"
        cell.set_title(title)
    for cell in cells[len(places) :]:
        cell.set_visible(False)
    label = f"top-1 on {frame['subset'].iloc[0]} (%)"
    figure.colorbar(image, ax=axes, label=label, shrink=0.8)
    if frame["chosen"].any():
        figure.supxlabel("Brackets: 95 % interval. Framed: the values chosen.", fontsize=8)
    return figure


def _panel(cell: Axes, frame: pd.DataFrame, low: float, high: float) -> object:
    grid = frame.dropna(subset="temperature")
    alphas, temperatures = sorted(set(grid["alpha"])), sorted(set(grid["temperature"]))
    values = grid.pivot(index="alpha", columns="temperature", values="top1")
    image = cell.imshow(values, cmap="Blues", vmin=low, vmax=high, aspect="auto", origin="lower")
    dark = low + 0.6 * (high - low)  # from here on white text is the more readable
    for row in grid.itertuples():
        x, y = temperatures.index(row.temperature), alphas.index(row.alpha)
        text = f"{row.top1:.1f}\n[{row.ci_low:.0f}, {row.ci_high:.0f}]"
        colour = "white" if row.top1 > dark else "black"
        weight = "bold" if row.chosen else "normal"
        cell.text(x, y, text, ha="center", va="center", color=colour, weight=weight)
        if row.chosen:
            corner = (x - 0.47, y - 0.47)
            cell.add_patch(Rectangle(corner, 0.94, 0.94, fill=False, edgecolor="#D55E00", lw=2.5))
    cell.set_xticks(range(len(temperatures)), [f"{value:g}" for value in temperatures])
    cell.set_yticks(range(len(alphas)), [f"{value:g}" for value in alphas])
    cell.set_xlabel("temperature T")
    cell.set_ylabel("weight of the divergence α")
    cell.grid(visible=False)
    cell.tick_params(length=0)
    return image


def _is_grid(grid: dict[str, list]) -> bool:
    return set(grid) == {ALPHA, TEMPERATURE}
