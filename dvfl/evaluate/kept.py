"""Predictions of a test that is under way, kept so that a kill costs no more than a minute of them."""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from types import TracebackType

import pandas as pd

from dvfl.files import atomic

EVERY_SECONDS = 60
RECIPE = 1  # raise it when the same weights, settings and versions come to give other predictions
PREFIX = "test-"  # of a folder's name
Row = tuple[str, int, list[float]]  # clip id, label, probabilities


class KeptPredictions:
    """Rows by the number of their batch; those of an earlier, killed test are there from the start.

    folder: of this very test, named by what it is made from; None keeps nothing on disk. Several processes may share
    it, since no two of them predict the same batch.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder
        self.rows: dict[int, list[Row]] = {}
        self._unwritten: list[int] = []
        self._written_at = time.monotonic()
        for part in sorted(folder.glob("[0-9]*.parquet")) if folder else ():  # not what a kill left half written
            for batch, *row in pd.read_parquet(part).itertuples(index=False):
                clip_id, label, probabilities = row
                self.rows.setdefault(batch, []).append((clip_id, label, probabilities.tolist()))

    def __enter__(self) -> KeptPredictions:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if kind is not None:
            self._write()

    def add(self, batch: int, rows: list[Row]) -> None:
        self.rows[batch] = rows
        self._unwritten.append(batch)
        if time.monotonic() - self._written_at >= EVERY_SECONDS:
            self._write()

    def remove(self) -> None:
        """Of a test that has ended: its predictions are where they belong, and none of the run's others goes on."""
        if self.folder is not None:
            for folder in self.folder.parent.glob(f"{PREFIX}*"):
                shutil.rmtree(folder, ignore_errors=True)

    def _write(self) -> None:
        if self.folder is None or not self._unwritten:
            return
        rows = [(batch, *row) for batch in self._unwritten for row in self.rows[batch]]
        with atomic(self.folder / f"{self._unwritten[0]}.parquet") as partial:
            pd.DataFrame(rows, columns=["batch", "clip_id", "label", "probabilities"]).to_parquet(partial, index=False)
        self._unwritten, self._written_at = [], time.monotonic()
