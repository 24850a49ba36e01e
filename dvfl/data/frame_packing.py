"""Writing a frame store: what it will cost and gain, measured on a sample first; then pack by pack, in parallel.

A pack that is there is done, so what a kill left is what is missing.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from multiprocessing import get_context, parent_process
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pandas as pd
import torch
from filelock import FileLock, Timeout

from dvfl.config import InputConfig
from dvfl.data.errors import DataError
from dvfl.data.frame_store import CLIPS, SUFFIX, FrameStore, Pack, packs, write_pack
from dvfl.data.reader import read_frames, scaled_size
from dvfl.data.sampling import random_segment_indices
from dvfl.progress import track
from dvfl.randomness import generator

SAMPLE, LARGE_SAMPLE, SHARE = 16, 64, 8  # clips measured before any is stored: 16, of more one in 8, 64 at most
READINGS = 3  # of each clip of the sample; the fastest counts


@dataclass(frozen=True)
class Forecast:
    """What storing some clips will cost and gain, from a sample of them."""

    clips: int
    frames: int
    sample: int  # clips measured
    bytes: int  # expected
    most_bytes: int  # upper end of the 95 % interval
    source_bytes: int  # of the clips themselves
    core_seconds: float  # to write it all
    live: float  # clips/s of one process that decodes the clips
    stored: float  # clips/s of one process that reads the store

    def __str__(self) -> str:
        return (
            f"{self.clips} clips of {self.frames} frames will take about {_space(self.bytes)}, at most "
            f"{_space(self.most_bytes)} ({self.bytes / self.frames / 1e3:.1f} kB a frame; the clips themselves: "
            f"{_space(self.source_bytes)}), and {self.core_seconds / 3600:.2g} core hours; a core then reads "
            f"{self.stored:,.0f} clips/s for training, where decoding gives {self.live:,.0f}: "
            f"{self.stored / self.live:.1f} times as many (measured on {self.sample} clips)"
        )


def write_store(
    folder: Path,
    index: pd.DataFrame,
    root: Path,
    input: InputConfig,
    shard: int = 0,
    workers: int = 1,
    say: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Store the frames of a shard's clips under `folder`, as `input.frame_store` says; what was done.

    `say` is told what the missing frames of all shards will cost and gain before any is written. Raises DataError where
    the disk cannot hold them, or another process writes this shard.
    """
    assert input.frame_store is not None
    shards = input.frame_store.shards
    folder.mkdir(parents=True, exist_ok=True)
    held = packs(folder, index, input)
    own = held[shard::shards]
    with _only_writer(folder / f".{shard}of{shards}.lock"):
        _remove_others(folder, held, own)
        missing = [pack for pack in held if not pack.path.exists()]
        todo = [pack for pack in own if not pack.path.exists()]
        forecast = None
        if todo:
            clips = pd.concat([pack.clips for pack in missing], ignore_index=True)  # all shards share the disk
            forecast = measure(folder / f".sample{shard}of{shards}", clips, root, input)
            say(str(forecast))
            _check_disk(folder, forecast)
            if shards > 1:
                say(f"of these, shard {shard} of {shards} stores {sum(map(len, todo))} clips")
        begin = time.perf_counter()
        work = partial(write_pack, root=root, input=input)
        for _ in track(_done(work, todo, workers), len(todo), f"Packs of up to {CLIPS} clips stored"):
            pass
        return {
            "short_side": input.stored_short_side,
            "interpolation": input.interpolation,
            "quality": input.stored_quality,
            "shard": shard,
            "shards": shards,
            "clips": sum(map(len, own)),
            "packs": [pack.path.name for pack in own],
            "bytes": sum(pack.path.stat().st_size for pack in own),
            "seconds": round(time.perf_counter() - begin, 1),
            "forecast": forecast and asdict(forecast),
        }


def measure(scratch: Path, clips: pd.DataFrame, root: Path, input: InputConfig) -> Forecast:
    """Store a few of some clips for a moment, in the folder `scratch`, and read a view's frames of each both ways."""
    torch.set_num_threads(1)
    size = max(min(SAMPLE, len(clips)), min(len(clips) // SHARE, LARGE_SAMPLE))
    sample = clips.iloc[np.linspace(0, len(clips) - 1, size).astype(int)]
    sample = sample.assign(class_name=sample["clip_id"])  # so that each is a pack of its own
    shutil.rmtree(scratch, ignore_errors=True)  # a kill may have left it
    try:
        begin = time.perf_counter()
        sizes = [write_pack(pack, root, input) for pack in packs(scratch, sample, input)]
        seconds = time.perf_counter() - begin
        store = FrameStore(scratch, sample, input)
        live = stored = 0.0
        for clip in sample.itertuples():
            indices = random_segment_indices(clip.frames, input.frames, generator("frame store", clip.clip_id))
            source = root / clip.clip_id
            live += _fastest(partial(read_frames, source, indices, input.stored_short_side, input.interpolation))
            stored += _fastest(partial(store.read, clip.clip_id, indices))
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    pixels, every = (_pixels(each, input.stored_short_side) for each in (sample, clips))
    rate = sum(sizes) / pixels.sum()  # bytes of a pixel
    spread = np.std(sizes - rate * pixels, ddof=1) if size > 1 else sizes[0]
    error = spread * np.sqrt(size) / pixels.sum()  # standard error of a ratio
    frames = int(clips["frames"].sum())
    return Forecast(
        clips=len(clips),
        frames=frames,
        sample=size,
        bytes=round(rate * every.sum()),
        most_bytes=round((rate + 1.96 * error) * every.sum()),
        source_bytes=int(clips["bytes"].sum()),
        core_seconds=round(seconds * frames / int(sample["frames"].sum()), 1),
        live=round(size / live, 1),
        stored=round(size / stored, 1),
    )


def _pixels(clips: pd.DataFrame, short_side: int) -> np.ndarray:
    """Pixels of all frames of each clip, stored: int64 (clips,)."""
    sizes = zip(clips["height"], clips["width"], strict=True)
    areas = np.array([np.prod(scaled_size(height, width, short_side)) for height, width in sizes])
    return areas * clips["frames"].to_numpy()


def _fastest(read: Callable[[], Any]) -> float:
    """Seconds of the fastest reading: the others waited for something else."""
    seconds = []
    for _ in range(READINGS):
        begin = time.perf_counter()
        read()
        seconds.append(time.perf_counter() - begin)
    return min(seconds)


def _check_disk(folder: Path, forecast: Forecast) -> None:
    free = shutil.disk_usage(folder).free
    if free < forecast.most_bytes:
        raise DataError(
            f"{folder}: the disk has {_space(free)} free and the frames may take {_space(forecast.most_bytes)}; "
            f"nothing was stored; free some space, choose a smaller input.frame_store.short_side or quality, or make "
            f"{folder.parent} a link to a folder on another disk"
        )


@contextmanager
def _only_writer(path: Path) -> Iterator[None]:
    try:
        with FileLock(path, timeout=0):
            yield
    except Timeout:
        raise DataError(f"{path.parent}: another process stores these frames; wait for it to end, or end it") from None


def _remove_others(folder: Path, held: list[Pack], own: list[Pack]) -> None:
    """Remove packs of clips that are no more as they were, and what a kill left of our own."""
    names = {pack.path.name for pack in held}
    for path in folder.glob(f"*{SUFFIX}"):
        if not path.name.startswith(".") and path.name not in names:
            path.unlink()
    stems = {pack.path.stem for pack in own}
    for path in folder.glob(f".*{SUFFIX}"):
        if path.name.split(".")[1] in stems:
            path.unlink()


def _done(work: partial, todo: list[Pack], workers: int) -> Iterator[Pack]:
    """Packs as they are written; processes are spawned, since a fork of a threaded parent can hang."""
    workers = min(workers, len(todo))
    if workers <= 1:
        for pack in todo:
            work(pack)
            yield pack
        return
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=_prepare) as pool:
        futures = {pool.submit(work, pack): pack for pack in todo}
        try:
            for future in as_completed(futures):
                future.result()
                yield futures[future]
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _prepare() -> None:
    """A process of the pool: one thread, and no life beyond its parent's, which may be killed."""
    torch.set_num_threads(1)
    parent = parent_process()
    if parent is not None:
        Thread(target=lambda: (parent.join(), os._exit(1)), daemon=True).start()


def _space(size: float) -> str:
    return f"{size / 1e9:,.3g} GB" if size >= 1e9 else f"{size / 1e6:.3g} MB"
