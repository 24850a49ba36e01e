"""Where files lie."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dvfl.config import Config, InputConfig
    from dvfl.run import Run


RESULTS = Path("results")
WEIGHTS = Path("resources/weights")


def index_path(dataset: str) -> Path:
    return RESULTS / f"data/{dataset}/index.parquet"


def readings_path(dataset: str) -> Path:
    """Folder of what was read of each clip: no output of Snakemake's, so that it stays when the index is made anew."""
    return index_path(dataset).with_name("readings")


def indexed_path(dataset: str, shard: int | str) -> Path:
    """What says that a shard of a data set's clips has been read."""
    return index_path(dataset).with_name("indexed") / f"{shard}.json"


def split_path(dataset: str, split: str) -> Path:
    return RESULTS / f"data/{dataset}/splits/{split}.csv"


def mismatch_path(dataset: str, split: str) -> Path:
    """Clips that a published list and the index do not agree about; there where the split follows one."""
    return split_path(dataset, split).with_name(f"{split}.mismatch.csv")


def frames_directory(dataset: str, input: InputConfig) -> Path | None:
    """Where frames of a data set are stored for such an input, named after what decides their pixels; None: nowhere."""
    if input.frame_store is None:
        return None
    pixels = f"{input.stored_short_side}px_{input.interpolation}_q{input.stored_quality}"
    return RESULTS / f"data/{dataset}/frames/{pixels}"


def frames_written(dataset: str, input: InputConfig) -> list[Path]:
    """What says that frames are stored for such an input: a file for each shard."""
    directory = frames_directory(dataset, input)
    if directory is None or input.frame_store is None:
        return []
    shards = input.frame_store.shards
    return [directory / f"{shard}of{shards}.json" for shard in range(shards)]


def fingerprints_path(dataset: str) -> Path:
    return RESULTS / f"data/{dataset}/fingerprints.parquet"


def audit_path(dataset: str, split: str) -> Path:
    """The findings of a split's audit."""
    return RESULTS / f"data/{dataset}/audit/{split}.csv"


def leaks_path(dataset: str, split: str) -> Path:
    """The test clips that leak, each with a clip of train that it is found by."""
    return audit_path(dataset, split).with_name(f"{split}.leaks.csv")


def weights_path(config: Config, weights: str) -> Path:
    """Where weights lie that the config gives by name or by path."""
    named = config.weights_definitions.get(weights)
    return Path(weights) if named is None else WEIGHTS / named.file


def study_directory(dataset: str, study: str) -> Path:
    return RESULTS / f"ablation/{dataset}/{study}"


def worker_path(dataset: str, study: str, worker: int | str) -> Path:
    """What says that a worker of a search has found nothing left to do."""
    return study_directory(dataset, study) / f"workers/{worker}.json"


def trials_path(dataset: str, study: str) -> Path:
    """All trials of a search, one row each."""
    return study_directory(dataset, study) / "trials.csv"


def profile_path(name: str) -> Path:
    """The profile of that name; see `dvfl.networks.profiled`."""
    return RESULTS / f"profile/{name}.json"


def released_loss_path() -> Path:
    """Value and gradient of the released loss and of KL, over temperatures."""
    return RESULTS / "protocol/released_loss.csv"


def resume_directory(run: Run, key: str) -> Path:
    """Where a run keeps what it needs to go on after a kill: beside its outputs, since Snakemake removes those."""
    return run.directory.with_name(f"{run.directory.name}.resume") / key


def motion_check_path(run: Run) -> Path:
    return run.directory / "motion_check.json"
