"""Optuna's own pictures of a study that searched a space, at the size and in the type of the other figures."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import numpy as np
import optuna
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from optuna.exceptions import ExperimentalWarning
from optuna.importance import FanovaImportanceEvaluator
from optuna.trial import TrialState, create_trial
from optuna.visualization import matplotlib as pictures

from dvfl.ablate.tune import by_slot, load_finished
from dvfl.config import Config
from dvfl.report import style
from dvfl.report.inputs import FIGURES

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
    return _DRAWN[picture](study, objectives)


def _target(objectives: list[str]) -> dict[str, object]:
    """Of two objectives, accuracy is the one that is drawn."""
    target = None if len(objectives) == 1 else lambda trial: trial.values[0]
    return {"target": target, "target_name": LABELS[objectives[0]]}


def _history(study: optuna.Study, objectives: list[str]) -> Figure:
    return _restyled(pictures.plot_optimization_history(study, **_target(objectives)), 3.0)


def _importance(study: optuna.Study, objectives: list[str]) -> Figure:
    axes = pictures.plot_param_importances(study, evaluator=FanovaImportanceEvaluator(seed=0), **_target(objectives))
    return _restyled(axes, 2.6)


def _slice(study: optuna.Study, objectives: list[str]) -> Figure:
    return _restyled(pictures.plot_slice(study, **_target(objectives)), 3.0)


def _contour(study: optuna.Study, objectives: list[str]) -> Figure:
    return _restyled(pictures.plot_contour(study, **_target(objectives)), 7.2)


def _parallel(study: optuna.Study, objectives: list[str]) -> Figure:
    return _restyled(pictures.plot_parallel_coordinate(study, **_target(objectives)), 3.6)


def _intermediate(study: optuna.Study, objectives: list[str]) -> Figure:
    return _restyled(pictures.plot_intermediate_values(study), 3.4)


def _pareto(study: optuna.Study, objectives: list[str]) -> Figure:
    axes = pictures.plot_pareto_front(study, target_names=[LABELS[objective] for objective in objectives])
    return _restyled(axes, 3.4)


_DRAWN: dict[str, Callable[[optuna.Study, list[str]], Figure]] = {
    "history": _history,
    "importance": _importance,
    "slice": _slice,
    "contour": _contour,
    "parallel": _parallel,
    "intermediate": _intermediate,
    "pareto": _pareto,
}


def _restyled(axes: Axes | np.ndarray, height: float) -> Figure:
    """The figure of Optuna's axes at printed size, in the other figures' type."""
    figure = np.ravel(axes)[0].figure
    figure.set_size_inches(style.WIDTH, height)
    figure.set_layout_engine("constrained")
    return figure
