"""The pipeline on a real SLURM that loses a job's process, and Snakemake itself, and still ends in the same tables."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pandas as pd
import psutil
import pytest
import yaml

from tests.workflow import cluster
from tests.workflow.conftest import COLOURS, GROUPS, PROJECT, small_config, write_clip

pytestmark = [
    pytest.mark.slurm,
    pytest.mark.skipif(cluster.why_not() is not None, reason=str(cluster.why_not())),
]
RUNS = Path("results/runs/colours/split1/as_described")
# Whatever differs from run to run, or with the machine: ids, and what was measured in time and memory.
MEASURED = r"latency|throughput|clips_per_second|memory|seconds|peak"


@pytest.fixture(scope="module")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with ExitStack() as stack:
        try:
            stack.enter_context(cluster.slurm(tmp_path_factory.mktemp("slurm")))
        except AssertionError as error:
            pytest.skip(f"SLURM is installed, but does not start here: {error}")
        yield


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("clips")
    for name, colour in COLOURS.items():
        for group in range(GROUPS):
            write_clip(root / f"{name}/{name}_g{group}_c0.avi", colour)
    return root


@pytest.fixture
def profile(tmp_path: Path) -> Path:
    """The profile, copied, its three lines set, for a small cluster and an impatient user who quotes no latency."""
    folder = tmp_path / "profile"
    shutil.copytree(PROJECT / "workflow/profiles/slurm", folder)
    file = folder / "config.yaml"
    text = re.sub(r"(?m)^  slurm_account:.*\n", "", file.read_text())
    text = text.replace("max-threads: 8", "max-threads: 2").replace("status-checks: 30", "status-checks: 3")
    text = text.replace("'--exclusive'", "''")
    file.write_text(text)
    return folder


def settings(clips: Path, teacher_epochs: int) -> dict:
    """A reduced pipeline: three arms, one seed, no study, no profile but of the two tiny networks."""
    config = small_config(clips) | {"seeds": [0], "chosen_by": []}
    config["ablation"] = {"run": [], "studies": dict.fromkeys(["epochs", "alpha_temperature", "labelled_clips"])}
    config["ablation"]["studies"]["protocol_effects"] = None
    config["profile"] |= {"paper_models": [], "batch_sizes": [1]}
    config["teacher"]["train"] = {"epochs": teacher_epochs, "lr": 0.002}
    return config


def snakemake_command(folder: Path) -> list[str | Path]:
    return [sys.executable, "-m", "snakemake", "--snakefile", PROJECT / "Snakefile", "--directory", folder]


@pytest.fixture
def start() -> Iterator[Callable[..., subprocess.Popen]]:
    """Starts Snakemake on the project's Snakefile in a folder; what it says goes to the folder's said.log."""
    started: list[subprocess.Popen] = []

    def begin(folder: Path, *arguments: str | Path) -> subprocess.Popen:
        environment = {key: value for key, value in os.environ.items() if key != "DVFL_CONFIG"}
        environment["PYTHONPATH"] = str(PROJECT)
        with (folder / "said.log").open("a") as log:
            started.append(
                subprocess.Popen(
                    [*snakemake_command(folder), *arguments],
                    cwd=folder,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    env=environment,
                    start_new_session=True,
                )
            )
        return started[-1]

    yield begin
    for process in started:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def wait_until(what: Callable[[], object], process: subprocess.Popen, folder: Path, seconds: float = 400) -> object:
    deadline = time.monotonic() + seconds
    while not (found := what()):
        said = (folder / "said.log").read_text()[-3000:]
        assert process.poll() is None, said
        assert time.monotonic() < deadline, said
        time.sleep(0.05)
    return found


def trainings(folder: Path, arm: str) -> list[psutil.Process]:
    """Processes of `dvfl train` that jobs run in this folder."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        words = [word.rsplit("/", 1)[-1] for word in (process.info["cmdline"] or [])[1:3]]
        with suppress(psutil.Error):
            ours = words == ["dvfl", "train"] and f"/{arm}/seed0" in process.info["cmdline"][3]
            if ours and process.cwd() == str(folder):
                found.append(process)
    return found


def checkpoint(folder: Path, arm: str) -> list[Path]:
    return list(folder.glob(f"{RUNS}/{arm}/seed0.resume/*/checkpoint.pt"))


def finish(process: subprocess.Popen, folder: Path) -> str:
    code = process.wait(timeout=600)
    said = (folder / "said.log").read_text()
    assert code == 0, said[-6000:]
    return said


def table(folder: Path) -> pd.DataFrame:
    """all.csv without ids, and without the values of what was measured in time and memory."""
    rows = pd.read_csv(folder / "results/tables/all.csv", keep_default_na=False, dtype=str).drop(columns="run_ids")
    measured = rows["metric"].str.contains(MEASURED) | rows["metric"].str.contains("ratio")
    rows.loc[measured, ["value", "ci_low", "ci_high", "difference"]] = ""
    return rows


def test_a_cluster_that_loses_processes_ends_in_the_tables_of_a_local_run(slurm, clips, profile, start, tmp_path):
    local, remote = tmp_path / "local", tmp_path / "remote"
    for folder in (local, remote):
        folder.mkdir()
        (folder / "small.yaml").write_text(yaml.safe_dump(settings(clips, teacher_epochs=40)))
    on_slurm = ["--workflow-profile", profile, "--configfile", remote / "small.yaml"]

    first = start(remote, *on_slurm)
    wait_until(lambda: checkpoint(remote, "teacher"), first, remote)
    (victim,) = trainings(remote, "teacher")
    victim.kill()  # SLURM sees a job fail, the profile tries again, and the training goes on
    (running,) = wait_until(
        lambda: [each for each in trainings(remote, "teacher") if each.pid != victim.pid], first, remote
    )
    os.killpg(first.pid, signal.SIGKILL)  # Snakemake is gone; the job that runs is not
    first.wait()
    assert running.is_running()

    subprocess.run([*snakemake_command(remote), *on_slurm, "--unlock"], check=True, capture_output=True, cwd=remote)
    second = start(remote, *on_slurm)
    here = start(local, "--cores", "2", "--configfile", local / "small.yaml")
    said = finish(second, remote)
    finish(here, local)

    assert "Trying to restart job" in said
    log = (remote / "results/logs/train" / RUNS.relative_to("results") / "teacher/seed0.log").read_text()
    # The job of the second submission found what that of the first had made, whichever of them came first.
    assert re.search("was made meanwhile|is there already", log), log
    for arm in ("teacher", "student", "distilled"):
        one, other = ((folder / RUNS / arm / "seed0/weights.safetensors").read_bytes() for folder in (remote, local))
        assert one == other, arm
    pd.testing.assert_frame_equal(table(remote), table(local))


def test_sigterm_from_slurm_reaches_the_training_which_saves_and_goes_on(slurm, clips, profile, start, tmp_path):
    """As before a time limit: `--signal=TERM@300` of the profile sends to the job's steps what scancel sends here."""
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(settings(clips, teacher_epochs=60)))
    target = RUNS / "teacher/seed0/weights.safetensors"
    pipeline = start(tmp_path, "--workflow-profile", profile, "--configfile", tmp_path / "small.yaml", "--", target)
    wait_until(lambda: checkpoint(tmp_path, "teacher"), pipeline, tmp_path)
    subprocess.run(["scancel", "--signal=TERM", "--user=root"], check=True)
    said = finish(pipeline, tmp_path)
    assert "Trying to restart job" in said
    (log, *_) = sorted(tmp_path.glob("results/logs/slurm/rule_train/*/*.log"))
    stopped = re.search(r"asked to end in epoch (\d+) of 60", log.read_text())
    assert stopped, log.read_text()[-3000:]
    assert len(pd.read_csv(tmp_path / RUNS / "teacher/seed0/history.csv")) == 60
