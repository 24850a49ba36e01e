"""Optuna's own pictures of a study that searched a space, at the size and in the type of the other figures."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence

import numpy as np
import optuna
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.category import StrCategoryFormatter, StrCategoryLocator
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, MaxNLocator, NullFormatter
from optuna.distributions import IntDistribution
from optuna.exceptions import ExperimentalWarning
from optuna.importance import FanovaImportanceEvaluator
from optuna.trial import TrialState, create_trial
from optuna.visualization import matplotlib as pictures

from dvfl.ablate.tune import by_slot, load_finished
from dvfl.config import Config
from dvfl.report import style
from dvfl.report.inputs import FIGURES

MOST = 4  # keys of a grid of contours; a row of slices has one more
LABELS = {"top1": "top-1 on validation (%)", "latency_ms": "latency (ms)", "gmacs": "multiply-adds (G)"}


def write_picture(config: Config, dataset: str, study: str, picture: str) -> None:
    """Writes <dataset>.<study>.<picture>.pdf and .png. Raises KeyError for a picture that there is none of."""
    found = as_shown(config, dataset, study)
    with style.style(), warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        style.save(
            draw(found, picture, config.ablation.tune[study].objectives), FIGURES / f"tune/{dataset}.{study}.{picture}"
        )


def as_shown(config: Config, dataset: str, study: str) -> optuna.Study:
    """The study's trials, once each, with short names of keys, accuracy in percent, and none that failed."""
    found = load_finished(dataset, study)
    shown = optuna.create_study(directions=found.directions)
    keys = list(config.ablation.tune[study].space)
    lasts = [key.split(".")[-1] for key in keys]
    names = {key: last if lasts.count(last) == 1 else key for key, last in zip(keys, lasts, strict=True)}
    for _, trial in sorted(by_slot(found).items()):
        if trial.state in (TrialState.COMPLETE, TrialState.PRUNED):
            values = [100 * trial.values[0], *trial.values[1:]] if trial.values else None
            shown.add_trial(
                create_trial(
                    state=trial.state,
                    values=values,
                    params={names[key]: value for key, value in trial.params.items()},
                    distributions={names[key]: value for key, value in trial.distributions.items()},
                    intermediate_values={step: 100 * top1 for step, top1 in trial.intermediate_values.items()},
                )
            )
    return shown


def draw(study: optuna.Study, picture: str, objectives: list[str]) -> Figure:
    """One of the pictures by its name in the workflow; a sentence where there are too few trials for it."""
    complete = study.get_trials(deepcopy=False, states=[TrialState.COMPLETE])
    if len(complete) < 2:
        return style.note(f"{picture}: needs two finished trials, and there are {len(complete)}")
    if picture == "pareto":
        axes = pictures.plot_pareto_front(study, target_names=[LABELS[each] for each in objectives])
        _legend_above(axes)
        return _restyled([axes], 3.4)
    return _DRAWN[picture](study if len(objectives) == 1 else _accuracy_of(study))


def _accuracy_of(study: optuna.Study) -> optuna.Study:
    """Of two objectives the first, which all pictures but the front are about."""
    alone = optuna.create_study(direction="maximize")
    for trial in study.get_trials(states=[TrialState.COMPLETE]):
        values = {"params": trial.params, "distributions": trial.distributions, "value": trial.values[0]}
        alone.add_trial(create_trial(**values))
    return alone


def _history(study: optuna.Study) -> Figure:
    axes = pictures.plot_optimization_history(study, target_name=LABELS["top1"])
    _legend_above(axes)
    return _restyled([axes], 3.0)


def _importance(study: optuna.Study) -> Figure:
    if _all_alike(study):
        return style.note("importance: all finished trials have the same accuracy, so no key matters")
    axes = pictures.plot_param_importances(study, evaluator=_evaluator(), target_name=LABELS["top1"])
    axes.get_legend().remove()
    return _restyled([axes], 0.9 + 0.3 * len(axes.patches))


def _slice(study: optuna.Study) -> Figure:
    ranked, whole = _ranked(study)[: MOST + 1], _whole(study)
    cells = np.atleast_1d(pictures.plot_slice(study, params=ranked, target_name=LABELS["top1"]))
    for cell in cells:
        _few_ticks(cell.xaxis, cell.get_xlabel() in whole)
        _slanted(cell)
        if isinstance(names := cell.xaxis.get_major_formatter(), StrCategoryFormatter):  # Optuna quotes them
            cell.set_xticks(list(names._units.values()), [name.strip("'") for name in names._units])
    return _restyled(cells, 3.0)


def _contour(study: optuna.Study) -> Figure:
    if len(ranked := _ranked(study)) < 2:
        return style.note("contour: needs two keys that all trials have, with more than one value each")
    cells = np.atleast_2d(pictures.plot_contour(study, params=ranked[:MOST], target_name=LABELS["top1"]))
    last, keys, whole = len(cells) - 1, sorted(ranked[:MOST]), _whole(study)  # Optuna draws them in this order
    for (row, column), cell in np.ndenumerate(cells):
        if last == 0:
            break
        _few_ticks(cell.xaxis, keys[column] in whole)
        _few_ticks(cell.yaxis, keys[row] in whole)
        _slanted(cell)
        # Cells share their axes, so names and values stand at the margin alone.
        cell.set_xlabel(cell.get_xlabel() if row == last else "")
        cell.set_ylabel(cell.get_ylabel() if column == 0 else "")
        cell.tick_params(labelbottom=row == last, labelleft=column == 0)
    return _restyled(cells, 6.2 if last else 4.0)


def _parallel(study: optuna.Study) -> Figure:
    axes = pictures.plot_parallel_coordinate(study, target_name=LABELS["top1"])
    for lines in axes.collections:  # the worst trials would be white on white
        lines.set_cmap(ListedColormap(lines.get_cmap()(np.linspace(0.25, 1, 256))))
    keys, whole = [label.get_text() for label in axes.get_xticklabels()][1:], _whole(study)
    upright = [each for each in axes.figure.axes if each is not axes and each.get_label() != "<colorbar>"]
    for key, each in zip(keys, upright, strict=True):
        each.spines["right"].set_visible(True)
        _few_ticks(each.yaxis, key in whole)
    _few_ticks(axes.yaxis)
    for label in axes.get_xticklabels():
        label.set(horizontalalignment="left", rotation_mode="anchor")
    for each in axes.figure.axes:
        each.grid(False)
        for label in each.get_yticklabels():
            label.set_bbox({"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 0.6})
    return _restyled([axes], 3.6)


def _intermediate(study: optuna.Study) -> Figure:
    axes = pictures.plot_intermediate_values(study)
    axes.set_xlabel("epoch")
    axes.set_ylabel(LABELS["top1"])
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))  # all may have been looked at but once
    if (legend := axes.get_legend()) is not None:  # dozens of trials would need more room than the curves
        legend.remove()
    return _restyled([axes], 3.0)


_DRAWN: dict[str, Callable[[optuna.Study], Figure]] = {
    "history": _history,
    "importance": _importance,
    "slice": _slice,
    "contour": _contour,
    "parallel": _parallel,
    "intermediate": _intermediate,
}


def _ranked(study: optuna.Study) -> list[str]:
    """Keys by how much they matter: of many, the last would be drawn too small to see."""
    if _all_alike(study):
        return sorted(study.best_trial.params)
    return list(optuna.importance.get_param_importances(study, evaluator=_evaluator()))


def _all_alike(study: optuna.Study) -> bool:
    return len({trial.value for trial in study.get_trials(deepcopy=False, states=[TrialState.COMPLETE])}) == 1


def _evaluator() -> FanovaImportanceEvaluator:
    return FanovaImportanceEvaluator(seed=0)  # its forest draws


def _legend_above(axes: Axes) -> None:
    """Trials may lie in any corner."""
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2)


def _whole(study: optuna.Study) -> set[str]:
    """Keys whose values are whole numbers."""
    trials = study.get_trials(deepcopy=False)
    return {key for trial in trials for key, of in trial.distributions.items() if isinstance(of, IntDistribution)}


def _few_ticks(axis: Axis, whole: bool = False) -> None:
    """Ticks that do not run into each other in a small cell; names of choices stay, all of them."""
    if axis.get_scale() == "log":
        low, high = sorted(axis.get_view_interval())
        subs = (1.0,) if high / low > 1000 else (1.0, 3.0)
        axis.set_major_locator(LogLocator(subs=subs, numticks=6))
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axis.set_minor_formatter(NullFormatter())
    elif not isinstance(axis.get_major_locator(), FixedLocator | StrCategoryLocator):
        axis.set_major_locator(MaxNLocator(4, integer=whole))


def _slanted(cell: Axes) -> None:
    cell.tick_params(axis="x", labelrotation=40)
    for label in cell.get_xticklabels():
        label.set_horizontalalignment("right")
        label.set_rotation_mode("anchor")


def _restyled(axes: Sequence[Axes] | np.ndarray, height: float) -> Figure:
    """The figure of Optuna's axes at printed size, in the other figures' type."""
    figure = np.ravel(np.asarray(axes, dtype=object))[0].figure
    figure.set_size_inches(style.WIDTH, height)
    figure.set_layout_engine("constrained")
    if figure._suptitle is not None:
        figure.suptitle("")
    for each in figure.axes:
        for side in ("left", "center", "right"):
            each.set_title("", loc=side)
        each.set_facecolor("white")
        each.tick_params(colors="black", labelsize=style.RC["xtick.labelsize"])
        for text in (each.xaxis.label, each.yaxis.label, *each.texts):
            text.set(fontsize=style.RC["axes.labelsize"], color="black")
        for line in (*each.get_xgridlines(), *each.get_ygridlines()):
            line.set(color=style.RC["grid.color"], linewidth=style.RC["grid.linewidth"])
        for side in ("left", "bottom"):
            each.spines[side].set(visible=True, color="black", linewidth=0.8)
    return figure
