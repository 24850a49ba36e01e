"""What was read of each clip's file, kept from one indexing to the next.

A file whose size and date are unchanged is not read again, and what a killed indexing had read stays read: each reading
is written at once. Only what is in the file itself is kept, so another group pattern reads nothing. Clips are shared
among shards by a hash of their names, and each shard has a SQLite file of its own: jobs can read side by side, and
memory holds the names and the readings of the moment, not all of them.
"""

from __future__ import annotations

import sqlite3
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import AbstractContextManager, ExitStack
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

from dvfl.data.errors import UnreadableClip
from dvfl.data.kept import kept_rows
from dvfl.data.reader import ClipInfo, probe
from dvfl.files import sha256
from dvfl.progress import track

RECIPE = 2  # raise it when `probe` comes to say other things of the same file
NOTHING = ClipInfo(frames=0, fps=0.0, width=0, height=0)
NO_DATE = -1  # of a file that the system would not let us read: tried again every time
CHUNK = 16  # clips that a process takes at once
QUEUE = 4096  # clips that wait for a process


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


def read_clips(root: Path, clip_ids: Sequence[str], workers: int, kept: Path, shards: int = 1) -> Iterator[Reading]:
    """Readings of clips, in their order; those in the folder `kept` that still hold are taken from there.

    Raises DataError where a file in `kept` is damaged, and OutputError where it cannot be written.
    """
    for shard in range(shards):
        read_shard(root, clip_ids, workers, kept, shard, shards)
    with ExitStack() as stack:
        stores = [stack.enter_context(_opened(kept, root, shard, shards)) for shard in range(shards)]
        for clip_id in clip_ids:
            yield _stored(stores[shard_of(clip_id, shards)], clip_id)


def read_shard(root: Path, clip_ids: Sequence[str], workers: int, kept: Path, shard: int, shards: int) -> int:
    """Read, by `workers` processes, those clips of one shard that are new or changed; how many they were."""
    own = [clip_id for clip_id in clip_ids if shard_of(clip_id, shards) == shard]
    with _opened(kept, root, shard, shards) as store:
        fresh = [clip_id for clip_id in own if not _unchanged(_stored(store, clip_id), root / clip_id)]
        label = "Reading clips" + (f", shard {shard} of {shards}" if shards > 1 else "")
        label += f" ({len(own) - len(fresh)} are unchanged)" if len(fresh) < len(own) else ""
        for reading in track(_map(partial(read_clip, root), fresh, workers), len(fresh), label):
            store.execute(f"INSERT OR REPLACE INTO readings VALUES ({', '.join('?' * len(reading))})", reading)
    return len(fresh)


def shard_of(clip_id: str, shards: int) -> int:
    """The shard, from 0, that a clip is read in."""
    return zlib.crc32(clip_id.encode()) % shards


def read_clip(root: Path, clip_id: str) -> Reading:
    """Decode and hash a whole file."""
    path, info, problem = root / clip_id, NOTHING, ""
    size, modified, digest = 0, NO_DATE, ""
    try:
        status, digest = path.stat(), sha256(path)
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


def _opened(kept: Path, root: Path, shard: int, shards: int) -> AbstractContextManager[sqlite3.Connection]:
    """A shard's readings; empty where there are none, or those of other files, or of another way to read."""
    return kept_rows(kept / f"{shard}of{shards}.sqlite", f"{RECIPE} {root.resolve()}", Reading._fields)


def _stored(store: sqlite3.Connection, clip_id: str) -> Reading | None:
    row = store.execute("SELECT * FROM readings WHERE clip_id = ?", (clip_id,)).fetchone()
    return row and Reading(*row)


def _map(read: Callable[[str], Reading], clip_ids: Sequence[str], workers: int) -> Iterator[Reading]:
    """In order; processes are spawned, since a fork of a threaded parent can hang."""
    workers = min(workers, -(-len(clip_ids) // CHUNK))  # a process must be worth its start
    if workers <= 1:
        yield from map(read, clip_ids)
        return
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        for start in range(0, len(clip_ids), QUEUE):
            batch = clip_ids[start : start + QUEUE]
            yield from pool.map(read, batch, chunksize=min(CHUNK, -(-len(batch) // workers)))
