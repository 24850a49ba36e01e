"""Rows of table `ablation` about studies that searched a space: every trial, how it ended, and what was chosen."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from dvfl.config import Choices, Config, FloatRange, IntRange
from dvfl.evaluate.statistics import Interval
from dvfl.files import required
from dvfl.networks import decides_network
from dvfl.paths import trials_path
from dvfl.plan import tune_trial
from dvfl.report.accuracy import Row, views
from dvfl.report.inputs import model_of, model_of_runs
from dvfl.report.results import mlflow_id, read_json
from dvfl.report.rows import in_percent, plain, setting

UNITS = {"latency_ms": "ms", "gmacs": "GMACs"}


def search_rows(config: Config, dataset: str, study: str) -> Iterator[Row]:
    """Of a finished trial top-1 on validation (percent), with its interval over groups, and what it cost; of a pruned
    one, where it was ended; of a failed one, that it failed."""
    tune = config.ablation.tune[study]
    for trial in read_trials(dataset, study).to_dict("records"):
        finished = trial["state"] == "complete"
        row = {
            "model": _model(config, dataset, study, trial),
            "arm": tune.arm,
            "setting": setting(
                views=views(config),
                study=study,
                subset="validation",
                trial=",".join(f"{_last(key)}={_short(trial[key])}" for key in tune.space if not _missing(trial[key])),
                number=trial["number"],
                state=trial["state"],
                epoch=None if finished or _missing(trial["last_epoch"]) else int(trial["last_epoch"]),
                interval="groups" if finished else None,
                chosen="yes" if trial["chosen"] else None,
            ),
            "n_seeds": 1,
            "run_ids": _run_id(trial["run"]) if finished else "",
        }
        if not finished:
            seen = None if _missing(trial["last_top1"]) else 100 * trial["last_top1"]
            yield row | {"metric": "top1_so_far", "unit": "percent", "value": seen}
            continue
        yield row | {"metric": "top1"} | in_percent(_interval(trial["run"]))
        for objective in tune.objectives[1:]:
            yield row | {"metric": objective, "unit": UNITS[objective], "value": trial[objective]}


def _model(config: Config, dataset: str, study: str, trial: Mapping[str, Any]) -> str:
    """The network of a trial, whose values may decide it."""
    tune = config.ablation.tune[study]
    role = config.arms[tune.arm].network
    if not any(decides_network(key, role) for key in (*tune.space, *tune.set)):
        return model_of(config, tune.arm)
    point = {key: _proposed(range, trial[key]) for key, range in tune.space.items() if not _missing(trial[key])}
    return model_of_runs(*tune_trial(config, dataset, study, point))


def _proposed(range: FloatRange | IntRange | Choices, value: Any) -> Any:
    """A value as it was proposed: a column of a CSV file has one type."""
    if isinstance(range, Choices):
        return next((choice for choice in range.choices if choice == value or str(choice) == str(value)), value)
    return int(value) if isinstance(range, IntRange) else float(value)


def read_trials(dataset: str, study: str) -> pd.DataFrame:
    """trials.csv: one row a trial."""
    return pd.read_csv(required(trials_path(dataset, study)))


def _interval(run: str) -> Interval:
    top1 = read_json(Path(run) / "scores.json")["metrics"]["top1"]
    return Interval(*(top1[key] for key in ("value", "ci_low", "ci_high")))


def _run_id(run: str) -> str:
    record = Path(run) / "run.json"
    return mlflow_id(record, read_json(record))


def _last(key: str) -> str:
    return key.split(".")[-1]


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else plain(value)


def _missing(value: Any) -> bool:
    return bool(pd.isna(value))
