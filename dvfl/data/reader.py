"""Frames of a video file, by number.

Frame k is the k-th that decodes from the start of the file: PyAV decodes in order and never seeks. Seeking would save
little, since a clip's views span it. decord, the usual choice and the released code's, was tried first and measured.
Where it seeks, decord 0.6 returns frame 1 for frame 20 of an AVI with B-frames and of a WMV; frames 24, 48 or 72 pixels
wide come with four channels, and in batches not at all; its issues report reads that differ from one time to the next
on HMDB51 (#195) and endless loops where a container promises more frames than it has (#373). Read in order at a size
that it can do, it gives the same pixels (a test compares them), in 20 ms for 8 frames of a UCF101 clip against 11 here.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import av
import numpy as np
from av.container import InputContainer
from av.video.frame import VideoFrame

from dvfl.data.errors import UnreadableClip

MISSING_FRAMES, MISSING_SHARE = 2, 0.05  # fewer frames than promised: so few are harmless
LEAST_DECODED = 0.5  # of the packets: codecs have some that show nothing of their own
LEAST_DURATION = 0.8  # where no number of frames is promised: the duration may be the sound's


class ClipInfo(NamedTuple):
    frames: int  # that can be decoded
    fps: float  # 0.0 where the container does not say
    width: int  # pixels, as displayed
    height: int


def probe(path: str | Path) -> ClipInfo:
    """Decode the whole clip to learn what is really in it.

    Raises UnreadableClip for what is no video, and for one that breaks off before its end.
    """
    frames = packets = discarded = 0
    last = VideoFrame()
    with _opened(path) as container:
        stream = container.streams.video[0]
        for packet in container.demux(stream):
            packets += packet.size > 0
            discarded += packet.size > 0 and packet.is_discard
            for frame in _decoded(packet):
                frames, last = frames + 1, frame
        fps = float(stream.average_rate or stream.guessed_rate or 0)
        seconds = (container.duration or 0) / av.time_base
        promised = stream.frames
    if frames == 0:
        raise UnreadableClip(path, "has no frame that can be decoded")
    if promised - packets > max(MISSING_FRAMES, MISSING_SHARE * promised):
        raise UnreadableClip(path, f"breaks off: promises {promised} frames and holds {packets}")
    if frames < LEAST_DECODED * (packets - discarded):
        raise UnreadableClip(path, f"is damaged: {frames} of {packets} frames can be decoded")
    end = (last.time or 0.0) + (1 / fps if fps else 0.0)
    if not promised and last.time is not None and end < LEAST_DURATION * seconds:
        raise UnreadableClip(path, f"breaks off: {end:.1f} of {seconds:.1f} s are there")
    height, width = _pixels(last, None).shape[:2]
    return ClipInfo(frames, fps, width, height)


def read_frames(
    path: str | Path,
    indices: Sequence[int] | np.ndarray,
    short_side: int | None = None,
    interpolation: str = "bilinear",
) -> np.ndarray:
    """Frames `indices` (any order, repeats allowed) of a clip, uint8 (T, H, W, 3), RGB.

    With `short_side` they are resized to it in pixels, keeping the aspect, as they are converted
    from the codec's colours; `interpolation` is bilinear or bicubic, as FFmpeg has them, which
    antialiases. Raises UnreadableClip where a frame is not there.
    """
    wanted = np.asarray(indices, dtype=np.int64).reshape(-1)
    if wanted.size == 0 or wanted.min() < 0:
        raise ValueError(f"frames are numbered from 0, and at least one is needed: {wanted}")
    last = int(wanted.max())
    positions: dict[int, list[int]] = {}
    for position, index in enumerate(wanted.tolist()):
        positions.setdefault(index, []).append(position)
    found: np.ndarray | None = None
    number = -1
    with _opened(path) as container:
        for number, frame in enumerate(_frames(container)):
            if number in positions:
                pixels = _pixels(frame, short_side, interpolation)
                if found is None:
                    found = np.empty((wanted.size, *pixels.shape), np.uint8)
                if pixels.shape != found.shape[1:]:
                    raise UnreadableClip(path, f"changes its size at frame {number}")
                found[positions[number]] = pixels
            if number == last:
                return found
    raise UnreadableClip(path, f"has {number + 1} frames; frame {last} was asked for")


def decode_frames(path: str | Path, short_side: int, interpolation: str = "bilinear") -> Iterator[np.ndarray]:
    """Every frame of a clip in turn, uint8 (H, W, 3), RGB: the pixels that `read_frames` gives.

    Raises UnreadableClip.
    """
    shape: tuple[int, ...] | None = None
    with _opened(path) as container:
        for number, frame in enumerate(_frames(container)):
            pixels = _pixels(frame, short_side, interpolation)
            shape = shape or pixels.shape
            if pixels.shape != shape:
                raise UnreadableClip(path, f"changes its size at frame {number}")
            yield pixels


def scaled_size(height: int, width: int, short_side: int) -> tuple[int, int]:
    """Height and width with the short side resized to `short_side`, as torchvision rounds them."""
    if height <= width:
        return short_side, int(short_side * width / height)
    return int(short_side * height / width), short_side


@contextmanager
def _opened(path: str | Path) -> Iterator[InputContainer]:
    """The container of a file with a video stream; what FFmpeg objects to, as UnreadableClip."""
    path = Path(path)
    if not path.exists():
        raise UnreadableClip(path, "does not exist")
    if path.is_dir():
        raise UnreadableClip(path, "is a folder")
    if path.stat().st_size == 0:
        raise UnreadableClip(path, "is empty (0 bytes)")
    try:
        # `file:` and the whitelist: a name with a colon is no protocol, a playlist opens nothing.
        url = f"file:{os.path.abspath(path)}"
        with av.open(url, options={"protocol_whitelist": "file"}) as container:
            if not container.streams.video:
                raise UnreadableClip(path, "has no video stream")
            # One thread: the processes that read are what is parallel.
            container.streams.video[0].thread_type = "NONE"
            container.streams.video[0].codec_context.thread_count = 1
            yield container
    except (av.FFmpegError, OSError) as error:
        reason = (error.strerror or type(error).__name__).lower()
        raise UnreadableClip(path, f"cannot be decoded ({reason})") from None


def _frames(container: InputContainer) -> Iterator[VideoFrame]:
    for packet in container.demux(container.streams.video[0]):
        yield from _decoded(packet)


def _decoded(packet: av.Packet) -> list[VideoFrame]:
    """Frames that a packet completes; none where it is damaged, as players do it."""
    try:
        return packet.decode()
    except av.InvalidDataError:
        return []


def _pixels(frame: VideoFrame, short_side: int | None, interpolation: str = "bilinear") -> np.ndarray:
    how: dict[str, Any] = {"format": "rgb24", "threads": 1}  # PyAV would start one for each core, for every frame
    if short_side is None:
        pixels = frame.to_ndarray(**how)
    else:
        height, width = scaled_size(frame.height, frame.width, short_side)
        pixels = frame.reformat(width, height, interpolation=interpolation.upper(), **how).to_ndarray()
    return _upright(pixels, frame.rotation)


def _upright(pixels: np.ndarray, rotation: int) -> np.ndarray:
    """Frame as players show it: phones store portrait clips lying down, with an angle."""
    return np.rot90(pixels, k=round(rotation / 90))
