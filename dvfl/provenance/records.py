"""What the runs and profiles under a results folder say of themselves, found by id or by place."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from dvfl.files import sha256
from dvfl.report.results import mlflow_id, outbox_of, read_json
from dvfl.track import delivery_note

WEIGHTS = "weights.safetensors"
FOLDERS = ("runs", "ablation", "pretraining")


@dataclass(frozen=True)
class Record:
    """A `run.json`, or the JSON of a profile, and where it lies in which folder of results."""

    path: Path
    about: dict[str, Any]
    results: Path

    @property
    def directory(self) -> Path:
        return self.path.parent

    @property
    def is_profile(self) -> bool:
        return self.path.name != "run.json"

    @property
    def id(self) -> str:
        """Its MLflow id; empty where it was not tracked, or not delivered yet."""
        return mlflow_id(self.path, self.about, self.results)

    @property
    def delivery_note(self) -> Path | None:
        """Where its MLflow id is kept if MLflow could not be reached when it ended."""
        late = not self.about.get("mlflow_run_id")
        return delivery_note(outbox_of(self.path, self.about, self.results)) if late else None


class Records:
    """All runs and profiles under `results`, a folder as the pipeline leaves it."""

    def __init__(self, results: Path):
        self.results = results
        self._hashes: dict[Path, str | None] = {}

    @cached_property
    def runs(self) -> dict[Path, Record]:
        """By directory. What jobs keep to go on with, or for each other, lies in `*.resume` and is no run."""
        files = [file for folder in FOLDERS for file in sorted((self.results / folder).rglob("run.json"))]
        files = [file for file in files if not any(part.endswith(".resume") for part in file.parts)]
        return {file.parent: Record(file, read_json(file), self.results) for file in files}

    @cached_property
    def profiles(self) -> list[Record]:
        files = sorted((self.results / "profile").rglob("*.json"))
        return [Record(file, read_json(file), self.results) for file in files]

    @cached_property
    def by_id(self) -> dict[str, Record]:
        return {id: record for record in self.all if (id := record.id)}

    @property
    def all(self) -> list[Record]:
        return [*self.runs.values(), *self.profiles]

    def place(self, promised: str | Path) -> Path:
        """Where a path that a run wrote down (`results/…`) lies under this folder."""
        path = Path(promised)
        return self.results.joinpath(*path.parts[1:]) if path.parts[:1] == ("results",) else path

    def index(self, record: Record) -> Path:
        return self.results / "data" / record.about["dataset"] / "index.parquet"

    def split(self, record: Record) -> Path:
        return self.results / "data" / record.about["dataset"] / f"splits/{record.about['split']}.csv"

    def teacher(self, record: Record) -> Record | None:
        """The run that taught this one; None without one, or where it is not under this folder."""
        wanted = record.about["inputs"].get("teacher_weights")
        if wanted is None:
            return None
        if record.about.get("teacher"):
            return self.runs.get(self.place(record.about["teacher"]))
        # A record from before teachers were named: the run whose weights these are.
        alike = (each for each in self.runs.values() if each.about["dataset"] == record.about["dataset"])
        return next((each for each in alike if self.weights_hash(each) == wanted), None)

    def start(self, record: Record) -> Record | None:
        """The run whose weights this one started from; None where it is none under this folder."""
        given = record.about["settings"]["network"].get("start_from")
        return self.runs.get(self.place(given).parent) if given else None

    def weights_hash(self, record: Record) -> str | None:
        """sha256 of a run's weights: as it recorded it, else of the file; None where there is neither."""
        recorded = record.about.get("outputs", {}).get(WEIGHTS)
        if recorded:
            return recorded
        if record.directory not in self._hashes:
            file = record.directory / WEIGHTS
            self._hashes[record.directory] = sha256(file) if file.is_file() else None
        return self._hashes[record.directory]

    def choices(self, dataset: str) -> Iterator[dict[str, Any]]:
        """What the studies of a data set chose."""
        for file in sorted((self.results / "ablation" / dataset).glob("*/choice.json")):
            yield read_json(file)
