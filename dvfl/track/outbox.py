"""Everything measured in one run, kept on the local disk: the truth that MLflow shows a copy of.

An outbox is a folder. `outbox.jsonl` is only ever appended to, one JSON object a line:

    {"kind": "open", "id": …, "experiment": …, "name": …, "study": …, "tags": {…}, "time": ms}
    {"kind": "batch", "metrics": [[key, value, step, ms], …], "params": {…}, "tags": {…}}
    {"kind": "artifact", "path": "artifacts/scores.json", "folder": ""}
    {"kind": "status", "status": "FINISHED", "time": ms}

`artifacts/` holds copies, since a run's own files may be gone or replaced when MLflow is back.
What has been delivered where is noted apart, in `delivered.json` (see delivery.py).
"""

from __future__ import annotations

import json
import math
import os
import posixpath
import re
import shutil
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from dvfl.redaction import redact

# MLflow's limits. A line of the outbox is one request, so lines are cut to fit when written.
MAX_METRICS = 1000
MAX_PARAMS = 100
MAX_TAGS = 100
MAX_KEY = 250
MAX_PARAM_VALUE = 6000
MAX_TAG_VALUE = 8000

FILE = "outbox.jsonl"


class Outbox:
    """Appends records of one run and reads them back.

    A record is on the disk when the method that adds it returns. One process writes at a time
    (training holds the lease of its run); any number may read meanwhile.
    """

    def __init__(self, directory: Path):
        self.directory = directory
        self.path = directory / FILE
        self.opening: dict[str, Any] = {}
        self.status = ""
        self._params: dict[str, str] = {}
        self._tags: dict[str, str] = {}
        self._steps: set[tuple[str, int]] = set()
        self._written = False
        for record, _ in self.read():
            self._remember(record)

    @classmethod
    def create(
        cls,
        directory: Path,
        *,
        experiment: str,
        name: str,
        study: str = "",
        tags: Mapping[str, Any] | None = None,
    ) -> Outbox:
        """A new outbox in an empty or missing folder.

        study: whose trial it is.
        """
        directory.mkdir(parents=True, exist_ok=True)
        outbox = cls(directory)
        outbox._append(
            kind="open",
            id=uuid.uuid4().hex,
            experiment=experiment,
            name=name,
            study=study,
            tags=_texts(tags or {}, MAX_TAG_VALUE),
            time=now_ms(),
        )
        return outbox

    @property
    def finished(self) -> bool:
        return self.status == "FINISHED"

    def add_params(self, params: Mapping[str, Any]) -> None:
        """Params; MLflow lets none change, so a later value of the same key is kept as a tag."""
        texts = _texts(params, MAX_PARAM_VALUE)
        new = {key: value for key, value in texts.items() if key not in self._params}
        for part in _parts(new.items(), MAX_PARAMS):
            self._append(kind="batch", params=dict(part))
        self.add_tags({key: texts[key] for key in texts if self._params[key] != texts[key]})

    def add_tags(self, tags: Mapping[str, Any]) -> None:
        """Tags; the last value of a key stands."""
        texts = _texts(tags, MAX_TAG_VALUE)
        new = {key: value for key, value in texts.items() if self._tags.get(key) != value}
        for part in _parts(new.items(), MAX_TAGS):
            self._append(kind="batch", tags=dict(part))

    def add_metrics(self, metrics: Mapping[str, float | None], step: int, time_ms: int) -> None:
        """Values at one step; None is left out, nan and infinities are kept.

        An epoch that is trained again after a kill is the same epoch: what was recorded for a key
        and step first stands, so that no step has two values.

        Raises TypeError or ValueError for a value that is no number.
        """
        values = {_key(key): float(value) for key, value in metrics.items() if value is not None}
        new = [[key, _to_json(value), step, time_ms] for key, value in values.items() if (key, step) not in self._steps]
        for part in _parts(new, MAX_METRICS):
            self._append(kind="batch", metrics=part)

    def add_artifact(self, path: Path, folder: str = "") -> None:
        """A copy of a file; a later file of the same name and folder replaces it."""
        copy = self.directory / "artifacts" / folder / path.name
        copy.parent.mkdir(parents=True, exist_ok=True)
        partial = copy.with_name(f".{copy.name}.partial")
        shutil.copyfile(path, partial)
        os.replace(partial, copy)
        where = copy.relative_to(self.directory).as_posix()
        self._append(kind="artifact", path=where, folder=folder)

    def set_status(self, status: str) -> None:
        """RUNNING, FINISHED, FAILED or KILLED."""
        if status != self.status:
            self._append(kind="status", status=status, time=now_ms())

    def read(self, start: int = 0) -> Iterator[tuple[dict[str, Any], int]]:
        """Records from a byte offset on, each with the offset after it."""
        if not self.path.exists():
            return
        with self.path.open("rb") as file:
            end = file.seek(start)
            for line in file:
                if not line.endswith(b"\n"):
                    return  # being written by another process, or cut short by a kill
                end += len(line)
                yield json.loads(line), end

    def size(self) -> int:
        """Bytes written so far."""
        return self.path.stat().st_size if self.path.exists() else 0

    def _append(self, **record: Any) -> None:
        line = json.dumps(record, allow_nan=False, ensure_ascii=False).encode() + b"\n"
        with self.path.open("ab") as file:
            if not self._written:
                # A line that a kill cut short holds nothing that its caller counts on.
                file.truncate(max((end for _, end in self.read()), default=0))
            file.write(line)
            file.flush()
            os.fsync(file.fileno())
        self._written = True
        self._remember(record)

    def _remember(self, record: Mapping[str, Any]) -> None:
        if record["kind"] == "open":
            self.opening = dict(record)
            self.status = "RUNNING"
            self._tags |= record["tags"]
        elif record["kind"] == "status":
            self.status = record["status"]
        elif record["kind"] == "batch":
            self._params |= record.get("params", {})
            self._tags |= record.get("tags", {})
            self._steps |= {(key, step) for key, _, step, _ in record.get("metrics", [])}


def now_ms() -> int:
    """Milliseconds since 1970, MLflow's unit of time."""
    return time.time_ns() // 1_000_000


def find_outboxes(root: Path) -> Iterable[Path]:
    """Folders under `root` that are outboxes, in order."""
    return sorted(path.parent for path in root.rglob(FILE))


def from_json(value: float | str) -> float:
    """A metric's value as it was before it became JSON."""
    return float(value)


def _to_json(value: float) -> float | str:
    return value if math.isfinite(value) else str(value)  # JSON has no nan and no infinity


def _texts(values: Mapping[str, Any], limit: int) -> dict[str, str]:
    """Keys and values as MLflow takes them, without credentials."""
    texts = {_key(key): redact(str(value)) for key, value in values.items()}
    return {key: text if len(text) <= limit else text[: limit - 1] + "…" for key, text in texts.items()}


def _parts(items: Iterable[Any], size: int) -> Iterator[list[Any]]:
    items = iter(items)
    while part := list(islice(items, size)):
        yield part


def _key(key: str) -> str:
    """The nearest key that MLflow accepts: it refuses others and would hold up all that follows."""
    plain = posixpath.normpath(re.sub(r"[^/\w.\- :]", "_", key)).lstrip("/.")
    return plain[:MAX_KEY] or "_"
