"""A whole pipeline, run once, small: three colours to tell apart, tiny networks, every rule of the DAG."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import yaml

from dvfl.config import merge

PROJECT = Path(__file__).resolve().parents[2]
COLOURS = {"red": (200, 40, 40), "green": (40, 200, 40), "blue": (40, 40, 200)}
GROUPS = 8


def write_clip(path: Path, colour: tuple[int, int, int], frames: int = 6) -> None:
    """A clip of 40 x 32 pixels in one colour with a little noise."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(abs(hash(path.name)) % 2**32)
    with av.open(str(path), "w") as file:
        stream = file.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 40, 32, "yuv420p"
        for _ in range(frames):
            pixels = np.clip(np.array(colour) + rng.normal(0, 20, (32, 40, 3)), 0, 255).astype(np.uint8)
            file.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        file.mux(stream.encode())


def small_config(root: Path) -> dict:
    tiny = {"model": "video_focalnet_w12_d1121", "train": {"epochs": 6, "lr": 0.002}}
    return {
        "datasets": ["colours"],
        "dataset_definitions": {
            "colours": {"kind": "folder", "root": str(root), "group": r"^(?P<group>.+)_c\d+$", "test_fraction": 0.25}
        },
        "seeds": [0, 1],
        "input": {"frames": 2, "img_size": 32, "short_side": 32, "views": 2},
        "train": {"batch_size": 4},
        "teacher": {**tiny, "model": "video_focalnet_w24_d1121"},
        "student": {**tiny, "clips_per_class": 3},
        "chosen_by": ["alpha_temperature"],
        "arms": {"teacher_few": None, "distilled_few": None},
        "ablation": {
            "run": ["alpha_temperature", "labelled_clips"],
            "studies": {
                "epochs": None,
                "alpha_temperature": {"grid": {"distill.alpha": [0.5], "distill.temperature": [1, 4, 10]}},
                "labelled_clips": {
                    "seeds": [0],
                    "points": [{"student.clips_per_class": 3}, {"student.clips_per_class": 2}],
                },
            },
        },
        "evaluate": {"resamples": 100},
        "profile": {
            "paper_models": ["vfl_net"],
            "frames": 2,
            "img_size": 64,
            "repeats": 3,
            "repeats_small": 3,
            "benchmark": False,
        },
    }


def snakemake(folder: Path, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Snakemake on the project's Snakefile with `folder` as its working directory; output in .stdout."""
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(PROJECT / "Snakefile"), "--directory", str(folder)]
    environment = {key: value for key, value in os.environ.items() if key != "DVFL_CONFIG"}
    done = subprocess.run(
        [*command, *arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment
    )
    if check and done.returncode:
        pytest.fail(f"snakemake {' '.join(arguments)} exited {done.returncode}\n{done.stdout[-6000:]}")
    return done


def write_project(folder: Path, **changes: Any) -> None:
    """Clips, one of them no video, and small.yaml, the config of a small run with `changes` laid over its sections."""
    for name, colour in COLOURS.items():
        for group in range(GROUPS):
            write_clip(folder / f"clips/{name}/{name}_g{group}_c0.avi", colour)
    (folder / "clips/red/notes_c0.avi").write_text("this is no video")
    (folder / "small.yaml").write_text(yaml.safe_dump(merge(small_config(folder / "clips"), changes)))


@pytest.fixture(scope="session")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a finished small run, with its config in small.yaml. It takes minutes: one file's tests use it."""
    folder = tmp_path_factory.mktemp("pipeline")
    write_project(folder)
    snakemake(folder, "--cores", "2", "--configfile", str(folder / "small.yaml"))
    return folder
