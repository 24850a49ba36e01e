"""Reading what the runs left behind. A file that is not there is an error that names it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from dvfl.errors import UserError
from dvfl.files import required
from dvfl.paths import RESULTS, index_path, profile_path, split_path, study_directory
from dvfl.run import Run
from dvfl.track import outbox_directory, run_id


class ReportError(UserError):
    """A table or figure cannot be made; the message says which file or value is in the way."""


def read_record(run: Run) -> dict[str, Any]:
    """`run.json`: which code, settings and inputs made the run, and what it cost."""
    return read_json(run.directory / "run.json")


def read_scores(run: Run) -> dict[str, Any]:
    """`scores.json`: metrics (fractions) of the run's weights, with group-bootstrap intervals."""
    return read_json(run.directory / "scores.json")


def read_predictions(run: Run) -> pd.DataFrame:
    """clip_id, label, probabilities; sorted by clip_id, so that rows of two runs correspond."""
    path = required(run.directory / "predictions.parquet")
    return pd.read_parquet(path).sort_values("clip_id", ignore_index=True)


def read_history(run: Run) -> pd.DataFrame:
    """One row an epoch: learning rate, losses, accuracy on the training clips (fractions)."""
    return pd.read_csv(required(run.directory / "history.csv"))


def read_index(dataset: str) -> pd.DataFrame:
    """Every clip of a data set with its class, source group and status."""
    return pd.read_parquet(required(index_path(dataset)))


def read_split(dataset: str, split: str) -> pd.DataFrame:
    """clip_id and subset (train, validation, test)."""
    return pd.read_csv(required(split_path(dataset, split)))


def read_choice(dataset: str, study: str) -> dict[str, Any]:
    """What a study chose on validation."""
    return read_json(study_directory(dataset, study) / "choice.json")


def read_profile(name: str) -> dict[str, Any]:
    """Size, compute, time and memory of a network."""
    return read_json(profile_path(name))


def groups_of(dataset: str, clip_ids: pd.Series) -> np.ndarray:
    """The source of each clip; a clip without a group is a group of its own."""
    groups = read_index(dataset).set_index("clip_id")["group"].reindex(clip_ids)
    return groups.fillna(groups.index.to_series()).to_numpy()


def run_ids(runs: list[Run]) -> str:
    """MLflow ids of the runs in the order given, joined by ';'; empty where none was tracked."""
    ids = (mlflow_id(run.directory / "run.json", read_record(run)) for run in dict.fromkeys(runs))
    return ";".join(each for each in ids if each)


def profile_ids(names: list[str]) -> str:
    """The same of profiles."""
    ids = (mlflow_id(profile_path(name), read_profile(name)) for name in names)
    return ";".join(each for each in ids if each)


def mlflow_id(record: Path, about: dict[str, Any], results: Path = RESULTS) -> str:
    """MLflow's id of a run or a profile, whose `run.json` or JSON holds `about`.

    Where MLflow could not be reached when it was written, the id is where the outbox was delivered to since; empty as
    long as it was not. The record itself stays as it is: other files rest on it.
    """
    return about.get("mlflow_run_id") or run_id(outbox_of(record, about, results)) or ""


def outbox_of(record: Path, about: dict[str, Any], results: Path = RESULTS) -> Path:
    """Folder of the outboxes of a run or a profile; see `mlflow_id`."""
    made = record.parent if record.name == "run.json" else record.with_suffix("")
    return outbox_directory(made, about.get("key", ""), results)


def read_json(path: Path) -> dict[str, Any]:
    try:
        return json.loads(required(path).read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ReportError(f"{path} is not JSON ({error}); remove it and make it again") from error
