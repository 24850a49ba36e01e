"""Clips that show the same pictures, though their bytes differ: re-encoded, resized, brightened or cropped copies.

A clip's fingerprint is a perceptual hash (pHash: which of the lowest 8 x 8 cosine coefficients lie above their median)
of 8 frames at even distances, each of the whole frame and of windows in it: a cropped copy looks like a window of its
original. Window, scaling and cosines are linear and separable, so all windows of a frame are two products of matrices.

Measured on 224 clips of UCF101 (25,000 pairs of different sources, 8 copies of each kind), in bits of 64: re-encoded at
CRF 38, at half the size, or with grey levels + 40 or x 0.6: copies 0 to 3.2; re-encoded and cropped by up to 12 % of
one side, 10 % of all sides, or unevenly (10, 2, 6, 5 %) with levels x 1.3: copies 0 to 9.5; clips of different sources:
13.5 and more, the median 27. Cropped by 15 % of two sides: 8 to 14, so some are missed. Not found at all: copies that
are mirrored or cut to another length. Clips of one source (0.5 and more) are alike but no copies: never compared.

Every pair is compared, since no index would help: within 10 of 64 bits two hashes need not share any part that is long
enough to look up. A pair costs 1 to 3 ns for the whole frames and, of train with test, 160 ns for all windows, on one
busy core that multiplies bfloat16 (three times that without): 13,320 clips, 3,783 of them in test, took 6.3 CPU
seconds, 60,000 with 6,000 took 55. So 240,000 with 20,000 would take about a quarter of an hour. A clip costs 7 KB of
memory, most of it for copies of its hashes; with 240,000 the process takes 2.3 GB.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext
from functools import cache, partial
from itertools import product
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import torch

from dvfl.data.kept import kept_rows
from dvfl.data.reader import read_frames
from dvfl.data.sampling import centre_segment_indices
from dvfl.files import atomic
from dvfl.progress import track

RECIPE = 1  # raise it when the same bytes come to have other hashes
FRAMES = 8
WINDOWS = ((0.0, 1.0), (0.1, 1.0), (0.0, 0.9), (0.05, 0.95), (0.1, 0.9))  # of a side; those of two sides are combined
WHOLE = 0  # the window that is the whole frame
BITS = 64  # of which the first, the mean, is always 0
SHORT_SIDE = 64  # pixels; the cosines see waves of eight and more
PLAIN = 4.0  # standard deviation of grey levels below which a frame shows nothing to compare
SIDE = 2**11  # clips of either side that are compared at once: what a hash unpacks to is made once for that many


def fingerprint(path: str | Path, frames: int) -> np.ndarray:
    """Hashes of a clip of `frames` frames, uint64 (FRAMES, windows); 0 where a frame is plain."""
    pictures = read_frames(path, centre_segment_indices(frames, FRAMES), SHORT_SIDE)
    grey = pictures @ np.array([0.299, 0.587, 0.114], np.float32)
    hashes = _hashes(grey)
    hashes[grey.std(axis=(1, 2)) < PLAIN] = 0
    return hashes


def fingerprint_clips(root: Path, clips: pd.DataFrame, workers: int, kept: Path | None = None) -> pd.DataFrame:
    """Fingerprints of the clips of an index that are ok: clip_id, sha256 and the hashes, a list of uint64.

    With a folder `kept`, bytes whose pictures were hashed before, by work that was killed, say, are not hashed again.
    """
    good = clips.loc[clips["status"] == "ok"]
    work = partial(_fingerprint_of, root)
    with TemporaryDirectory() if kept is None else nullcontext(kept) as folder:
        made_of = repr((RECIPE, FRAMES, WINDOWS, BITS, SHORT_SIDE, PLAIN))
        with kept_rows(Path(folder) / "fingerprints.sqlite", made_of, ("sha256", "hashes")) as store:
            known = {digest for (digest,) in store.execute("SELECT sha256 FROM readings")}
            fresh = good[~good["sha256"].isin(known)].drop_duplicates("sha256")
            items = list(zip(fresh["clip_id"], fresh["frames"], strict=True))
            label = "Fingerprints" + (f" ({len(good) - len(fresh)} are known)" if len(fresh) < len(good) else "")
            for digest, hashes in zip(
                fresh["sha256"], track(_map(work, items, workers), len(items), label), strict=True
            ):
                store.execute("INSERT OR REPLACE INTO readings VALUES (?, ?)", (digest, hashes.tobytes()))
            found = [_kept(store, digest) for digest in good["sha256"]]
    return pd.DataFrame({"clip_id": good["clip_id"].to_numpy(), "sha256": good["sha256"].to_numpy(), "hashes": found})


def _kept(store: sqlite3.Connection, digest: str) -> np.ndarray:
    row = store.execute("SELECT hashes FROM readings WHERE sha256 = ?", (digest,)).fetchone()
    return np.frombuffer(row[0], np.uint64)


def write_fingerprints(fingerprints: pd.DataFrame, path: str | Path) -> None:
    with atomic(path) as partial_file:
        fingerprints.to_parquet(partial_file, index=False)


def read_fingerprints(path: str | Path) -> pd.DataFrame:
    """What `write_fingerprints` wrote, in hardly more memory than the hashes take; pandas needs five times that."""
    with pq.ParquetFile(path) as file:
        names = file.read(columns=["clip_id", "sha256"]).to_pandas()
        hashes = np.empty((len(names), FRAMES * len(WINDOWS) ** 2), np.uint64)
        start = 0
        for batch in file.iter_batches(SIDE, columns=["hashes"]):
            flat = batch.column("hashes").flatten().to_numpy()
            hashes[start : start + len(batch)] = flat.reshape(len(batch), -1)
            start += len(batch)
    return names.assign(hashes=list(hashes))


def nearest(
    one: np.ndarray,
    other: np.ndarray,
    one_source: np.ndarray,
    other_source: np.ndarray,
    limit: float = BITS / 2,
    cropped: bool = True,
) -> pd.DataFrame:
    """For each clip of `one` the clip of `other` of another source that looks most like it: distance, position.

    Fingerprints are uint64 (clips, FRAMES, windows); for the distance see `distances`. Only clips within `limit` bits,
    at most half of them, are looked for: where there is none, the distance is infinite and the position means nothing.
    Of clips at the same distance it is the first.
    """
    sources, _ = pd.factorize(np.concatenate([one_source, other_source]))  # numbers compare faster than names
    one_source, other_source = sources[: len(one)], sources[len(one) :]
    best, position = np.full(len(one), np.inf, np.float32), np.zeros(len(one), np.int64)
    blocks = list(product(_blocks(len(one)), _blocks(len(other))))
    for rows, columns in track(blocks, len(blocks), "Comparing pictures") if len(blocks) > 1 else blocks:
        agreement = _agreement(one[rows], other[columns], cropped)
        least = FRAMES / 2 * (BITS - 2 * limit)  # what a pair within the limit has where half of the frames are plain
        row, column = np.divmod(np.flatnonzero((agreement >= least).numpy()), agreement.shape[1])
        agreed = agreement[row, column].float().numpy()
        row, column = row + rows.start, column + columns.start
        common = ((one[row, :, WHOLE] != 0) & (other[column, :, WHOLE] != 0)).sum(axis=1)
        distance = _bits(agreed, common)
        near = (distance <= limit) & (one_source[row] != other_source[column])
        row, column, distance = row[near], column[near], distance[near]
        first = np.lexsort((column, distance, row))
        first = first[np.unique(row[first], return_index=True)[1]]
        first = first[distance[first] < best[row[first]]]
        best[row[first]], position[row[first]] = distance[first], column[first]
    return pd.DataFrame({"distance": best, "position": position})


def _blocks(clips: int) -> list[slice]:
    return [slice(start, min(start + SIDE, clips)) for start in range(0, clips, SIDE)]


def distances(one: np.ndarray, other: np.ndarray, cropped: bool = True) -> np.ndarray:
    """Bits in which each pair of clips differs, mean over the frames that are plain in neither: float32 (one, other).

    With `cropped`, one of two clips may be a crop of the other: the best of all windows counts. Infinite where less
    than half of the frames can be compared.
    """
    shown, other_shown = ((hashes[:, :, WHOLE] != 0).astype(np.float32) for hashes in (one, other))
    return _bits(_agreement(one, other, cropped).float().numpy(), shown @ other_shown.T)


def _bits(agreement: np.ndarray, common: np.ndarray) -> np.ndarray:
    """Bits that differ, of those that agree less those that do not, over frames in common: float32."""
    apart = (BITS - agreement / np.maximum(common, 1).astype(np.float32)) / 2
    return np.where(common >= FRAMES / 2, apart, np.float32(np.inf))


def _agreement(one: np.ndarray, other: np.ndarray, cropped: bool) -> torch.Tensor:
    """Bits that agree less bits that do not, of all frames that are plain in neither: (one, other) of `_exact` floats.

    It is one product of +1 and -1. With `cropped`, the largest for all windows of one and the whole frames of another.
    """
    whole, other_whole = (_signs(hashes[:, :, WHOLE]) for hashes in (one, other))
    agreement = whole @ other_whole.T
    for window in range(1, one.shape[2]) if cropped else ():
        torch.maximum(agreement, _signs(one[:, :, window]) @ other_whole.T, out=agreement)
        torch.maximum(agreement, whole @ _signs(other[:, :, window]).T, out=agreement)
    return agreement


def stacked(fingerprints: pd.DataFrame) -> np.ndarray:
    """The hashes of a frame of fingerprints, uint64 (clips, FRAMES, windows)."""
    stack = np.empty((len(fingerprints), FRAMES, len(WINDOWS) ** 2), np.uint64)
    for clip, hashes in zip(stack, fingerprints["hashes"], strict=True):
        clip.flat = hashes
    return stack


def _signs(hashes: np.ndarray) -> torch.Tensor:
    """Bits as -1 and +1, 0 for plain frames: uint64 (clips, FRAMES) to `_exact` floats (clips, FRAMES * BITS)."""
    bits = np.unpackbits(np.ascontiguousarray(hashes).view(np.uint8), axis=1).reshape(len(hashes), FRAMES, BITS)
    signs = bits.view(np.int8) * np.int8(2) - np.int8(1)
    signs[hashes == 0] = 0
    return torch.from_numpy(signs.reshape(len(hashes), FRAMES * BITS)).to(_exact())


@cache
def _exact() -> torch.dtype:
    """The fastest floats that count bits exactly: where the processor multiplies them, bfloat16.

    They hold even numbers up to 512, and no agreement of 8 frames of 64 bits is odd or larger; sums are float32.
    """
    able = torch.cpu.get_capabilities()
    return torch.bfloat16 if able.get("avx512_bf16") or able.get("amx_bf16") else torch.float32


def _hashes(grey: np.ndarray) -> np.ndarray:
    """pHash of every window of every frame: float32 (T, H, W) to uint64 (T, windows)."""
    rows, columns = (_waves(length).reshape(-1, length) for length in grey.shape[1:])
    waves = (rows @ grey @ columns.T).reshape(-1, len(WINDOWS), 8, len(WINDOWS), 8)
    waves = waves.transpose(0, 1, 3, 2, 4).reshape(-1, BITS)
    bits = waves > np.median(waves[:, 1:], axis=1, keepdims=True)
    bits[:, 0] = False
    return np.packbits(bits, axis=1).view(np.uint64).reshape(len(grey), len(WINDOWS) ** 2)


@cache
def _waves(length: int) -> np.ndarray:
    """The eight longest cosines over each window of a side of `length` pixels: float32 (windows, 8, length)."""
    start, end = (length * np.array(ends)[:, None, None] for ends in zip(*WINDOWS, strict=True))
    pixel, wave = np.arange(length), np.arange(8)[:, None]
    covered = np.clip(np.minimum(pixel + 1, end) - np.maximum(pixel, start), 0, 1)  # of each pixel, by the window
    cosines = np.cos(np.pi * wave * (pixel + 0.5 - start) / (end - start))
    return (covered * cosines / (end - start)).astype(np.float32)


def _fingerprint_of(root: Path, item: tuple[str, int]) -> np.ndarray:
    clip_id, frames = item
    return fingerprint(root / clip_id, frames).reshape(-1)


def _map(work: partial, items: Sequence[tuple[str, int]], workers: int) -> Iterator[np.ndarray]:
    """In order; processes are spawned, since a fork of a threaded parent can hang."""
    workers = min(workers, -(-len(items) // 32))  # a process must be worth its start
    if workers <= 1:
        yield from map(work, items)
        return
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        yield from pool.map(work, items, chunksize=16)
