"""Delivery to real stores: everything arrives, nothing twice, and training goes on meanwhile."""

from __future__ import annotations

import math
import multiprocessing
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest

from dvfl.config import ConfigError, TrackingConfig
from dvfl.run import Run
from dvfl.track import (
    OUTBOXES,
    Tracker,
    deliver_pending,
    delivery,
    outbox_directory,
    prepare,
    run_id,
    trouble,
    ui_command,
    ui_environment,
)
from dvfl.track import tracker as tracker_module

if TYPE_CHECKING:
    from mlflow import MlflowClient

EPOCHS = 20


def local_store(project: Path, name: str = "mlflow.db") -> TrackingConfig:
    return TrackingConfig(uri=f"sqlite:///{project}/results/{name}", artifacts=f"{project}/results/mlartifacts")


@pytest.fixture(scope="session")
def migrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A new store's file: its migration takes seconds, so once."""
    project = tmp_path_factory.mktemp("store")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(project)
        assert prepare(local_store(project), {})["reachable"]
    return project / "results/mlflow.db"


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty project, which we are in."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "results").mkdir()
    return tmp_path


@pytest.fixture
def local(project: Path, migrated: Path) -> TrackingConfig:
    """The project's own store."""
    shutil.copy(migrated, project / "results/mlflow.db")
    return local_store(project)


def a_run(seed: int = 0, **values: str) -> Run:
    return Run("motions", "s1", "as_described", "student", seed, **values)


def place(run: Run) -> Path:
    return outbox_directory(run.directory, "key")


def train(tracking: TrackingConfig, run: Run, last: int = EPOCHS) -> str | None:
    with Tracker.open(tracking, run, place(run), tags={"commit": "abc"}) as tracker:
        tracker.params({"train.epochs": EPOCHS, "seed": run.seed})
        for epoch in range(1, last + 1):
            tracker.metrics({"loss": 1 / epoch, "undefined": float("nan")}, step=epoch)
        scores = Path(f"scores{run.seed}.json")
        scores.write_text("{}")
        tracker.artifact(scores, "test")
        return tracker.run_id


def in_processes(work: Callable[..., object], *arguments: tuple) -> list[int | None]:
    """Exit codes of processes that do the work at the same time, one for each arguments."""
    import mlflow  # noqa: F401 - before the fork, which spares each of them the import

    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=work, args=each) for each in arguments]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    return [process.exitcode for process in processes]


def client(tracking: TrackingConfig) -> MlflowClient:
    from mlflow import MlflowClient

    return MlflowClient(tracking.uri)


def stored_runs(tracking: TrackingConfig) -> list:
    experiment = client(tracking).get_experiment_by_name("dvfl/motions")
    return client(tracking).search_runs([experiment.experiment_id])


def assert_complete(tracking: TrackingConfig, run) -> None:
    """Every epoch once, and all the rest."""
    store = client(tracking)
    losses = store.get_metric_history(run.info.run_id, "loss")
    epochs = range(1, EPOCHS + 1)
    assert [(point.step, point.value) for point in losses] == [(each, 1 / each) for each in epochs]
    undefined = store.get_metric_history(run.info.run_id, "undefined")
    assert [point.step for point in undefined] == list(epochs)
    assert all(math.isnan(point.value) for point in undefined)
    seed = run.info.run_name.rpartition("seed")[2]
    assert run.data.params == {"train.epochs": str(EPOCHS), "seed": seed}
    assert run.data.tags["commit"] == "abc"
    assert run.info.status == "FINISHED"
    artifacts = store.list_artifacts(run.info.run_id, "test")
    assert [artifact.path for artifact in artifacts] == [f"test/scores{seed}.json"]


def test_importing_it_imports_neither_mlflow_nor_torch() -> None:
    code = "import sys, dvfl.track; sys.exit(bool({'mlflow', 'torch'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[2])
    assert done.returncode == 0


def test_a_run_arrives(local: TrackingConfig, capfd: pytest.CaptureFixture) -> None:
    id_in_mlflow = train(local, a_run())
    (run,) = stored_runs(local)
    assert_complete(local, run)
    assert run.info.run_id == id_in_mlflow == run_id(place(a_run()), local) == run_id(place(a_run()))
    assert run.info.run_name == "s1/as_described/student/seed0"
    assert capfd.readouterr() == ("", "")  # MLflow is silent


def test_eight_processes_on_a_new_store(project: Path) -> None:
    new = local_store(project)
    assert in_processes(train, *[(new, a_run(seed)) for seed in range(8)]) == [0] * 8
    assert deliver_pending(new) == 0
    runs = stored_runs(new)
    assert sorted(run.data.params["seed"] for run in runs) == [str(seed) for seed in range(8)]
    for run in runs:
        assert_complete(new, run)


def open_until_killed(tracking: TrackingConfig) -> None:
    """Dies while MLflow makes the tables of a new store."""
    from sqlalchemy import event
    from sqlalchemy.engine import Engine

    def die(connection, cursor, statement: str, *arguments: object) -> None:
        if "alembic_tmp" in statement:
            os.kill(os.getpid(), signal.SIGKILL)

    event.listen(Engine, "before_cursor_execute", die)
    prepare(tracking, {})


def test_a_new_store_whose_making_was_cut_short_is_made_again(project: Path) -> None:
    new = local_store(project)
    assert in_processes(open_until_killed, (new,)) == [-signal.SIGKILL]
    train(new, a_run())
    assert deliver_pending(new) == 0
    (run,) = stored_runs(new)
    assert_complete(new, run)


def train_until_killed(tracking: TrackingConfig, run: Run, number: int) -> None:
    """Trains until MLflow has taken something for the n-th time, and dies before that is noted."""
    save, calls = delivery._save, []

    def save_or_die(*arguments: object) -> None:
        calls.append(arguments)
        if len(calls) == number:
            os.kill(os.getpid(), signal.SIGKILL)
        save(*arguments)

    delivery._save = save_or_die
    tracker_module.SHARE = 1  # delivers at every call
    train(tracking, run)


@pytest.mark.parametrize("number", [1, 2, 3, 10])
def test_a_killed_run_goes_on_as_one_run(local: TrackingConfig, number: int) -> None:
    assert in_processes(train_until_killed, (local, a_run(), number)) == [-signal.SIGKILL]
    (killed,) = stored_runs(local)
    assert killed.info.status == "RUNNING"
    train(local, a_run())  # all epochs are trained again, as before the first checkpoint
    (run,) = stored_runs(local)
    assert run.info.run_id == killed.info.run_id
    assert_complete(local, run)


def test_everything_sent_again_changes_nothing(local: TrackingConfig) -> None:
    train(local, a_run())
    noted = place(a_run()) / "0" / delivery.FILE
    before = noted.read_text()
    noted.unlink()
    assert deliver_pending(local) == 0
    assert noted.read_text() == before
    (run,) = stored_runs(local)
    assert_complete(local, run)


def test_a_failed_run_goes_on_and_a_finished_one_begins_anew(local: TrackingConfig) -> None:
    run = a_run()
    with pytest.raises(ZeroDivisionError), Tracker.open(local, run, place(run)):
        raise ZeroDivisionError
    (first,) = stored_runs(local)
    assert first.info.status == "FAILED"
    with Tracker.open(local, run, place(run)) as tracker:
        assert tracker.run_id == first.info.run_id
        assert [each.info.status for each in stored_runs(local)] == ["RUNNING"]
    with Tracker.open(local, run, place(run), reopen=True) as tracker:
        assert tracker.run_id == first.info.run_id
    with Tracker.open(local, run, place(run)) as tracker:
        assert tracker.run_id != first.info.run_id
    assert [each.info.status for each in stored_runs(local)] == ["FINISHED", "FINISHED"]


def test_another_store_gets_everything(project: Path, local: TrackingConfig) -> None:
    train(local, a_run())
    shutil.copy("results/mlflow.db", "results/other.db")
    other = local_store(project, "other.db")
    client(other).delete_run(stored_runs(other)[0].info.run_id)
    assert deliver_pending(other) == 0
    (run,) = stored_runs(other)
    assert_complete(other, run)


def test_a_deleted_run_is_written_anew_when_its_job_goes_on(local: TrackingConfig) -> None:
    run = a_run()
    with Tracker.open(local, run, place(run)) as tracker:
        tracker.metrics({"loss": 1.0}, step=1)
        client(local).delete_run(tracker.run_id)
        tracker.metrics({"loss": 0.5}, step=2)
    (stored,) = stored_runs(local)
    assert len(client(local).get_metric_history(stored.info.run_id, "loss")) == 2


def test_a_refused_record_does_not_hold_up_the_rest(local: TrackingConfig, capfd) -> None:
    run = a_run()
    with Tracker.open(local, run, place(run)) as tracker:
        client(local).log_param(tracker.run_id, "lr", "somebody else's")
        tracker.params({"lr": 0.1})
        tracker.metrics({"loss": 1.0}, step=1)
    (stored,) = stored_runs(local)
    assert stored.data.metrics == {"loss": 1.0}
    assert "refuses a record" in capfd.readouterr().err


def test_trials_are_nested_under_their_study(local: TrackingConfig) -> None:
    ready = prepare(local, {"motions": ["sweep"], "ucf101": []})
    assert prepare(local, {"motions": ["sweep"], "ucf101": []}) == ready
    assert set(ready["experiments"]) == {"dvfl/motions", "dvfl/ucf101"}
    trials = [a_run(seed, study=study, trial="t") for study in ("sweep", "late") for seed in (0, 1)]
    assert in_processes(train, *[(local, trial) for trial in trials]) == [0] * 4
    runs = {run.info.run_name: run for run in stored_runs(local)}
    assert len(runs) == len(stored_runs(local)) == 6  # each parent once
    parent = runs["sweep"]
    assert parent.info.run_id == ready["experiments"]["dvfl/motions"]["studies"]["sweep"]
    assert {run.info.status for run in runs.values()} == {"FINISHED"}
    for trial in trials:
        tags = runs[trial.name].data.tags
        assert tags["mlflow.parentRunId"] == runs[trial.study].info.run_id


@pytest.mark.parametrize("before", ["a trial", "the study"])
def test_a_study_that_was_made_twice_keeps_its_trials_together(local: TrackingConfig, before: str) -> None:
    """The answer to its creation was lost; a trial may have found either of the two."""
    store = client(local)
    prepare(local, {"motions": []})
    (experiment,) = [each for each in store.search_experiments() if each.name == "dvfl/motions"]
    trial, later = (a_run(seed, study="sweep", trial="t") for seed in (0, 1))
    now = int(time.time() * 1000)
    if before == "a trial":  # the first request was carried out only after another had made the study
        train(local, trial)
    twins = [
        store.create_run(experiment.experiment_id, start, {"dvfl.id": "study:sweep", "study": "sweep"}, "sweep")
        for start in (now - 60_000, now)
    ]
    train(local, trial)
    train(local, later)
    runs = stored_runs(local)
    assert sorted(run.info.run_name for run in runs).count("sweep") == 1
    (parent,) = [run.info.run_id for run in runs if run.info.run_name == "sweep"]
    assert parent == twins[0].info.run_id
    nested = [run for run in runs if run.info.run_name != "sweep"]
    assert [run.data.tags["mlflow.parentRunId"] for run in nested] == [parent] * len(nested)
    assert len(nested) == (3 if before == "a trial" else 2)


# ------------------------------------------------------------------------------------------ a store in trouble


@contextmanager
def silent_server() -> Iterator[str]:
    """The address of a server that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


def closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


@contextmanager
def trickling_server() -> Iterator[str]:
    """The address of a server whose answer comes a byte at a time and has no end: no timeout of a socket passes."""

    def answer(connection: socket.socket) -> None:
        with connection, suppress(OSError):
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n")
            while not over.wait(0.1):
                connection.sendall(b" ")

    def serve() -> None:
        with suppress(OSError):
            while True:
                threading.Thread(target=answer, args=server.accept()[:1], daemon=True).start()

    over = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=serve, daemon=True).start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}"
        over.set()


def test_a_server_whose_answer_has_no_end_does_not_hold_up_training(
    project: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(tracker_module, "PATIENCE", 1.0)
    monkeypatch.setattr(tracker_module, "PATIENCE_FOR_ID", 2.0)
    with trickling_server() as address:
        begin = time.monotonic()
        assert train(TrackingConfig(uri=address), a_run()) is None
        assert 4 < time.monotonic() - begin < 9  # a second at the start and at the end, two for the id
        (line,) = capfd.readouterr().err.splitlines()
    assert "no answer within 1 s; the run goes on, kept in results/tracking" in line


def test_a_server_that_hangs_does_not_hold_up_training(
    local: TrackingConfig, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    with silent_server() as address:
        begin = time.monotonic()
        assert train(TrackingConfig(uri=address), a_run()) is None
        assert time.monotonic() - begin < 6  # a second at the start, for the id, and at the end
    assert len(capfd.readouterr().err.splitlines()) == 1
    assert run_id(place(a_run()), local) is None
    assert deliver_pending(local) == 0
    (run,) = stored_runs(local)
    assert_complete(local, run)
    assert run_id(place(a_run()), local) == run_id(place(a_run())) == run.info.run_id


@pytest.mark.parametrize("server", ["silent_server", "trickling_server"])
def test_a_server_that_hangs_holds_up_a_command_no_longer_than_is_said(
    local: TrackingConfig, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture, server: str
) -> None:
    """However many runs are pending; each would be waited for the 30 s of a request, or for ever."""
    for seed in range(3):
        train(local, a_run(seed))
    monkeypatch.setattr(trouble, "PATIENCE_FOR_ALL", 1.0)
    with globals()[server]() as address:
        tracking = TrackingConfig(uri=address)
        begin = time.monotonic()
        assert prepare(tracking, {"motions": ["sweep"]})["reachable"] is False
        assert deliver_pending(tracking) == 3
        assert time.monotonic() - begin < 5
    prepared, delivered = capfd.readouterr().err.splitlines()
    assert "not done within 1 s; runs are kept" in prepared
    assert "not done within 1 s; 3 of 3 runs still to be delivered, s1/as_described/student/seed0 for one" in delivered
    assert "`dvfl tables` or `dvfl ui`" in delivered


@pytest.mark.parametrize(
    "uri",
    ["http://me:s3cret@127.0.0.1:{port}", "sqlite:////proc/nowhere/mlflow.db?password=s3cret"],
)
def test_a_store_that_is_down_is_told_once_without_credentials(
    project: Path, uri: str, capfd: pytest.CaptureFixture
) -> None:
    tracking = TrackingConfig(uri=uri.format(port=closed_port()))
    assert prepare(tracking, {"motions": []})["reachable"] is False
    assert train(tracking, a_run()) is None
    assert deliver_pending(tracking) == 1
    lines = capfd.readouterr().err.splitlines()
    assert len(lines) == 3  # one each
    texts = [path.read_text() for path in Path("results").rglob("*") if path.is_file()]
    assert not any("s3cret" in text for text in [*lines, *texts])


def test_ui_opens_on_loopback_and_takes_what_was_pending(project: Path, local: TrackingConfig) -> None:
    """A server that is down at first: training goes on, and all arrives when it is up."""
    port = closed_port()
    server = TrackingConfig(uri=f"http://127.0.0.1:{port}")
    assert train(server, a_run()) is None

    with (project / "server.log").open("w") as log:
        process = subprocess.Popen(ui_command(local, port), env=ui_environment(local), stdout=log, stderr=log)
    try:
        page = fetch(f"http://127.0.0.1:{port}/")
        assert "<!doctype html>" in page
        assert "experiments" in fetch(f"http://localhost:{port}/ajax-api/2.0/mlflow/experiments/search?max_results=5")
        for _ in range(2):  # the second time everything is sent again
            assert deliver_pending(server) == 0
            (run,) = stored_runs(local)
            assert_complete(local, run)
            (place(a_run()) / "0" / delivery.FILE).unlink()
    finally:
        process.terminate()
        assert process.wait(20) == 0


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_ui_that_is_told_to_stop_leaves_no_process_behind(local: TrackingConfig, how: signal.Signals) -> None:
    port = closed_port()
    Path("config.yaml").write_text(f"tracking: {{uri: '{local.uri}'}}")
    command = [sys.executable, "-m", "dvfl", "ui", "--config", "config.yaml", "--port", str(port)]
    paths = [str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")]
    with Path("ui.log").open("w") as log:
        process = subprocess.Popen(
            command, env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)}, stdout=log, stderr=log
        )
    started: list[psutil.Process] = []
    try:
        fetch(f"http://127.0.0.1:{port}/health")
        started = psutil.Process(process.pid).children(recursive=True)
        assert started  # MLflow serves in a process of its own
        process.send_signal(how)
        assert process.wait(30) == 0
        assert psutil.wait_procs(started, timeout=10)[1] == []
    finally:
        for each in (process, *started):
            with suppress(psutil.NoSuchProcess):
                each.kill()


def test_ui_of_a_server_is_its_own() -> None:
    with pytest.raises(ConfigError, match=r"http://\*\*\*@host is a server"):
        ui_command(TrackingConfig(uri="http://me:s3cret@host"))


def fetch(address: str, seconds: float = 120) -> str:
    end = time.monotonic() + seconds
    while True:
        try:
            with urllib.request.urlopen(address, timeout=5) as answer:
                return answer.read().decode()
        except OSError:
            if time.monotonic() > end:
                raise
            time.sleep(0.2)


def test_outboxes_lie_beside_the_runs() -> None:
    assert place(a_run()) == OUTBOXES / "runs/motions/s1/as_described/student/seed0/key"
