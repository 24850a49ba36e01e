"""What a run reads: its settings with what studies chose, its files, its clips."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from dvfl import paths, plan
from dvfl.config import Config, digest
from dvfl.data.clips import ClipDataset
from dvfl.data.frame_store import FrameStore
from dvfl.data.index import clips_root, read_index
from dvfl.data.splits import few_clips, read_split
from dvfl.data.weights import weights_sha256
from dvfl.files import read_json, required, sha256
from dvfl.models.plugins import import_plugin, plugin_file
from dvfl.run import Run, RunSettings


@dataclass(frozen=True)
class RunData:
    """The clips of a run."""

    index: pd.DataFrame
    split: pd.DataFrame
    root: Path
    classes: list[str]


def load_run_data(config: Config, run: Run) -> RunData:
    index = read_index(required(paths.index_path(run.dataset)))
    split = read_split(required(paths.split_path(run.dataset, run.split)))
    classes = index.drop_duplicates("label").sort_values("label")["class_name"].tolist()
    return RunData(index, split, clips_root(config.dataset_definitions[run.dataset]), classes)


def import_plugins(config: Config) -> None:
    """The user's models, which a process that was just started does not know yet."""
    for plugin in config.plugins:
        import_plugin(plugin)


def with_choices(config: Config, run: Run) -> tuple[RunSettings, dict[str, Any]]:
    """The run's settings, with the values that studies chose for it, and those values by key."""
    own = plan.own_values(config, run)
    values: dict[str, Any] = {}
    for choice in plan.choices_of(config, run):
        values |= {key: value for key, value in read_json(required(choice))["values"].items() if key not in own}
    return plan.run_settings(config, run, values), values


def input_hashes(config: Config, run: Run) -> dict[str, str | None]:
    """sha256 of the files that the run reads. Raises MissingInput or DataError for one that is not there."""
    teacher = plan.teacher_of(config, run)
    network = plan.run_settings(config, run).network
    plugin = plugin_file(network.model)
    given = {key: value for key in ("weights", "start_from") if (value := getattr(network, key))}
    hashes = {key: weights_sha256(config, value) for key, value in given.items()}
    return {
        "index": sha256(required(paths.index_path(run.dataset))),
        "split": sha256(required(paths.split_path(run.dataset, run.split))),
        "teacher_weights": sha256(required(teacher.directory / "weights.safetensors")) if teacher else None,
        "weights": None,
        **hashes,
        **({"plugin": sha256(plugin)} if plugin else {}),
    }


def key_of(settings: RunSettings, inputs: dict[str, str | None]) -> str:
    """Names what a run computes from what."""
    return digest([settings.digest, inputs])


def labelled_clips(data: RunData, settings: RunSettings) -> list[str] | None:
    """The few labelled clips that the run trains on; None where it trains on all of its subsets."""
    few = settings.network.clips_per_class
    return None if few is None else few_clips(data.index, data.split, few, settings.split_seed, settings.subsets)


def clip_dataset(
    data: RunData, settings: RunSettings, subsets: list[str], clip_ids: list[str] | None = None
) -> ClipDataset:
    """Clips of some subsets, shown as the run's settings say."""
    input = settings.input
    directory = paths.frames_directory(settings.dataset, input)
    store = None
    if directory is not None:
        store = FrameStore(directory, data.index, input)
    return ClipDataset(
        data.index, data.split, data.root, subsets, input, settings.allow_flip, settings.seed, clip_ids, store
    )
