"""What each split holds and leaks: clips of each class by subset, and test clips that stand in train."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from dvfl.config import Config
from dvfl.report import style
from dvfl.report.audit import audited, read_audit
from dvfl.report.rows import select

_SUBSETS = ("train", "validation", "test")
_LEAKS = {
    "test_leaked_by_source": "source",
    "test_leaked_by_bytes": "bytes",
    "test_leaked_by_pictures": "pictures",
}
_COLUMNS = ["dataset", "split", "metric", "subset", "class_name", "value"]


def data(config: Config) -> pd.DataFrame:
    """Clips (metric clips) of each class and subset, and of the leaks clips and percent of the test clips."""
    frames = []
    for dataset, split in audited(config):
        found = read_audit(dataset, split)
        of_class = (found["metric"] == "clips") & (found["class_name"] != "")
        leak = found["metric"].str.startswith("test_leaked_by_")
        frames.append(found[of_class | leak].assign(dataset=dataset, split=split)[_COLUMNS])
    return pd.concat(frames, ignore_index=True)


def draw(frame: pd.DataFrame) -> Figure:
    """Left the classes from the largest to the smallest, right the leaks; one row per data set and split."""
    places = list(frame.groupby(["dataset", "split"], sort=False))
    figure, axes = style.panels(len(places), 2, 2.2, width_ratios=(2, 1))
    for (left, right), ((dataset, split), here) in zip(axes, places, strict=True):
        _classes(left, select(here, metric="clips"))
        _leaks(right, here)
        left.set_title(style.place(dataset, split))
        right.set_title("test clips that stand in train")
    handles, labels = axes[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=len(_SUBSETS))
    return figure


def _classes(cell: Axes, frame: pd.DataFrame) -> None:
    sizes = frame.pivot(index="class_name", columns="subset", values="value").reindex(columns=list(_SUBSETS)).fillna(0)
    order = sizes.sum(axis=1).sort_values(ascending=False, kind="stable").index
    sizes = sizes.loc[order]
    below = pd.Series(0.0, sizes.index)
    for (subset, counts), look in zip(sizes.items(), style.looks(_SUBSETS).values(), strict=False):
        cell.bar(range(len(counts)), counts, bottom=below, width=1.0, color=look.color, label=subset, linewidth=0)
        below += counts
    cell.set_xlabel(f"{len(sizes)} classes, by number of clips")
    cell.set_ylabel("clips")
    cell.xaxis.set_major_locator(MaxNLocator(integer=True))


def _leaks(cell: Axes, frame: pd.DataFrame) -> None:
    """One bar for each way that was tested, with its number of clips."""
    shown = [metric for metric in _LEAKS if select(frame, metric=metric)["value"].notna().any()]
    counts = [select(frame, metric=metric)["value"].iloc[0] for metric in shown]
    shares = [select(frame, metric=f"{metric}_share")["value"].iloc[0] for metric in shown]
    bars = cell.barh([_LEAKS[metric] for metric in shown], shares, color="0.45")
    cell.bar_label(
        bars, [f"{count:.0f} clips ({share:.1f} %)" for count, share in zip(counts, shares, strict=True)], padding=2
    )
    cell.set_xlim(0, max(10.0, 1.8 * max(shares, default=0)))
    cell.set_xlabel("share of the test clips (%)")
    cell.invert_yaxis()
