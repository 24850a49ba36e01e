"""What was read of each clip's file, kept from one indexing to the next.

A file whose size and date are unchanged is not read again, and what a killed indexing had read stays read: each reading
is a line that is appended at once. Only what is in the file itself is kept, so another group pattern reads nothing.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

from dvfl.data.errors import UnreadableClip
from dvfl.data.reader import ClipInfo, probe
from dvfl.files import atomic
from dvfl.progress import track

RECIPE = 1  # raise it when `probe` comes to say other things of the same file
NOTHING = ClipInfo(frames=0, fps=0.0, width=0, height=0)
NO_DATE = -1  # of a file that the system would not let us read: tried again every time


class Reading(NamedTuple):
    clip_id: str
    bytes: int
    modified: int  # nanoseconds
    sha256: str
    frames: int
    fps: float
    width: int
    height: int
    problem: str  # why the clip cannot be used; '' where it can


def read_clips(root: Path, clip_ids: list[str], workers: int, kept: Path | None = None) -> Iterator[Reading]:
    """Readings of clips, in their order, by `workers` processes; those in the file `kept` are taken from there."""
    known = {} if kept is None else _load(kept, root)
    fresh = [clip_id for clip_id in clip_ids if not _unchanged(known.get(clip_id), root / clip_id)]
    unchanged = f" ({len(clip_ids) - len(fresh)} are unchanged)" if len(fresh) < len(clip_ids) else ""
    readings = track(_map(partial(read_clip, root), fresh, workers), len(fresh), f"Reading clips{unchanged}")
    for reading in readings if kept is None else _appended(readings, kept, root):
        known[reading.clip_id] = reading
    found = [known[clip_id] for clip_id in clip_ids]
    if kept is not None:
        with atomic(kept) as partial_file:
            partial_file.write_text("\n".join([_header(root), *map(json.dumps, found), ""]))
    return iter(found)


def read_clip(root: Path, clip_id: str) -> Reading:
    """Decode and hash a whole file."""
    path, info, problem = root / clip_id, NOTHING, ""
    size, modified, digest = 0, NO_DATE, ""
    try:
        status, digest = path.stat(), _sha256(path)
        size, modified = status.st_size, status.st_mtime_ns
        info = probe(path)
    except UnreadableClip as error:
        problem = error.reason
    except OSError as error:
        problem = f"cannot be read ({error.strerror})"
    return Reading(clip_id, size, modified, digest, *info, problem)


def _unchanged(reading: Reading | None, path: Path) -> bool:
    if reading is None:
        return False
    try:
        status = path.stat()
    except OSError:
        return False
    return (status.st_size, status.st_mtime_ns) == (reading.bytes, reading.modified)


def _header(root: Path) -> str:
    """The first line: readings of other files, or of another way to read, are not these."""
    return json.dumps({"recipe": RECIPE, "root": str(root.resolve())})


def _load(kept: Path, root: Path) -> dict[str, Reading]:
    """Readings by clip; a last line that a kill cut short is left out."""
    if not kept.is_file():
        return {}
    header, *lines = kept.read_text().split("\n")
    known = {}
    for line in lines if header == _header(root) else ():
        if line.endswith("]"):
            reading = Reading(*json.loads(line))
            known[reading.clip_id] = reading
    return known


def _appended(readings: Iterable[Reading], kept: Path, root: Path) -> Iterator[Reading]:
    """The readings, each written to the file as soon as it is there."""
    if not _load(kept, root):
        with atomic(kept) as partial_file:
            partial_file.write_text(_header(root))
    with kept.open("a") as file:
        for reading in readings:
            file.write("\n" + json.dumps(reading))  # the line break first: it ends a line that was cut short
            file.flush()
            yield reading


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _map(read: partial, clip_ids: list[str], workers: int) -> Iterator[Reading]:
    """In order; processes are spawned, since a fork of a threaded parent can hang."""
    workers = min(workers, -(-len(clip_ids) // 16))  # a process must be worth its start
    if workers <= 1:
        yield from map(read, clip_ids)
        return
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        yield from pool.map(read, clip_ids, chunksize=min(16, -(-len(clip_ids) // workers)))
