"""Tiny videos written with PyAV."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest

from dvfl.config import DatasetDefinition, MotionsConfig
from dvfl.data.motions import render_motions


def write_video(
    path: Path,
    frames: int = 20,
    height: int = 48,
    width: int = 64,
    codec: str = "mpeg4",
    pixels: str = "yuv420p",
    options: dict[str, str] | None = None,
) -> Path:
    """A video whose frame k is grey of level 10 k, so that frames tell their number."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as file:
        stream = file.add_stream(codec, rate=25, options=options or {})
        stream.height, stream.width, stream.pix_fmt = height, width, pixels
        for number in range(frames):
            level = np.full((height, width, 3), 10 * number % 256, np.uint8)
            file.mux(stream.encode(av.VideoFrame.from_ndarray(level, format="rgb24")))
        file.mux(stream.encode())
    return path


def frame_numbers(frames: np.ndarray) -> list[int]:
    """What `write_video` wrote into frames (T, H, W, 3), back from their grey levels."""
    return np.round(frames.mean(axis=(1, 2, 3)) / 10).astype(int).tolist()


@pytest.fixture
def video(tmp_path: Path) -> Callable[..., Path]:
    return lambda name, **options: write_video(tmp_path / name, **options)


@pytest.fixture
def numbers() -> Callable[[np.ndarray], list[int]]:
    return frame_numbers


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """root/<class>/<class>_g<k>_c<k>.avi: two classes, six groups of two clips each."""
    root = tmp_path / "clips"
    for name in ("run", "jump"):
        for group in range(6):
            for clip in range(2):
                path = root / name / f"{name}_g{group}_c{clip}.avi"
                write_video(path, frames=6, height=40, width=48 + 2 * group)
    return root


@pytest.fixture
def definition(folder: Path) -> DatasetDefinition:
    return DatasetDefinition(kind="folder", root=folder, group=r"(?P<group>.+)_c\d+$")


@pytest.fixture(scope="session")
def motions(tmp_path_factory: pytest.TempPathFactory) -> DatasetDefinition:
    """A small rendering of the embedded data set."""
    definition = DatasetDefinition(
        kind="motions",
        root=tmp_path_factory.mktemp("motions"),
        group=r"^v_\w+?_(?P<group>g\d+)_c\d+$",
        horizontal_flip=False,
        motions=MotionsConfig(train_groups=4, test_groups=2, clips_per_group=2, size=48),
    )
    render_motions(definition.motions, definition.root, 1)
    return definition
