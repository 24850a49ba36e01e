"""How training went: the losses and the accuracy on training clips, epoch by epoch."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from dvfl.config import Config
from dvfl.plan import final_runs
from dvfl.report import style
from dvfl.report.results import read_history

_QUANTITIES = {
    "loss": "loss, all parts weighed",
    "loss_ce": "cross-entropy",
    "loss_kd": "divergence from the teacher",
    "loss_features": "distance from the teacher's modulators",
    "train_top1": "accuracy on training clips",
    "val_top1": "accuracy on validation",
}


def data(config: Config) -> pd.DataFrame:
    """dataset, split, arm, seed, epoch, quantity, value; accuracies in percent; the final runs."""
    frames = []
    for run in final_runs(config):
        history = read_history(run)
        wide = history[["epoch", *(name for name in _QUANTITIES if name in history)]]
        long = wide.melt("epoch", var_name="quantity").dropna()
        long["value"] *= long["quantity"].str.endswith("top1").map({True: 100, False: 1})
        keys = {"dataset": run.dataset, "split": run.split, "arm": run.arm, "seed": run.seed}
        frames.append(long.assign(**keys)[[*keys, "epoch", "quantity", "value"]])
    return pd.concat(frames, ignore_index=True)


def draw(frame: pd.DataFrame) -> Figure:
    """A row of panels per data set and split: thin lines are seeds, thick ones their mean."""
    quantities = [name for name in _QUANTITIES if (frame["quantity"] == name).any()]
    places = list(frame.groupby(["dataset", "split"], sort=False))
    per_place = -(-len(quantities) // 2)
    figure, axes = style.panels(len(places) * per_place, 2, 2.1)
    cells = axes.ravel()
    looks = style.looks(frame["arm"])
    for number, ((dataset, split), here) in enumerate(places):
        own = cells[2 * per_place * number : 2 * per_place * (number + 1)]
        for cell, quantity in zip(own, quantities, strict=False):
            _panel(cell, here[here["quantity"] == quantity], looks)
            cell.set_title(f"{style.place(dataset, split)}: {_QUANTITIES[quantity]}")
            cell.set_xlabel("epoch")
            if quantity.endswith("top1"):
                style.percent_axis(cell, "top-1 (%)")
            else:
                cell.set_ylim(bottom=min(0, cell.get_ylim()[0]))
                cell.set_ylabel("" if quantity == "loss_features" else "nats")
        for cell in own[len(quantities) :]:
            cell.set_visible(False)
    lines = [
        Line2D([], [], color=looks[arm].color, linestyle=looks[arm].linestyle, label=arm)
        for arm in dict.fromkeys(frame["arm"])
    ]
    title = "thick: mean over seeds, thin: each seed"
    figure.legend(handles=lines, loc="outside upper center", ncols=len(lines), title=title)
    return figure


def _panel(cell: Axes, frame: pd.DataFrame, looks: dict[str, style.Look]) -> None:
    for arm, of_arm in frame.groupby("arm", sort=False):
        look = looks[str(arm)]
        by_seed = of_arm.pivot(index="epoch", columns="seed", values="value")
        if by_seed.shape[1] > 1:
            cell.plot(by_seed.index, by_seed, color=look.color, linewidth=0.5, alpha=0.4)
        mean = by_seed.mean(axis=1)
        cell.plot(mean.index, mean, color=look.color, linestyle=look.linestyle)
