"""A real MLflow server on loopback that can be killed, trainings that log to it, and what it holds afterwards."""

from __future__ import annotations

import json
import math
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from dvfl.config import TrackingConfig
from dvfl.run import Run
from dvfl.track import Tracker, deliver_pending, outbox_directory
from dvfl.track.store import ENVIRONMENT, store_uri

# The columns of a distillation's history, and one that has no value.
METRICS = (
    "lr",
    "loss",
    "loss_ce",
    "loss_kd",
    "train_top1",
    "grad_norm",
    "seconds",
    "val_top1",
    "val_top5",
    "undefined",
)


class Server:
    """`mlflow server` on a database, with an artifact root of its own; at one address however often it is started."""

    def __init__(self, database: str, folder: Path, workers: int = 1):
        with socket.create_server(("127.0.0.1", 0)) as probe:
            self.port = probe.getsockname()[1]
        self.database = store_uri(TrackingConfig(uri=database))
        self.folder = folder
        self.tracking = TrackingConfig(uri=f"http://127.0.0.1:{self.port}")
        self._workers = workers
        self._process: subprocess.Popen | None = None

    @property
    def artifacts(self) -> Path:
        return self.folder / "artifacts"

    @property
    def pid(self) -> int:
        return self._process.pid

    def start(self, seconds: float = 120) -> None:
        """Returns when it answers."""
        command = [sys.executable, "-m", "mlflow", "server", "--artifacts-destination", str(self.artifacts)]
        command += ["--host", "127.0.0.1", "--port", str(self.port), "--workers", str(self._workers)]
        own = {"MLFLOW_BACKEND_STORE_URI": self.database, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / "server.log").open("a") as log:
            self._process = subprocess.Popen(
                command, env={**ENVIRONMENT, **os.environ, **own}, stdout=log, stderr=log, start_new_session=True
            )
        deadline = time.monotonic() + seconds
        while True:
            try:
                urllib.request.urlopen(f"{self.tracking.uri}/health", timeout=5).close()
                return
            except OSError:
                if time.monotonic() > deadline or self._process.poll() is not None:
                    raise AssertionError((self.folder / "server.log").read_text()[-1500:]) from None
                time.sleep(0.2)

    def kill(self) -> None:
        """As a machine that loses its power, in the middle of whatever it does."""
        if self._process is not None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()

    def points(self) -> list[tuple[str, str, int, float]]:
        """What the database holds: run's name, metric, step, value; deleted runs left out."""
        found = self._ask(
            "select runs.name, key, step, value, is_nan from metrics join runs using (run_uuid) "
            "where lifecycle_stage = 'active'"
        )
        return [(name, key, step, math.nan if is_nan else value) for name, key, step, value, is_nan in found]

    def count(self) -> int:
        """Values that the database holds."""
        return self._ask("select count(*) from metrics")[0][0]

    def runs(self) -> list[tuple[str, str]]:
        """Name and status of each run that is not deleted, in order."""
        return self._ask("select name, status from runs where lifecycle_stage = 'active' order by 1, 2")

    def _ask(self, question: str) -> list[tuple]:
        from sqlalchemy import create_engine, text

        engine = create_engine(self.database)
        with engine.connect() as connection:
            found = [tuple(row) for row in connection.execute(text(question))]
        engine.dispose()
        return found


def a_run(seed: int) -> Run:
    return Run("motions", "s1", "as_described", "distilled", seed)


def row(seed: int, epoch: int) -> dict[str, float]:
    """What is logged of an epoch: values that no other run and epoch has, some at every epoch the same, some nan."""
    values = {name: (1 + seed) / (epoch + 7 * number) for number, name in enumerate(METRICS)}
    return values | {"lr": 0.001, "undefined": math.nan}


def expected(seeds: int, epochs: int) -> list[tuple[str, str, int, str]]:
    points = [
        (a_run(seed).name, key, epoch, repr(value))
        for seed in range(seeds)
        for epoch in range(1, epochs + 1)
        for key, value in row(seed, epoch).items()
    ]
    return sorted(points)


def arrived(server: Server) -> list[tuple[str, str, int, str]]:
    return sorted((name, key, step, repr(float(value))) for name, key, step, value in server.points())


def train(
    tracking: TrackingConfig,
    seed: int,
    epochs: int,
    epoch_seconds: float = 0.0,
    before: Callable[[int], None] = lambda epoch: None,
) -> None:
    """Logs all that a training logs; writes `waited<seed>.json`, the seconds that each call took.

    before: called with the number of each epoch before it.
    """
    waited: list[float] = []

    def timed(call: Callable, *arguments: object, **named: object) -> object:
        begin = time.monotonic()
        result = call(*arguments, **named)
        waited.append(time.monotonic() - begin)
        return result

    run = a_run(seed)
    tracker = timed(Tracker.open, tracking, run, outbox_directory(run.directory, "key"), tags={"rule": "train"})
    timed(tracker.params, {"train.epochs": epochs, "seed": seed})
    for epoch in range(1, epochs + 1):
        before(epoch)
        time.sleep(epoch_seconds)
        timed(tracker.metrics, row(seed, epoch), step=epoch)
    timed(lambda: tracker.run_id)
    scores = Path(f"scores{seed}.json")
    scores.write_text(f'{{"seed": {seed}}}')
    timed(tracker.artifact, scores)
    timed(tracker.close)
    Path(f"waited{seed}.json").write_text(json.dumps(waited))


def through_trouble(server: Server, runs: int, epochs: int, epoch_seconds: float) -> dict[str, float]:
    """Trainings in a process each, on a server that is down at first, comes, is killed while they log, and comes back.

    Returns figures: values in the database when it was killed, when the last training ended, and when what was
    pending had been sent; seconds of the longest wait of a training, and of its longest epoch beside what it slept.
    """
    import mlflow  # noqa: F401 - before the fork, which spares each of them the import

    third, two_thirds = epochs // 3, 2 * epochs // 3
    context = multiprocessing.get_context("fork")
    events = {epoch: context.Event() for epoch in (third, two_thirds)}
    reached = {epoch: context.Semaphore(0) for epoch in events}

    def before(epoch: int) -> None:
        if epoch in events:
            reached[epoch].release()
            events[epoch].wait()

    begin = time.monotonic()
    arguments = [(server.tracking, seed, epochs, epoch_seconds, before) for seed in range(runs)]
    processes = [context.Process(target=train, args=each) for each in arguments]
    try:
        for process in processes:
            process.start()
        for _ in range(runs):
            assert reached[third].acquire(timeout=300)
        server.start()
        events[third].set()
        while server.count() < runs * third // 2:
            assert all(process.exitcode is None for process in processes)
            time.sleep(0.05)
        server.kill()
        held = server.count()
        events[two_thirds].set()
        for _ in range(runs):
            assert reached[two_thirds].acquire(timeout=300)
        server.start()
        for process in processes:
            process.join(600)
        assert [process.exitcode for process in processes] == [0] * runs
    finally:
        for process in processes:
            process.kill()
    trained, at_the_end = time.monotonic() - begin, server.count()
    while deliver_pending(server.tracking):
        assert time.monotonic() - begin < trained + 600
    waits = [json.loads(Path(f"waited{seed}.json").read_text()) for seed in range(runs)]
    return {
        "at_the_kill": held,
        "at_the_end": at_the_end,
        "delivered": server.count(),
        "training_seconds": trained,
        "seconds": time.monotonic() - begin,
        "longest_wait": max(map(max, waits)),
        "mean_wait_of_a_run": sum(map(sum, waits)) / runs,
    }
