"""What a training leaves: the network's weights, history.csv, and run.json, which says what made them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from torch import nn

from dvfl import plan
from dvfl.config import Config
from dvfl.data.clips import ClipDataset
from dvfl.files import atomic, sha256, write_json
from dvfl.models.pretrained import LoadReport
from dvfl.models.weights import NetworkDescription, save_weights
from dvfl.run import Run, RunSettings
from dvfl.train.inputs import key_of
from dvfl.train.loop import History, Recipe
from dvfl.train.provenance import code_version, package_versions


@dataclass(frozen=True)
class Learned:
    """What came out of a training, beside the weights."""

    history: History
    teacher_top1: float | None = None  # on the training clips
    targets_from: str | None = None  # "stored", say; None without a teacher
    taken_from: str | None = None  # the run that had trained the very same before, so that this one did not


@dataclass(frozen=True)
class Cost:
    """What a training took; processor time and memory of all its processes."""

    processes: int
    seconds: float
    cpu_seconds: float
    peak_memory_mb: float  # of the largest process


def write_record(
    config: Config,
    run: Run,
    settings: RunSettings,
    inputs: dict[str, str | None],
    chosen: dict[str, Any],
    *,
    model: nn.Module,
    description: NetworkDescription,
    loading: LoadReport | None,
    dataset: ClipDataset,
    recipe: Recipe,
    learned: Learned,
    cost: Cost,
    mlflow_run_id: str | None,  # None where MLflow has not been reached
) -> None:
    """Writes weights.safetensors and history.csv into the run's directory, then run.json, with the hashes of both."""
    directory, history, teacher = run.directory, learned.history, plan.teacher_of(config, run)
    save_weights(directory / "weights.safetensors", model, description)
    _write_history(directory / "history.csv", history)
    commit, dirty = code_version()
    write_json(
        directory / "run.json",
        {
            "name": run.name,
            "directory": str(run),
            **{key: getattr(run, key) for key in ("dataset", "split", "protocol", "arm", "seed", "stage")},
            **{key: getattr(run, key) for key in ("study", "trial")},
            "model": settings.network.model,
            "params": sum(parameter.numel() for parameter in model.parameters()),
            "mlflow_run_id": mlflow_run_id,
            "commit": commit,
            "dirty": dirty,
            "settings": settings.model_dump(mode="json"),
            "settings_digest": settings.digest,
            "key": key_of(settings, inputs),
            "inputs": inputs,
            "outputs": {name: sha256(directory / name) for name in ("weights.safetensors", "history.csv")},
            "teacher": str(teacher) if teacher else None,
            "chosen": chosen,
            "versions": package_versions(),
            "device": str(recipe.device),
            "processes": cost.processes,
            "threads": settings.train.threads,
            "precision": str(recipe.precision).removeprefix("torch."),
            "seconds": round(cost.seconds, 2),
            "training_seconds": 0 if learned.taken_from else round(sum(row["seconds"] for row in history), 2),
            "cpu_seconds": round(cost.cpu_seconds, 2),
            "peak_memory_mb": round(cost.peak_memory_mb, 1),
            "train_clips": len(dataset),
            "train_groups": len(set(dataset.groups)),
            "teacher_top1_on_training_clips": learned.teacher_top1,
            "teacher_targets": learned.targets_from,
            "loading": loading and loading.as_dict(),
            "taken_from": learned.taken_from,
            "reported_epoch": _reported_epoch(settings, history),
        },
    )


def _reported_epoch(settings: RunSettings, history: History) -> int | None:
    """The epoch (from 1) whose weights are the result; None where nothing was trained."""
    if not history or settings.train.report_epoch == "last":
        return int(history[-1]["epoch"]) if history else None
    column = "test_top1" if "test_top1" in history[0] else "val_top1"
    return int(max(history, key=lambda row: row[column])["epoch"])


def _write_history(path: Path, history: History) -> None:
    with atomic(path) as partial:
        frame = pd.DataFrame(history) if history else pd.DataFrame(columns=["epoch"])
        frame.to_csv(partial, index=False, lineterminator="\n")
