"""Which classes are taken for which, by teacher, student and distilled."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage

from dvfl.config import Config
from dvfl.plan import final_runs
from dvfl.report import style
from dvfl.report.contrasts import main_arms
from dvfl.report.results import read_scores

_ALL_UP_TO = 20  # classes; beyond, labels could not be read
_MOST_CONFUSED = 15
_OTHER = "any other class"


def data(config: Config) -> pd.DataFrame:
    """dataset, split, arm, label, predicted (class names), clips; summed over the seeds and the splits.

    Every pair of classes is there, in the order of the labels, arms in the order of the panels.
    """
    frames = []
    for dataset in config.datasets:
        splits = config.dataset_definitions[dataset].splits
        for arm in main_arms(config):
            runs = [run for run in final_runs(config) if (run.dataset, run.arm) == (dataset, arm)]
            scores = [read_scores(run) for run in runs]
            classes = scores[0]["classes"]
            counts = np.sum([each["confusion"] for each in scores], axis=0)
            frames.append(
                pd.DataFrame(
                    {
                        "dataset": dataset,
                        "split": splits[0] if len(splits) == 1 else f"{len(splits)} splits",
                        "arm": arm,
                        "label": np.repeat(classes, len(classes)),
                        "predicted": np.tile(classes, len(classes)),
                        "clips": counts.ravel(),
                    }
                )
            )
    return pd.concat(frames, ignore_index=True)


def draw(frame: pd.DataFrame) -> Figure:
    """One row per data set, one panel per arm: the share of a class's clips, percent."""
    places = list(frame.groupby(["dataset", "split"], sort=False))
    arms = list(dict.fromkeys(frame["arm"]))
    figure, axes = style.panels(len(places), len(arms), 3.2, sharey="row")
    # The cells are square: `compressed` takes out the room that this leaves.
    figure.set_layout_engine("compressed")
    image = None
    for row, ((dataset, split), here) in zip(axes, places, strict=True):
        classes = list(dict.fromkeys(here["label"]))
        counts = {arm: _counts(here[here["arm"] == arm], classes) for arm in arms}
        shown = most_confused(sum(counts.values()), classes)
        for cell, arm in zip(row, arms, strict=True):
            image = _panel(cell, _shares(counts[arm], classes, shown))
            cell.set_title(arm)
            cell.set_xlabel("predicted class")
        label = f"{style.place(dataset, split)}: true class"
        if len(shown) < len(classes):
            label += f"\n({len(shown)} most confused of {len(classes)})"
        row[0].set_ylabel(label)
    figure.colorbar(image, ax=axes, label="share of the true class's clips (%)")
    return figure


def most_confused(counts: pd.DataFrame, classes: list[str]) -> list[str]:
    """All classes if they are few; else those of the largest confusions, in the order of labels."""
    if len(classes) <= _ALL_UP_TO:
        return classes
    wrong = counts.to_numpy(copy=True)
    np.fill_diagonal(wrong, 0)
    found: dict[int, None] = {}
    # Stable: among equal confusions the earlier labels come first, on every machine.
    for cell in np.argsort(-wrong.ravel(), kind="stable"):
        pair = divmod(int(cell), len(classes))
        if len(found.keys() | set(pair)) > _MOST_CONFUSED:
            break
        found |= dict.fromkeys(pair)
    return [classes[label] for label in sorted(found)]


def _counts(frame: pd.DataFrame, classes: list[str]) -> pd.DataFrame:
    wide = frame.pivot(index="label", columns="predicted", values="clips")
    return wide.reindex(index=classes, columns=classes)


def _shares(counts: pd.DataFrame, classes: list[str], shown: list[str]) -> pd.DataFrame:
    """Percent of each true class's clips; predictions outside the shown classes are one column."""
    shares = 100 * counts.div(counts.sum(axis=1), axis=0)
    picked = shares.loc[shown, shown]
    if len(shown) < len(classes):
        picked = picked.assign(**{_OTHER: shares.loc[shown].sum(axis=1) - picked.sum(axis=1)})
    return picked


def _panel(cell: Axes, shares: pd.DataFrame) -> AxesImage:
    image = cell.imshow(shares, cmap="Blues", vmin=0, vmax=100, aspect="equal")
    cell.set_xticks(range(shares.shape[1]), map(style.shorten, shares.columns), rotation=90)
    cell.set_yticks(range(shares.shape[0]), map(style.shorten, shares.index))
    cell.grid(visible=False)
    cell.tick_params(length=0)
    return image
