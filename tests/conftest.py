"""A small project in a folder of its own: videos of three colours, a tiny network, real jobs over them."""

from __future__ import annotations

import copy
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[1]
SHARED = ROOT.parent / "shared"  # real clips and the owners' lists, where they are to be had
COLOURS = {"blue": (40, 60, 200), "green": (50, 180, 70), "red": (200, 50, 60)}
GROUPS = 6
DATASET = "colours"

# Everything that config/config.yaml says is said here as well: the default may change, these tests stay.
SETTINGS: dict[str, Any] = {
    "datasets": [DATASET],
    "dataset_definitions": {
        DATASET: {
            "kind": "folder",
            "group": r"(?P<group>.+)_c\d+$",
            "test_fraction": 0.34,
            "validation_fraction": 0.25,
        }
    },
    "seeds": [0],
    "input": {"frames": 2, "img_size": 32, "short_side": 32, "crop_area": [0.5, 1.0], "views": 2},
    "train": {
        "epochs": 2,
        "batch_size": 6,
        "optimizer": "adamw",
        "lr": 0.01,
        "weight_decay": 0.05,
        "label_smoothing": 0.1,
        "validate_every": 1,
        "device": "cpu",
        "threads": 1,
        "workers": 0,
    },
    "teacher": {
        "model": "video_focalnet_tiny",
        "model_overrides": {"embed_dim": 6, "depths": [1, 1, 1, 1], "drop_path_rate": 0.0, "init": "narrow"},
        "train": {"epochs": 6, "lr": 0.01},
    },
    "student": {
        "model": "video_focalnet_tiny",
        "model_overrides": {"embed_dim": 4, "depths": [1, 1, 1, 1], "drop_path_rate": 0.0, "init": "narrow"},
        "clips_per_class": None,
        "train": {"epochs": 2, "lr": 0.01},
    },
    "distill": {"alpha": 0.5, "temperature": 2.0},
    "arms": {
        "teacher": {"network": "teacher", "seeds": [0]},
        "student": {"network": "student"},
        "distilled": {"network": "student", "distil_from": "teacher"},
        "teacher_few": None,
        "distilled_few": None,
    },
    "evaluate": {"clips": 1, "crops": 1, "resamples": 100},
    "ablation": {
        "run": [],
        "studies": {"epochs": None, "alpha_temperature": None, "labelled_clips": None, "protocol_effects": None},
    },
    "chosen_by": [],
}


@dataclass
class Project:
    """A project folder, which is the current one, and its settings."""

    root: Path
    settings: dict[str, Any]

    def config(self, values: Mapping[str, Any] | None = None):
        """The checked config, `values` (nested) over the settings."""
        from dvfl.config import check_config, merge

        return check_config(merge(self.settings, values or {}))

    def run(self, config, arm: str = "student", seed: int = 0, **others: Any):
        from dvfl.run import Run

        return Run(DATASET, "split1", config.protocol, arm, seed, **others)

    def train(self, arm: str = "student", values: Mapping[str, Any] | None = None, seed: int = 0) -> Path:
        """Trains an arm; its directory."""
        from dvfl.train.job import train_run

        config = self.config(values)
        run = self.run(config, arm, seed)
        train_run(config, run)
        return run.directory

    def checkpoints(self) -> list[Path]:
        """Of the runs that have begun and not ended."""
        return list(self.root.glob("results/runs/**/checkpoint.pt"))

    def saved_epochs(self) -> int:
        """How many epochs the one run that has begun has kept."""
        import torch

        return max((len(torch.load(file)["history"]) for file in self.checkpoints()), default=0)

    def wait_for_epochs(self, epochs: int, process: subprocess.Popen) -> None:
        """Waits until the one run that has begun has kept that many.

        More than the killed process before kept (`saved_epochs` after its end), or it is that one's work that is seen.
        """
        deadline = time.monotonic() + 300
        while self.saved_epochs() < epochs:
            assert process.poll() is None, process.communicate()[1]
            assert time.monotonic() < deadline, f"no checkpoint of {epochs} epochs within five minutes"
            time.sleep(0.02)

    def config_file(self, values: Mapping[str, Any] | None = None, name: str = "mine.yaml") -> Path:
        """The settings as a user's file over config/config.yaml."""
        from dvfl.config import merge

        path = self.root / name
        path.write_text(yaml.safe_dump(merge(self.settings, values or {})))
        return path


# A shell that starts pytest in the background lets it ignore Ctrl-C, and so would the processes that tests interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest come first, so that none of pytest-xdist's processes is left with them in the end."""
    items.sort(key=lambda item: "workflow" not in item.path.parts)


@pytest.fixture(scope="session")
def dvfl_command() -> Callable[..., subprocess.Popen]:
    """Starts `python -m dvfl ...` in the current folder, with both streams as text."""

    def start(*arguments: str | Path) -> subprocess.Popen:
        return subprocess.Popen(
            [sys.executable, "-m", "dvfl", *map(str, arguments)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        )

    return start


@pytest.fixture(scope="session")
def write_clip() -> Callable[..., Path]:
    """Writes a video of one colour whose brightness changes from frame to frame."""
    import av
    import numpy as np

    def write(path: Path, colour: tuple[int, int, int] = (200, 50, 60), frames: int = 6, size: int = 32) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        with av.open(str(path), "w") as file:
            stream = file.add_stream("mpeg4", rate=25)
            stream.height, stream.width, stream.pix_fmt = size, size, "yuv420p"
            shades = np.random.default_rng(len(path.name) + sum(colour)).integers(-20, 20, (frames, 4, 4, 3))
            for shade in shades:
                pixels = np.clip(np.array(colour) + shade.repeat(size // 4, 0).repeat(size // 4, 1), 0, 255)
                file.mux(stream.encode(av.VideoFrame.from_ndarray(pixels.astype(np.uint8), format="rgb24")))
            file.mux(stream.encode())
        return path

    return write


@pytest.fixture(scope="session")
def colour_clips(tmp_path_factory: pytest.TempPathFactory, write_clip: Callable[..., Path]) -> Path:
    """root/<colour>/<colour>_g<k>_c0.avi: three classes, six groups of one clip."""
    root = tmp_path_factory.mktemp("clips")
    for name, colour in COLOURS.items():
        for group in range(GROUPS):
            shifted = tuple(min(255, value + 5 * group) for value in colour)
            write_clip(root / name / f"{name}_g{group}_c0.avi", shifted)
    return root


@pytest.fixture(scope="session")
def settings(colour_clips: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Settings of the colour project; all tests share one MLflow store, since a new one takes seconds to make."""
    place = tmp_path_factory.mktemp("mlflow")
    values = copy.deepcopy(SETTINGS)
    values["dataset_definitions"][DATASET]["root"] = str(colour_clips)
    values["tracking"] = {"uri": f"sqlite:///{place / 'mlflow.db'}", "artifacts": str(place / "artifacts")}
    return values


@pytest.fixture(scope="session")
def made_once(settings: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Folders of finished work to copy: 'data' has index and split, 'teacher' a trained teacher as well."""
    folders: dict[str, Path] = {}

    def make(what: str) -> Path:
        if what in folders:
            return folders[what]
        place = tmp_path_factory.mktemp(what)
        project = Project(place, settings)
        if what == "teacher":
            shutil.copytree(make("data"), place, dirs_exist_ok=True)
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(place)
            if what == "data":
                make_data(project)
            else:
                project.train("teacher")
        folders[what] = place
        return place

    return make


def make_data(project: Project, values: Mapping[str, Any] | None = None) -> None:
    from dvfl import paths
    from dvfl.data.index import build_index, write_index
    from dvfl.data.splits import make_split, write_split

    definition = project.config(values).dataset_definitions[DATASET]
    index = build_index(definition.root, definition, workers=1)
    write_index(index, paths.index_path(DATASET))
    write_split(make_split(index, definition, "split1"), paths.split_path(DATASET, "split1"))


@pytest.fixture
def empty_project(tmp_path: Path, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> Project:
    """Settings, and nothing made yet."""
    place = tmp_path / "project"
    place.mkdir()
    monkeypatch.chdir(place)
    return Project(place, copy.deepcopy(settings))


@pytest.fixture
def project(empty_project: Project, made_once: Callable[[str], Path]) -> Project:
    """With index and split."""
    shutil.copytree(made_once("data"), empty_project.root, dirs_exist_ok=True)
    return empty_project


@pytest.fixture
def taught(empty_project: Project, made_once: Callable[[str], Path]) -> Project:
    """With index, split and a trained teacher."""
    shutil.copytree(made_once("teacher"), empty_project.root, dirs_exist_ok=True)
    return empty_project


@pytest.fixture
def another_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Project, str], Project]:
    """A project over a copy of a project's files; it becomes the current folder."""

    def copied(project: Project, name: str) -> Project:
        place = tmp_path / name
        shutil.copytree(project.root, place)
        monkeypatch.chdir(place)
        return Project(place, copy.deepcopy(project.settings))

    return copied


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> Callable[..., tuple[int, str, str]]:
    """What `dvfl ...` does, in this process: exit code, stdout, stderr."""

    def call(*arguments: str | Path) -> tuple[int, str, str]:
        from dvfl.cli import main

        monkeypatch.setattr(sys, "argv", ["dvfl", *map(str, arguments)])
        capsys.readouterr()
        try:
            main()
            code = 0
        except SystemExit as end:
            code = end.code or 0
        return code, *capsys.readouterr()

    return call


def shared(what: str) -> Path:
    if not (SHARED / what).is_dir():
        pytest.skip(f"not beside the project: {SHARED / what}")
    return SHARED / what


@pytest.fixture(scope="session")
def real_clips() -> Path:
    """224 clips of UCF101."""
    return shared("clips/ucf101_subset")


@pytest.fixture(scope="session")
def published_lists() -> Path:
    """Lists as their owners publish them."""
    return shared("splits")
