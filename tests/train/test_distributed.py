"""Several processes do what one does: the loop, real jobs, resuming, and what ends a job early."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from dvfl.config import Config, ConfigError, DistillConfig, TrainConfig
from dvfl.data.errors import UnreadableClip
from dvfl.data.splits import read_split
from dvfl.distill.targets import CachedTargets, OnlineTargets
from dvfl.distill.task import Batch, DistillationTask, SupervisedTask, frozen
from dvfl.errors import Pruned, Stopped
from dvfl.evaluate import job as evaluation
from dvfl.files import read_json, sha256
from dvfl.paths import split_path
from dvfl.run import Run
from dvfl.train import job
from dvfl.train.checkpoint import Checkpoint
from dvfl.train.distributed import ALONE, ProcessEnded, Processes, run_on_processes
from dvfl.train.lease import LeaseTaken
from dvfl.train.loop import fit, micro_batches_of, resolve
from tests.train.views import CLASSES, Views

ROOT = Path(__file__).parents[2]
RUN = Path("results/runs/colours/split1/as_described")


def network(dropout: float = 0.2, seed: int = 0, batch_norm: bool = False) -> nn.Module:
    torch.manual_seed(seed)
    norm = nn.BatchNorm1d(16) if batch_norm else nn.LayerNorm(16)
    return nn.Sequential(nn.Flatten(), nn.Linear(2 * 3 * 8 * 8, 16), norm, nn.Dropout(dropout), nn.Linear(16, CLASSES))


def supervised(batch_norm: bool = False) -> SupervisedTask:
    return SupervisedTask(network(batch_norm=batch_norm))


def distillation(online: bool) -> DistillationTask:
    teacher = frozen(network(seed=4))
    logits = torch.randn((2, 26, CLASSES), generator=torch.Generator().manual_seed(1))
    targets = OnlineTargets(teacher) if online else CachedTargets(logits)
    return DistillationTask(network(), targets, DistillConfig(alpha=0.5, temperature=2.0))


# 26 clips in micro-batches of 4 and steps of 2 or 3 of them: the last micro-batch is not full where nothing is mixed,
# and the last step has fewer micro-batches than there are processes.
CASES = {
    "mixed": (lambda: distillation(online=True), {"mixup": 0.8, "cutmix": 1.0, "accumulate": 4, "epochs": 10}),
    "stored": (lambda: distillation(online=False), {"accumulate": 2, "epochs": 3, "optimizer": "adamw"}),
    "uneven": (supervised, {"accumulate": 3, "epochs": 3}),
    "statistics": (lambda: supervised(batch_norm=True), {"accumulate": 3, "epochs": 3, "mixup": 0.8}),
    "bfloat16": (supervised, {"accumulate": 2, "epochs": 2, "precision": "bfloat16"}),
    "float16": (supervised, {"accumulate": 2, "epochs": 3, "precision": "float16"}),
}


def recipe_of(values: dict):
    train = {"optimizer": "sgd", "lr": 0.02, "batch_size": 4, "device": "cpu"} | values
    return resolve(TrainConfig(**train), 0, CLASSES)


def trained(case: str, folder: Path, processes: Processes = ALONE, steps: int | None = None):
    """The trained task and its history; the last of the processes is asked to stop after so many steps."""
    make, values = CASES[case]
    task, asked = make(), iter(range(1, 1000))

    def stop() -> bool:
        return next(asked) == steps and processes.rank == processes.count - 1

    try:
        history = fit(task, Views(26), recipe_of(values), Checkpoint(folder / case), processes=processes, stop=stop)
    except Stopped:
        history = []
    return task, history


def keep(task, history: list, file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"state": task.model.state_dict(), "history": history}, file)


def train_cases(processes: Processes, folder: Path) -> None:
    torch.set_num_threads(1)
    for case in CASES:
        keep(*trained(case, folder, processes), folder / f"{case}.{processes.rank}.pt")
    trained("mixed", folder / "resumed", processes, steps=6)  # goes on where one process stopped
    items = processes.gathered([f"{processes.rank}{letter}" for letter in "ab"[processes.rank :]])
    keep_list(folder / f"gathered.{processes.rank}", items)


def keep_list(file: Path, items: list[str]) -> None:
    file.write_text(" ".join(items))


@pytest.fixture(scope="module")
def two(tmp_path_factory) -> Path:
    """What two processes leave."""
    folder = tmp_path_factory.mktemp("two")
    trained("mixed", folder / "resumed", steps=5)
    run_on_processes(TrainConfig(processes=2, accumulate=2, device="cpu"), train_cases, folder)
    return folder


def probabilities(state: dict[str, torch.Tensor], case: str) -> torch.Tensor:
    model = network(batch_norm=case == "statistics")
    model.load_state_dict(state)
    with torch.no_grad():
        return model.eval()(Views(26).views.float() / 255).softmax(1)


def assert_alike(one, other, tolerance: float = 1e-5) -> None:
    assert len(one) == len(other) > 0
    for row, its in zip(one, other, strict=True):
        assert row.keys() == its.keys()
        for name in row.keys() - {"seconds"}:
            assert row[name] == pytest.approx(its[name], rel=100 * tolerance, abs=tolerance), name


@pytest.mark.parametrize("case", ["mixed", "stored", "uneven", "statistics"])
def test_two_processes_end_where_one_that_accumulates_does(two, tmp_path, case):
    """After 20 steps of the mixed case, ten or so of the others."""
    task, history = trained(case, tmp_path)
    for rank in (0, 1):
        stored = torch.load(two / f"{case}.{rank}.pt")
        difference = probabilities(stored["state"], case) - probabilities(task.model.state_dict(), case)
        assert difference.abs().max() < 1e-4
        assert_alike(stored["history"], history)
    assert (
        probabilities(network(batch_norm=case == "statistics").state_dict(), case)
        - probabilities(task.model.state_dict(), case)
    ).abs().max() > 0.1  # there was something to learn


@pytest.mark.parametrize("case", ["bfloat16", "float16"])
def test_mixed_precision_trains_on_two_processes_as_on_one(two, tmp_path, case):
    task, history = trained(case, tmp_path)
    stored = torch.load(two / f"{case}.0.pt")
    difference = probabilities(stored["state"], case) - probabilities(task.model.state_dict(), case)
    assert difference.abs().max() < 0.02
    assert history[-1]["loss"] == pytest.approx(stored["history"][-1]["loss"], rel=0.02)


def test_both_processes_hold_the_same_bits(two):
    for case in CASES:
        states = [torch.load(two / f"{case}.{rank}.pt")["state"] for rank in (0, 1)]
        assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_a_training_goes_on_on_another_number_of_processes(two, tmp_path):
    """One process for 5 steps, then two for 6, then one again: two steps are an epoch."""
    state = torch.load(two / "resumed/mixed/checkpoint.pt")
    assert [row["epoch"] for row in state["history"]] == [1, 2, 3, 4, 5]
    assert state["begun"]["steps"] == 1 and state["begun"]["totals"]["clips"] == 16
    whole, history = trained("mixed", tmp_path)
    resumed, rest = trained("mixed", two / "resumed")
    difference = probabilities(resumed.model.state_dict(), "mixed") - probabilities(whole.model.state_dict(), "mixed")
    assert difference.abs().max() < 1e-4
    assert_alike(rest, history)


def test_what_is_gathered_is_in_the_order_of_the_processes_everywhere(two):
    assert [(two / f"gathered.{rank}").read_text() for rank in (0, 1)] == ["0a 0b 1b"] * 2


@pytest.mark.parametrize(("micro_batches", "accumulate"), [(12, 4), (13, 4), (7, 3), (1, 4), (5, 5)])
@pytest.mark.parametrize("count", [1, 2, 3])
def test_each_micro_batch_is_one_processes_and_steps_end_together(micro_batches, accumulate, count):
    shares = [micro_batches_of(Processes(rank, count), micro_batches, accumulate) for rank in range(count)]
    done = [each.number for share in shares for each in share if each.counts]
    assert sorted(done) == list(range(micro_batches))
    steps = math.ceil(micro_batches / accumulate)
    for share in shares:
        assert [each.step for each in share if each.last] == list(range(steps))
        assert {each.step for each in share} == set(range(steps))
        assert all(each.number // accumulate == each.step for each in share)


def test_a_process_without_a_micro_batch_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"train\.accumulate: 2 micro-batches of a step are too few for 3"):
        fit(supervised(), Views(26), recipe_of({"accumulate": 2}), Checkpoint(tmp_path), processes=Processes(0, 3))


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"processes": 2}, "accumulate 1: that counts the micro-batches of a step, of all processes together"),
        ({"gpus": 4, "accumulate": 3}, "has 4 processes, but accumulate 3"),
        ({"gpus": 4, "processes": 2, "accumulate": 4}, "2 processes for 4 gpus"),
    ],
)
def test_numbers_that_do_not_fit_each_other_are_refused_in_the_config(values, said):
    with pytest.raises(ValueError, match=said):
        TrainConfig(**values)


# ------------------------------------------------------------------------------------------------------- ended early


def fail(processes: Processes, what: str) -> None:
    """Process 1 fails while the other waits for it."""
    if processes.rank == 1:
        if what == "user":
            raise UnreadableClip("red/clip.avi", "is empty")
        if what == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        raise ZeroDivisionError("a bug")
    processes.gathered([0])


@pytest.mark.parametrize(
    ("what", "kind", "said"),
    [
        ("user", UnreadableClip, "red/clip.avi: is empty"),
        ("killed", ProcessEnded, r"process 1 of 2 was ended by SIGKILL.*run the same command again"),
        ("bug", ZeroDivisionError, "a bug"),
    ],
)
def test_what_ends_one_process_ends_all_and_is_said(what, kind, said):
    begin = time.monotonic()
    with pytest.raises(kind, match=said) as caught:
        run_on_processes(TrainConfig(processes=2, accumulate=2, device="cpu"), fail, what)
    assert time.monotonic() - begin < 60
    if what == "bug":  # where it was, too
        assert "in fail" in "".join(caught.value.__notes__)


class Depthwise(nn.Module):
    """A depthwise convolution of channels-last activations, as in focal modulation."""

    def __init__(self) -> None:
        super().__init__()
        self.kernel = nn.Conv2d(3, 3, 3, padding=1, groups=3)

    def forward(self, clips: torch.Tensor) -> torch.Tensor:
        return self.kernel(clips.mean(1).contiguous(memory_format=torch.channels_last)).mean((2, 3))


def note_warnings(processes: Processes, folder: Path) -> None:
    clips, labels = torch.rand(2, 2, 3, 8, 8), torch.tensor([0, 1])
    soft = nn.functional.one_hot(labels, CLASSES).float()
    with warnings.catch_warnings(record=True) as seen:
        objective = processes.parallel(SupervisedTask(Depthwise()), torch.device("cpu"))
        objective(Batch(clips, labels, soft, labels, 0)).total.backward()
    keep_list(folder / str(processes.rank), [str(each.message) for each in seen])


def test_gradients_of_depthwise_kernels_warn_of_nothing(tmp_path):
    run_on_processes(TrainConfig(processes=2, accumulate=2, device="cpu"), note_warnings, tmp_path)
    assert [(tmp_path / str(rank)).read_text() for rank in (0, 1)] == ["", ""]


# ---------------------------------------------------------------------------------------------------------- real jobs

TWO = {"train": {"batch_size": 2, "accumulate": 2, "processes": 2}}
ONE = {"train": {"batch_size": 2, "accumulate": 2}}


def test_a_distillation_and_its_test_are_the_same_on_two_processes(taught, another_folder, monkeypatch):
    """Mixed clips, the teacher in the loop, stochastic depth; 21 steps. Then each predicts its share of the test."""
    changed = {"mixup": 0.8, "cutmix": 1.0}
    student = {"train": {"epochs": 7}, "model_overrides": {"drop_path_rate": 0.3}}
    outcomes = []
    for values in (TWO, ONE):
        place = another_folder(taught, f"processes{values['train'].get('processes', 1)}")
        values = {"train": values["train"] | changed, "student": student}
        config = place.config(values)
        directory = place.train("distilled", values)
        evaluation.test_run(config, place.run(config, "distilled"))
        frame, about = pd.read_csv(directory / "history.csv"), read_json(directory / "run.json")
        outcomes.append((frame, about, pd.read_parquet(directory / "predictions.parquet")))
        split = read_split(split_path("colours", "split1"))
        expected = sorted(split.loc[split["subset"] == "test", "clip_id"])
        assert outcomes[-1][2]["clip_id"].tolist() == expected  # each once
        assert not list(place.root.glob("results/runs/**/checkpoint.pt"))
    (rows, about, predictions), (its_rows, its_about, its_predictions) = outcomes
    assert (about["processes"], its_about["processes"]) == (2, 1)
    assert about["key"] == its_about["key"]  # so that either goes on where the other stopped
    difference = np.stack(predictions["probabilities"]) - np.stack(its_predictions["probabilities"])
    assert np.abs(difference).max() < 1e-4
    assert_alike(rows.to_dict("records"), its_rows.to_dict("records"))


def test_a_test_on_two_processes_has_the_bytes_of_one(taught):
    files = []
    for values in (TWO | {"evaluate": {"batch_size": 2}}, ONE | {"evaluate": {"batch_size": 2}}):
        config = taught.config(values)
        evaluation.test_run(config, taught.run(config, "teacher"))
        files.append(sha256(RUN / "teacher/seed0/predictions.parquet"))
    assert files[0] == files[1]


def test_under_torchrun_the_same_command_shares_the_work(project, another_folder, monkeypatch):
    config = project.config_file(ONE)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "dvfl"]
    for step in ("train", "test"):
        done = subprocess.run(
            [*torchrun, step, str(RUN / "student/seed0"), "--config", str(config)],
            capture_output=True,
            text=True,
            env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        )
        assert done.returncode == 0, done.stderr
    about = read_json(RUN / "student/seed0/run.json")
    table = pd.read_parquet(RUN / "student/seed0/predictions.parquet")
    assert about["processes"] == 2 and table["clip_id"].is_unique
    other = another_folder(project, "alone").train("student", ONE)
    frames = [pd.read_csv(place / "history.csv") for place in (project.root / RUN / "student/seed0", other)]
    assert_alike(*(frame.to_dict("records") for frame in frames))


def end_after(epoch: int, top1: float) -> bool:
    """Stands for a search that prunes a trial after its second epoch."""
    return epoch == 2


def train_and_tell(processes: Processes, config: Config, run: Run) -> None:
    """Each process leaves how its training ended."""
    torch.set_num_threads(1)
    try:
        job._train_run(processes, config, run, False, None, end_after)
    except Pruned as pruned:
        Path(f"pruned.{processes.rank}").write_text(str(pruned))


def test_all_processes_agree_that_a_trial_is_pruned(project):
    """Both end by themselves, in the same epoch, though the first alone asks Optuna; nobody goes on with it."""
    values = {**TWO, "student": {"train": {"epochs": 5}}}
    config = project.config(values)
    run = project.run(config, stage="selection")
    run_on_processes(TrainConfig(processes=2, accumulate=2, device="cpu"), train_and_tell, config, run)
    said = [Path(f"pruned.{rank}").read_text() for rank in (0, 1)]
    assert said[0] == said[1] and said[0].endswith("pruned after epoch 2 of 5")
    assert not list(project.root.glob("results/**/checkpoint.pt"))


def test_interrupted_and_killed_jobs_leave_no_process_and_go_on(project, dvfl_command):
    values = {"train": TWO["train"], "student": {"train": {"epochs": 300}}}
    file = project.config_file(values)
    for number, code in ((signal.SIGINT, 130), (signal.SIGTERM, os.EX_TEMPFAIL), (signal.SIGKILL, -signal.SIGKILL)):
        process = dvfl_command("train", RUN / "student/seed0", "--config", file)
        project.wait_for_epochs(project.saved_epochs() + 1, process)
        if number == signal.SIGINT:
            with pytest.raises(LeaseTaken, match=r"process \d+ on"):
                project.train("student", {**values, "train": ONE["train"]})
        process.send_signal(number)
        _, said = process.communicate(timeout=120)
        assert process.returncode == code
        if number != signal.SIGKILL:  # then its workers hear of it at any moment, that of their own end included
            assert "Traceback" not in said
        assert ("asked to end in epoch" in said) == (number == signal.SIGTERM)
    lock = RUN / "student/seed0.resume/lease.holder"
    for _ in range(300):  # the workers of a killed job stop by themselves, and let go of the run
        if not lock.exists():
            break
        time.sleep(0.1)
    assert not lock.exists()
    assert 3 <= project.saved_epochs() < 300
