"""A study's trials in an Optuna storage, and what the study chooses.

Snakemake enumerates the trials, each one job; Optuna keeps the outcomes, for its own tools to look at.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import optuna
import pandas as pd
from filelock import FileLock
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial

from dvfl import plan
from dvfl.ablate.storage import database_errors, journal_path, open_storage
from dvfl.ablate.trials import study_trials
from dvfl.config import Config, ConfigError, StudyConfig
from dvfl.files import read_json, required
from dvfl.run import Run


def open_study(config: Config, dataset: str, study: str) -> optuna.Study:
    """The study in its storage; safe to open from several processes. Raises StorageError."""
    with database_errors(config):
        return optuna.create_study(
            storage=open_storage(config, dataset, study),
            study_name=f"{dataset}/{study}",
            direction="maximize",
            load_if_exists=True,
        )


def record_trial(config: Config, run: Run, value: float, intermediate: Mapping[int, float]) -> None:
    """Adds a finished trial: its value is top-1 on the subset that the study is evaluated on, as a fraction.

    A trial is known by its name, arm and seed; an earlier outcome of the same is replaced.
    """
    settings = config.ablation.studies[run.study]
    params = {key: _plain(value) for key, value in study_trials(settings)[run.trial].items()}
    trial = create_trial(
        state=TrialState.COMPLETE,
        params=params,
        distributions={key: _distribution(settings, key) for key in params},
        value=value,
        intermediate_values=dict(intermediate),
        user_attrs={"trial": run.trial, "arm": run.arm, "seed": run.seed, "run": str(run)},
    )
    path = journal_path(run.dataset, run.study)
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_suffix(".lock")), database_errors(config):
        study = open_study(config, run.dataset, run.study)
        others = [other for other in study.trials if other.user_attrs.get("run") != str(run)]
        if len(others) < len(study.trials):
            optuna.delete_study(study_name=study.study_name, storage=study._storage)
            study = open_study(config, run.dataset, run.study)
            study.add_trials(others)
        study.add_trial(trial)


def _plain(value: Any) -> Any:
    """Optuna keeps numbers and texts."""
    return value if isinstance(value, bool | int | float | str | None) else str(value)


def record_missing(config: Config, dataset: str, study: str) -> None:
    """Records finished trials that the storage lacks.

    A kill while a trial takes the place of its earlier outcome may cost the storage others; their files stand.
    """
    recorded = {trial.user_attrs["run"] for trial in recorded_trials(config, dataset, study)}
    for run in plan.trial_runs(config, dataset, study):
        if str(run) not in recorded:
            record_trial(config, run, top1(run), validation_curve(run))


def top1(run: Run) -> float:
    """On the subset that the trial was scored on, as a fraction."""
    return read_json(required(run.directory / "scores.json"))["metrics"]["top1"]["value"]


def validation_curve(run: Run) -> dict[int, float]:
    """Validation top-1 by epoch, as far as it was looked at."""
    history = pd.read_csv(run.directory / "history.csv")
    curve = history.set_index("epoch")["val_top1"].dropna() if "val_top1" in history else {}
    return {int(epoch): float(top1) for epoch, top1 in dict(curve).items()}


def recorded_trials(config: Config, dataset: str, study: str) -> list[FrozenTrial]:
    return open_study(config, dataset, study).trials


def _distribution(study: StudyConfig, key: str) -> BaseDistribution:
    """Range of a key over the study: numbers as a range, so that Optuna can draw them on an axis."""
    values = [_plain(point[key]) for point in study_trials(study).values() if key in point]
    if all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in values):
        return FloatDistribution(min(values), max(values))
    return CategoricalDistribution(values)


def choose(config: Config, dataset: str, study: str) -> dict[str, Any]:
    """What the study chooses: the values of the trial with the best mean validation top-1 over its seeds.

    Among trials that distil; the one without distillation is the baseline beside it. Ties go to the earlier trial.
    """
    if study in config.ablation.tune:
        from dvfl.ablate.tune import choose_trial

        return choose_trial(config, dataset, study)
    settings = config.ablation.studies[study]
    if settings.evaluate_on != "validation":
        raise ConfigError(f"ablation.studies.{study}: is evaluated on test, and test chooses nothing")
    points = study_trials(settings)
    scores: dict[str, list[float]] = {name: [] for name in points}
    for run in plan.trial_runs(config, dataset, study):
        scores[run.trial].append(top1(run))
    means = {name: round(sum(values) / len(values), 10) for name, values in scores.items()}
    candidates = [name for name, point in points.items() if point.get("distill.alpha", 1) > 0]
    best = max(candidates, key=means.__getitem__)
    baselines = [means[name] for name, point in points.items() if point.get("distill.alpha") == 0]
    return {
        "study": study,
        "metric": "top1",
        "subset": "validation",
        "trial": best,
        "values": points[best],
        "value": means[best],
        "baseline": baselines[0] if baselines else None,
        "seeds": settings.seeds,
        "trials": means,
    }
