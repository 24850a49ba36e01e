"""kill -9 and Ctrl-C of the whole pipeline: `dvfl results`, which `make results` calls, goes on by itself."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from tests.workflow.conftest import write_project

TARGET = "results/runs/colours/split1/as_described/teacher/seed0/weights.safetensors"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A project whose teacher takes long enough to be killed."""
    write_project(tmp_path, teacher={"train": {"epochs": 60, "lr": 0.001}})
    return tmp_path


def start(folder: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "dvfl", "results", "--config", "small.yaml", "--cores", "2", TARGET]
    return subprocess.Popen(
        command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )


def until_training(folder: Path, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 240
    while not list(folder.glob("results/runs/**/checkpoint.pt")):
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_ctrl_c_is_said_once_and_loses_no_epoch(folder):
    """A terminal sends it to every process: to Snakemake, the job's shell, its command and `tee`."""
    first = start(folder)
    until_training(folder, first)
    os.killpg(first.pid, signal.SIGINT)
    said, _ = first.communicate(timeout=120)
    assert first.returncode != 0
    assert said.count("dvfl: stopped; what is finished is kept, and the same command goes on from there") == 1, said
    assert "Traceback" not in said and "Broken pipe" not in said
    (checkpoint,) = folder.glob("results/runs/**/checkpoint.pt")
    assert len(torch.load(checkpoint)["history"]) > 0

    again = start(folder)
    said, _ = again.communicate(timeout=300)
    assert (folder / TARGET).exists(), said
    assert "goes on from where it was stopped" in said, said


def test_it_goes_on_after_kill_9(folder):
    first = start(folder)
    until_training(folder, first)

    second = start(folder)
    said, _ = second.communicate(timeout=60)
    assert second.returncode == 1
    assert "runs in this folder" in said and "Traceback" not in said

    os.killpg(first.pid, signal.SIGKILL)
    first.wait()
    assert list((folder / ".snakemake/locks").glob("*"))
    assert not (folder / TARGET).exists()

    again = start(folder)
    said, _ = again.communicate(timeout=300)
    assert (folder / TARGET).exists(), said
    assert not list(folder.glob("results/runs/**/checkpoint.pt"))
