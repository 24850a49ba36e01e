"""How the gain of distillation depends on the number of labelled clips."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from dvfl.ablate.trials import study_trials
from dvfl.config import Config
from dvfl.report import style
from dvfl.report.inputs import TABLES
from dvfl.report.rows import select, setting_parts
from dvfl.report.tables import read_table

_COLUMNS = ["dataset", "split", "arm", "metric", "study", "trial", "training_clips"]
_VALUES = ["value", "ci_low", "ci_high", "n_seeds"]


def data(config: Config) -> pd.DataFrame:
    """One row per point of the study and arm (metric top1, percent) or pair of arms (metric
    top1_difference, percentage points). Empty if the tables include no such study."""
    study = next((name for name in config.ablation.run_studies if _is_study(config, name)), None)
    if study is None:
        return pd.DataFrame(columns=_COLUMNS + _VALUES)
    table = read_table(TABLES / "ablation.csv")
    parts = table["setting"].map(setting_parts)
    table = table.assign(
        study=parts.map(lambda each: each.get("study")),
        trial=parts.map(lambda each: each.get("trial")),
    )
    table = select(table, study=study)
    clips = select(table, metric="training_clips")
    # Arms of a trial train on the same clips; a pair of arms, too.
    clips = clips.groupby(["dataset", "trial"], sort=False)["value"].first()
    shown = table[table["metric"].isin(["top1", "top1_difference"])]
    keys = pd.MultiIndex.from_frame(shown[["dataset", "trial"]])
    shown = shown.assign(training_clips=clips.reindex(keys).to_numpy())
    return shown[_COLUMNS + _VALUES].reset_index(drop=True)


def draw(frame: pd.DataFrame) -> Figure:
    """Left the arms, right their difference; one row per data set."""
    if frame.empty:
        return style.note("not run: no study of the number of labelled clips")
    places = list(frame.groupby(["dataset", "split"], sort=False))
    figure, axes = style.panels(len(places), 2, 2.8)
    looks = style.looks(frame["arm"])
    for (left, right), ((dataset, split), here) in zip(axes, places, strict=True):
        _lines(left, select(here, metric="top1"), looks)
        style.percent_axis(left, "top-1 on test (%)")
        _lines(right, select(here, metric="top1_difference"), looks)
        right.axhline(0, color="black", linewidth=0.8)
        right.set_ylabel("gain (percentage points)")
        for cell in (left, right):
            cell.set_title(style.place(dataset, split))
            cell.set_xlabel("labelled training clips of the student (log scale)")
    handles = [each for cell in axes[0] for each in cell.get_legend_handles_labels()[0]]
    figure.legend(handles=handles, loc="outside upper center", ncols=4, title="bars: 95 % intervals")
    return figure


def _lines(cell: Axes, frame: pd.DataFrame, looks: dict[str, style.Look]) -> None:
    arms = list(dict.fromkeys(frame["arm"]))
    for position, arm in enumerate(arms):
        rows = select(frame, arm=arm).sort_values("training_clips")
        # Intervals of two arms at one point stand side by side.
        at = rows["training_clips"] * 1.04 ** (position - (len(arms) - 1) / 2)
        error = [rows["value"] - rows["ci_low"], rows["ci_high"] - rows["value"]]
        look = looks[arm]
        options = {"color": look.color, "marker": look.marker, "linestyle": look.linestyle}
        cell.errorbar(at, rows["value"], error, capsize=2, label=arm, **options)
    cell.set_xscale("log")
    cell.xaxis.set_major_locator(FixedLocator(sorted(set(frame["training_clips"]))))
    cell.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    cell.xaxis.set_minor_locator(NullLocator())


def _is_study(config: Config, name: str) -> bool:
    """Whether the study's points differ in a number of labelled clips."""
    trials = study_trials(config.ablation.studies[name]).values()
    values = {str(v) for t in trials for k, v in t.items() if k.endswith(".clips_per_class")}
    return len(values) > 1
