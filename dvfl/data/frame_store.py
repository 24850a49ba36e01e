"""Frames of clips, decoded once and kept small: 8 random frames of a clip then cost 8 small decodes.

The usable clips of a class, CLIPS of them at a time, are a pack: a file that begins with a table (where each frame
starts, and where the last ends: uint64, little-endian) and goes on with the frames, each a JPEG. Its name is the digest
of what is in it: the settings, and the clips' ids, hashes and lengths. So a pack of other clips or settings is never
found, nothing has to be said about which are valid, and a clip that changes costs its class's packs. A read opens the
file, reads a few pieces and closes it, and keeps no state: any number of processes may read at once.

torchvision codes and decodes. Measured here on frames of UCF101, 341 x 256 pixels at quality 90, in ms of one core: to
decode, torchvision 0.28, simplejpeg 0.26, OpenCV 0.28, Pillow 0.40; to code, 0.27, 0.25, 0.51 and 0.34. PyTurboJPEG
needs a library of the system's. A tenth is not worth another package.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torchvision.io import ImageReadMode, decode_jpeg, encode_jpeg

from dvfl.config import InputConfig, digest
from dvfl.data.errors import UnreadableClip
from dvfl.data.reader import decode_frames
from dvfl.files import MissingInput, atomic, sha256

RECIPE = 1  # raise it when other bytes come to be written for the same clips and settings
CLIPS = 64  # of a pack: what a kill may cost each process
SUFFIX = ".frames"
OFFSET = np.dtype("<u8")
REMEDY = "`dvfl frames` with the same config"


@dataclass(frozen=True, eq=False)
class Pack:
    """A file of frames, there or to be written. `clips` are rows of the index."""

    path: Path
    clips: pd.DataFrame

    def __len__(self) -> int:
        return len(self.clips)


def packs(folder: Path, index: pd.DataFrame, input: InputConfig) -> list[Pack]:
    """The packs that hold all usable clips of an index for an input that asks for a store."""
    settings = [input.stored_short_side, input.interpolation, input.stored_quality]
    found = []
    for _, clips in index.loc[index["status"] == "ok"].sort_values("clip_id").groupby("class_name"):
        for start in range(0, len(clips), CLIPS):
            rows = clips.iloc[start : start + CLIPS]
            content = rows[["clip_id", "sha256", "frames"]].to_numpy(object).tolist()
            name = digest([RECIPE, *settings, content])
            found.append(Pack(folder / f"{name}{SUFFIX}", rows))
    return found


class FrameStore:
    """Frames of the clips of an index, kept for an input. Raises MissingInput where they are not all stored."""

    def __init__(self, folder: Path, index: pd.DataFrame, input: InputConfig) -> None:
        held = packs(folder, index, input)
        there = set(os.listdir(folder)) if folder.is_dir() else set()
        missing = sum(pack.path.name not in there for pack in held)
        if missing:
            raise MissingInput(
                f"{folder}: frames of these clips at short side {input.stored_short_side}, {input.interpolation}, "
                f"quality {input.stored_quality}, are not all stored ({missing} of {len(held)} packs are not there); "
                f"make them with {REMEDY}"
            )
        clips = pd.concat([pack.clips for pack in held])
        self._row = {clip_id: row for row, clip_id in enumerate(clips["clip_id"])}
        self._paths = [pack.path for pack in held]
        self._pack = np.repeat(np.arange(len(held)), [len(pack) for pack in held])
        self._frames = clips["frames"].to_numpy(np.int64)
        self._first = np.concatenate([np.cumsum(pack.clips["frames"]) - pack.clips["frames"] for pack in held])

    def read(self, clip_id: str, indices: Sequence[int] | np.ndarray) -> np.ndarray:
        """Frames `indices` (any order, repeats allowed) of a clip, uint8 (T, H, W, 3), RGB.

        Raises UnreadableClip where a frame is not there or the pack is damaged.
        """
        wanted = np.asarray(indices, np.int64).reshape(-1)
        if wanted.size == 0 or wanted.min() < 0:
            raise ValueError(f"frames are numbered from 0, and at least one is needed: {wanted}")
        row = self._row[clip_id]
        path, count, first = self._paths[self._pack[row]], int(self._frames[row]), int(self._first[row])
        if wanted.max() >= count:
            raise UnreadableClip(path, f"has {count} frames of {clip_id}; frame {wanted.max()} was asked for")
        try:
            with open(path, "rb", buffering=0) as file:
                handle = file.fileno()
                starts = np.frombuffer(_bytes(handle, first * OFFSET.itemsize, (count + 1) * OFFSET.itemsize), OFFSET)
                frames = {k: _decoded(_bytes(handle, starts[k], starts[k + 1] - starts[k])) for k in set(wanted)}
            return np.stack([frames[k] for k in wanted])
        except (OSError, RuntimeError, ValueError) as error:
            reason = f"frames of {clip_id} cannot be read ({str(error).splitlines()[0]}); delete it, then {REMEDY}"
            raise UnreadableClip(path, f"{reason} makes it anew") from None


def write_pack(pack: Pack, root: Path, input: InputConfig) -> int:
    """Decode the clips of a pack under `root` and store their frames; bytes written. The file appears whole.

    Raises UnreadableClip where a clip is not what the index says, OutputError where the disk is full.
    """
    with atomic(pack.path) as partial, partial.open("wb") as file:
        file.seek((int(pack.clips["frames"].sum()) + 1) * OFFSET.itemsize)
        starts = [file.tell()]
        for clip in pack.clips.itertuples():
            for jpeg in _jpegs(root / clip.clip_id, clip.sha256, clip.frames, input):
                file.write(jpeg)
                starts.append(file.tell())
        file.seek(0)
        file.write(np.array(starts, OFFSET).tobytes())
    return starts[-1]


def _jpegs(path: Path, expected: str, frames: int, input: InputConfig) -> Iterator[memoryview]:
    """The frames of a clip, coded; it must be the file that was indexed."""
    try:
        found = sha256(path)
    except OSError as error:
        raise UnreadableClip(path, f"cannot be read ({error.strerror})") from None
    if found != expected:
        raise UnreadableClip(path, "has changed since it was indexed: index again")
    count = 0
    for frame in decode_frames(path, input.stored_short_side, input.interpolation):
        count += 1
        picture = torch.from_numpy(np.ascontiguousarray(frame)).permute(2, 0, 1)
        yield encode_jpeg(picture, input.stored_quality).numpy().data
    if count != frames:
        raise UnreadableClip(path, f"has {count} frames and not {frames}, as indexed: index again")


def _decoded(jpeg: bytearray) -> np.ndarray:
    """A frame, uint8 (H, W, 3), RGB."""
    return decode_jpeg(torch.frombuffer(jpeg, dtype=torch.uint8), ImageReadMode.RGB).permute(1, 2, 0).numpy()


def _bytes(file: int, start: int, size: int) -> bytearray:
    """A piece of a file, whatever another process reads of it. Raises OSError where it is not there."""
    start, size = int(start), int(size)
    if not 0 < size <= os.fstat(file).st_size - start:
        raise OSError("it is damaged")
    piece = bytearray(size)
    if os.preadv(file, [piece], start) != size:
        raise OSError("it breaks off")
    return piece
