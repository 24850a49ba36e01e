"""Table `ablation`: every trial of the studies, what was chosen, and which differences hold."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import pandas as pd

from dvfl.ablate.trials import study_trials, trial_keys
from dvfl.config import Config, without_unread
from dvfl.evaluate.statistics import holm
from dvfl.plan import trial_runs
from dvfl.report.accuracy import Row, difference_rows, views
from dvfl.report.contrasts import contrasts, teachers_of
from dvfl.report.inputs import model_of_runs
from dvfl.report.measures import contrast, covers, metric_intervals
from dvfl.report.results import read_choice, read_record, run_ids
from dvfl.report.rows import in_percent, setting, table_frame
from dvfl.report.searches import search_rows
from dvfl.run import Run

NOISE = 0.05  # a Holm-adjusted p value below this is more than noise between seeds and groups

Trials = dict[tuple[str, str], list[Run]]  # (trial, arm) -> runs in the order of the seeds


def build_ablation(config: Config) -> pd.DataFrame:
    """Top-1 of each trial (percent), then contrasts to the reference and between arms, then the choice.

    A study is run on its data set's first split.
    """
    rows: list[Row] = []
    for dataset in config.datasets:
        split = config.dataset_definitions[dataset].splits[0]
        place = {"dataset": dataset, "split": split, "protocol": config.protocol}
        for study in config.ablation.run_studies:
            rows += [place | row for row in _study_rows(config, dataset, study)]
        for study in config.ablation.run_tune:
            rows += [
                place | row for row in (*search_rows(config, dataset, study), *_choice_rows(config, dataset, study))
            ]
    return table_frame("ablation", rows)


def runs_by_trial(config: Config, dataset: str, study: str) -> Trials:
    """Runs of a study, by trial and arm; a trial that is a final run is that run."""
    keys = trial_keys(config.ablation.studies[study])
    trials: Trials = {}
    for (trial, arm, _), run in zip(keys, trial_runs(config, dataset, study), strict=True):
        trials.setdefault((trial, arm), []).append(run)
    return trials


def reference_trial(config: Config, study: str) -> str | None:
    """The trial that the others of its arm are compared with: the study's reference, else the one with alpha = 0."""
    settings = config.ablation.studies[study]
    trials = study_trials(settings)
    if settings.reference is not None:
        point = without_unread(settings.reference)
        return next(name for name, each in trials.items() if each == point)
    return next((name for name, point in trials.items() if point.get("distill.alpha") == 0), None)


def chosen_trial(config: Config, dataset: str, study: str) -> str | None:
    """The trial that the study chose; None where it chooses nothing."""
    settings = config.ablation.studies[study]
    if settings.evaluate_on == "test":
        return None
    values = read_choice(dataset, study)["values"]
    return next((name for name, point in study_trials(settings).items() if point == values), None)


def _study_rows(config: Config, dataset: str, study: str) -> Iterator[Row]:
    trials = runs_by_trial(config, dataset, study)
    yield from _trial_rows(config, dataset, study, trials)
    yield from _reference_rows(config, study, trials)
    yield from _arm_contrast_rows(config, study, trials)
    yield from _choice_rows(config, dataset, study)


def _trial_rows(config: Config, dataset: str, study: str, trials: Trials) -> Iterator[Row]:
    chosen = chosen_trial(config, dataset, study)
    for (trial, arm), runs in trials.items():
        intervals, covered = metric_intervals(runs, config.evaluate.resamples)
        row = {
            "model": model_of_runs(config, runs[0]),
            "arm": arm,
            "setting": setting(
                **_where(config, study),
                trial=trial,
                interval=covered,
                teachers=teachers_of(config, runs),
                chosen="yes" if trial == chosen else None,
            ),
            "n_seeds": len(runs),
            "run_ids": run_ids(runs),
        }
        yield row | {"metric": "top1"} | in_percent(intervals["top1"])
        clips = [read_record(run)["train_clips"] for run in runs]
        mean = sum(clips) / len(clips)
        yield row | {"metric": "training_clips", "unit": "clips", "value": mean}


def _reference_rows(config: Config, study: str, trials: Trials) -> Iterator[Row]:
    """Each trial against the reference, all else equal; a difference holds where its Holm-adjusted p is below 5 %."""
    baseline = reference_trial(config, study)
    if baseline is None:
        return
    compared = []
    for (trial, arm), runs in trials.items():
        if trial != baseline:
            pairs = list(zip(runs, trials[baseline, arm], strict=True))
            compared.append((trial, arm, contrast(pairs).interval, pairs))
    contrasted = []
    adjusted = holm([interval.p_value for _, _, interval, _ in compared])
    for (trial, arm, interval, pairs), p_holm in zip(compared, adjusted, strict=True):
        row = {
            "model": model_of_runs(config, *pairs[0]),
            "arm": arm,
            "setting": setting(
                **_where(config, study),
                trial=trial,
                against=baseline,
                paired="seed",
                interval=covers(interval),
                test="t",
                teachers=teachers_of(config, [run for run, _ in pairs]),
                larger_than_noise="yes" if p_holm < NOISE else "no",
            ),
        }
        contrasted.append((row, interval, pairs))
    yield from difference_rows(contrasted)


def _arm_contrast_rows(config: Config, study: str, trials: Trials) -> Iterator[Row]:
    """The arms of a trial against each other, such as distilled - student at each point."""
    contrasted = []
    names = dict.fromkeys(trial for trial, _ in trials)
    arms = config.ablation.studies[study].arms
    for (arm, baseline), trial in itertools.product(contrasts(config, arms), names):
        pairs = list(zip(trials[trial, arm], trials[trial, baseline], strict=True))
        interval = contrast(pairs).interval
        row = {
            "model": model_of_runs(config, *pairs[0]),
            "arm": f"{arm} - {baseline}",
            "setting": setting(
                **_where(config, study),
                trial=trial,
                paired="seed",
                interval=covers(interval),
                test="t",
                teachers=teachers_of(config, [run for pair in pairs for run in pair]),
            ),
        }
        contrasted.append((row, interval, pairs))
    yield from difference_rows(contrasted)


def _choice_rows(config: Config, dataset: str, study: str) -> Iterator[Row]:
    """The chosen values that are numbers, one row each."""
    if study in config.ablation.tune:
        arms = config.ablation.tune[study].arm
    else:
        if config.ablation.studies[study].evaluate_on == "test":
            return
        arms = ", ".join(config.ablation.studies[study].arms)
    for key, value in read_choice(dataset, study)["values"].items():
        if isinstance(value, int | float):
            name = f"chosen_{key.split('.')[-1]}"
            where = setting(study=study, subset="validation")
            yield {"arm": arms, "setting": where, "metric": name, "unit": "", "value": value}


def _where(config: Config, study: str) -> dict[str, Any]:
    subset = config.ablation.studies[study].evaluate_on
    return {"views": views(config), "study": study, "subset": subset}
