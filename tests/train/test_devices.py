"""GPUs that are not there, and real processes that lease them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dvfl.config import ConfigError, TrainConfig
from dvfl.train import devices
from dvfl.train.distributed import Processes

ROOT = Path(__file__).parents[2]
LEASE = """
import sys, time
from dvfl.train.devices import lease_gpus, visible_gpus
print(*lease_gpus(int(sys.argv[1]), visible_gpus(), share=sys.argv[2:] == ["share"]), flush=True)
time.sleep(600)
"""


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """A machine of as many GPUs as asked for: an nvidia-smi that says so, and a place for leases."""
    folder = tmp_path / "bin"
    folder.mkdir()

    def has(count: int) -> list[str]:
        names = [f"GPU-{letter}" for letter in "abcd"[:count]]
        program = folder / "nvidia-smi"
        program.write_text("#!/bin/sh\n" + "".join(f"echo {name}\n" for name in names))
        program.chmod(0o755)
        return names

    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("DVFL_GPU_LEASES", str(tmp_path / "leases"))
    monkeypatch.setattr(devices, "LEASES", tmp_path / "leases")
    monkeypatch.setattr(devices, "_held", {})
    monkeypatch.delenv(devices.VISIBLE, raising=False)
    yield has
    for file in devices._held.values():
        os.close(file)


@pytest.fixture
def job():
    """Starts a process that leases GPUs and keeps them; the lines that it says."""
    started = []

    def start(*arguments: str) -> subprocess.Popen:
        process = subprocess.Popen(
            [sys.executable, "-c", LEASE, *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()
        process.stdout.close()
        process.stderr.close()


def test_jobs_work_on_gpus_of_their_own_and_one_too_many_waits(machine, job):
    names = machine(2)
    jobs = [job("1") for _ in range(2)]
    taken = [each.stdout.readline().strip() for each in jobs]
    assert sorted(taken) == names
    third = job("1")
    line = third.stderr.readline()
    assert "waiting for 1 of 2 GPUs, 0 free now" in line
    assert all(f"{gpu}: process {each.pid} on" in line for gpu, each in zip(taken, jobs, strict=True))
    jobs[1].send_signal(signal.SIGKILL)  # the system lets go
    assert third.stdout.readline().strip() == taken[1]


def test_a_job_takes_all_that_it_needs_or_none(machine, job):
    names = machine(3)
    one = job("1")
    assert one.stdout.readline().strip() == names[0]
    three = job("3")
    assert "waiting for 3 of 3 GPUs, 2 free now" in three.stderr.readline()
    two = job("2")  # what the waiting one would need is free for those that can start
    assert two.stdout.readline().split() == names[1:]
    one.kill()
    two.kill()
    assert three.stdout.readline().split() == names


def test_those_that_share_do_so_among_themselves(machine, job):
    names = machine(2)
    assert job("1").stdout.readline().strip() == names[0]
    for _ in range(2):
        assert job("1", "share").stdout.readline().strip() == names[1]
    assert "waiting for 1 of 2 GPUs, 0 free now" in job("1").stderr.readline()


def test_more_gpus_than_there_are_is_no_reason_to_wait(machine):
    machine(2)
    with pytest.raises(ConfigError, match=r"train\.processes: 3 need a GPU each, but there are 2; lower it"):
        devices.lease_gpus(3, devices.visible_gpus())


@pytest.mark.parametrize(
    ("asked", "seen"),
    [
        (None, ["GPU-a", "GPU-b", "GPU-c"]),
        ("2,0", ["GPU-c", "GPU-a"]),
        ("GPU-b", ["GPU-b"]),
        ("", []),
        ("-1", []),
        ("MIG-x", ["MIG-x"]),
    ],
)
def test_what_the_environment_hides_is_not_taken(machine, monkeypatch, asked, seen):
    machine(3)
    if asked is not None:
        monkeypatch.setenv(devices.VISIBLE, asked)
    assert devices.visible_gpus() == seen


@pytest.mark.parametrize(
    ("device", "found"),
    [("auto", ["GPU-a", "GPU-b"]), ("cuda", ["GPU-a", "GPU-b"]), ("cuda:1", ["GPU-b"]), ("cpu", [])],
)
def test_the_device_of_the_config_says_which_may_be_taken(machine, device, found):
    machine(2)
    assert devices.candidates(TrainConfig(device=device)) == found


def test_a_gpu_that_is_not_there_is_refused(machine):
    machine(2)
    with pytest.raises(ConfigError, match=r"'cuda:2' was asked for, but there are 2 GPUs, from 0"):
        devices.candidates(TrainConfig(device="cuda:2"))


@pytest.mark.parametrize(
    ("gpus", "values", "count"),
    [
        (3, {}, 1),
        (3, {"gpus": 2}, 2),
        (1, {"gpus": 2}, 1),
        (0, {"gpus": 2}, 1),
        (0, {"processes": 2}, 2),
        (3, {"gpus": 2, "device": "cpu"}, 1),
    ],
)
def test_one_process_for_each_gpu_that_is_asked_for(machine, gpus, values, count):
    machine(gpus)
    assert devices.count_processes(TrainConfig(accumulate=2, **values)) == count


def test_a_process_sees_its_own_gpu_alone_and_keeps_it(machine, job):
    names = machine(2)
    assert job("1").stdout.readline().strip() == names[0]
    for _ in range(2):  # a trial trains and tests in one process
        Processes().take_gpu(TrainConfig())
        assert os.environ[devices.VISIBLE] == names[1]
    assert "waiting" in job("1").stderr.readline()


def test_a_job_on_the_cpu_takes_none(machine):
    machine(1)
    Processes().take_gpu(TrainConfig(device="cpu"))
    assert devices.VISIBLE not in os.environ


def test_a_training_waits_for_a_gpu_and_says_so(machine, job, project, dvfl_command):
    machine(1)
    other = job("1")
    other.stdout.readline()
    # PyTorch finds no such GPU, so the job goes on with the CPU when it has its lease.
    file = project.config_file({"train": {"device": "auto", "precision": "float32"}})
    run = "results/runs/colours/split1/as_described/student/seed0"
    process = dvfl_command("train", run, "--config", file)
    said = ""
    while "waiting for 1 of 1 GPUs" not in said:
        said = process.stderr.readline()
        assert said or process.poll() is None
    assert f"GPU-a: process {other.pid} on" in said
    time.sleep(0.5)
    assert process.poll() is None and not Path(run).exists()
    other.kill()
    process.communicate(timeout=120)
    assert process.returncode == 0 and (Path(run) / "run.json").exists()
