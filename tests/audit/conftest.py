"""Videos with something to see in them, and copies of videos as they go round."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from dvfl.data.reader import probe, read_frames


def write_pictures(path: Path, frames: np.ndarray, codec: str = "mpeg4", **options: str) -> Path:
    """Frames uint8 (T, H, W, 3) as a video."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as file:
        stream = file.add_stream(codec, rate=25, options=options)
        stream.height, stream.width, stream.pix_fmt = *frames.shape[1:3], "yuv420p"
        for pixels in frames:
            file.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")))
        file.mux(stream.encode())
    return path


def scene(seed: int, frames: int = 16, height: int = 96, width: int = 128) -> np.ndarray:
    """A textured picture that the camera pans over, uint8 (T, H, W, 3)."""
    rng = np.random.default_rng(seed)
    field = gaussian_filter(rng.normal(size=(height, width + 4 * frames)), 6)
    field = 255 * (field - field.min()) / np.ptp(field)
    picture = np.repeat(field[:, :, None], 3, axis=2).astype(np.uint8)
    return np.stack([picture[:, 4 * k : 4 * k + width] for k in range(frames)])


def copy_of(
    source: Path, path: Path, left: float = 0, top: float = 0, right: float = 0, bottom: float = 0, add: int = 0
):
    """The clip re-encoded with another codec, those shares of its sides cropped, and brighter by `add` levels."""
    frames = read_frames(source, np.arange(probe(source).frames))
    height, width = frames.shape[1:3]
    frames = frames[
        :, int(top * height) : height - int(bottom * height), int(left * width) : width - int(right * width)
    ]
    frames = frames[:, : frames.shape[1] // 2 * 2, : frames.shape[2] // 2 * 2]
    bright = np.clip(frames.astype(np.int16) + add, 0, 255).astype(np.uint8)
    return write_pictures(path, bright, "libx264", crf="34", preset="ultrafast")


@pytest.fixture
def clip(tmp_path: Path) -> Callable[..., Path]:
    """`clip(name, seed)`: a video of a scene of its own."""
    return lambda name, seed, **sizes: write_pictures(tmp_path / name, scene(seed, **sizes))


@pytest.fixture
def copied() -> Callable[..., Any]:
    return copy_of


@pytest.fixture
def grey(tmp_path: Path) -> Callable[[str], Path]:
    """`grey(name)`: a video that shows nothing."""
    return lambda name: write_pictures(tmp_path / name, np.full((16, 96, 128, 3), 120, np.uint8))
