"""A real MLflow server that is down, killed, slow or full: all arrives, once, and training waits as long as said."""

from __future__ import annotations

import http.client
import resource
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import psutil
import pytest

from dvfl.config import TrackingConfig
from dvfl.track import deliver_pending
from dvfl.track import tracker as tracker_module
from tests.ablate import postgres
from tests.track.serving import Server, a_run, arrived, expected, through_trouble, train

SLACK = 5.0  # seconds that a busy machine may take beside: to write the outbox, to be woken up
NEEDS_POSTGRES = [
    pytest.mark.postgres,
    pytest.mark.skipif(postgres.why_not() is not None, reason=str(postgres.why_not())),
]


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=NEEDS_POSTGRES)])
def database(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path}/server.db"
        return
    monkeypatch.setenv("PGPASSWORD", postgres.PASSWORD)
    with postgres.postgres() as url:
        yield url


@pytest.fixture(scope="module")
def sqlite_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One for the tests that do not kill it."""
    folder = tmp_path_factory.mktemp("server")
    server = Server(f"sqlite:///{folder}/server.db", folder)
    try:
        server.start()
        yield server
    finally:
        server.kill()


@pytest.fixture
def server(sqlite_server: Server) -> Server:
    """With no run in it."""
    from mlflow import MlflowClient

    client = MlflowClient(sqlite_server.tracking.uri)
    for experiment in client.search_experiments():
        for run in client.search_runs([experiment.experiment_id]):
            client.delete_run(run.info.run_id)
    return sqlite_server


def test_a_server_that_is_down_comes_is_killed_and_comes_back(
    database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The whole of it, 32 runs of 200 epochs, is tests/benchmark_tracking.py."""
    monkeypatch.setattr(tracker_module, "SHARE", 1)  # they deliver at every call, also while it is killed
    runs, epochs = 6, 30
    server = Server(database, tmp_path / "server")
    try:
        found = through_trouble(server, runs, epochs, epoch_seconds=0.05)
        assert 0 < found["at_the_kill"] < len(expected(runs, epochs))
        assert arrived(server) == expected(runs, epochs)
        assert server.runs() == [(a_run(seed).name, "FINISHED") for seed in range(runs)]
    finally:
        server.kill()
    assert sorted(path.name for path in server.artifacts.rglob("scores*")) == [f"scores{n}.json" for n in range(runs)]
    assert found["longest_wait"] < tracker_module.PATIENCE + SLACK


@pytest.mark.parametrize("database", [pytest.param("postgresql", marks=NEEDS_POSTGRES)], indirect=True)
def test_a_database_without_a_server(database: str, tmp_path: Path) -> None:
    tracking = TrackingConfig(uri=database, artifacts=f"{tmp_path}/artifacts")
    train(tracking, 0, 5)
    deadline = time.monotonic() + 120
    while deliver_pending(tracking):  # its tables take longer to make than the training lasts
        assert time.monotonic() < deadline
        time.sleep(0.5)
    assert arrived(Server(database, tmp_path)) == expected(1, 5)
    assert [path.name for path in Path("artifacts").rglob("scores*")] == ["scores0.json"]


def test_a_full_disk_of_the_server(server: Server, capfd: pytest.CaptureFixture) -> None:
    """Its files cannot grow any more, later they can."""
    epochs, before = 200, server.count()
    processes = [psutil.Process(server.pid), *psutil.Process(server.pid).children(recursive=True)]
    size = (server.folder / "server.db").stat().st_size

    def fill(epoch: int) -> None:
        if epoch == 5:
            for process in processes:
                process.rlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))

    try:
        train(server.tracking, 0, epochs, before=fill)
        assert server.count() - before < len(expected(1, epochs))
        assert deliver_pending(server.tracking) == 1
        assert len(capfd.readouterr().err.splitlines()) == 2  # one of the training, one of the attempt afterwards
    finally:
        for process in processes:
            process.rlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    assert deliver_pending(server.tracking) == 0
    assert capfd.readouterr() == ("", "")
    assert arrived(server) == expected(1, epochs)


# ------------------------------------------------------------------------------------------ something between them


@contextmanager
def proxy(server: Server, meddle: Callable[[str, str], int | None]) -> Iterator[TrackingConfig]:
    """What a training is told is the server.

    meddle: called with a request's method and path before it is passed on; a status is answered instead.
    """

    class Handler(BaseHTTPRequestHandler):
        def handle_request(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            status, answer = meddle(self.command, self.path), b"<html>Insufficient Storage</html>"
            if status is None:
                connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
                connection.request(self.command, self.path, body, dict(self.headers))
                response = connection.getresponse()
                status, answer = response.status, response.read()
                connection.close()
            try:
                self.send_response(status)
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)
            except OSError:
                pass  # whoever asked has given up

        do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = handle_request

        def log_message(self, *arguments: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as between:
        threading.Thread(target=between.serve_forever, daemon=True).start()
        try:
            yield TrackingConfig(uri=f"http://127.0.0.1:{between.server_port}")
        finally:
            between.shutdown()


def test_a_server_that_refuses_as_full_for_a_while(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracker_module, "SHARE", 1)
    full = threading.Event()
    answered: list[str] = []

    def meddle(method: str, path: str) -> int | None:
        answered.append(path)
        return 507 if full.is_set() and method != "GET" else None

    def before(epoch: int) -> None:
        full.set() if 5 <= epoch < 25 else full.clear()

    with proxy(server, meddle) as tracking:
        train(tracking, 0, 30, before=before)
        assert deliver_pending(tracking) == 0
    assert arrived(server) == expected(1, 30)
    assert server.runs() == [(a_run(0).name, "FINISHED")]


def test_a_slow_server_holds_up_training_no_longer_than_is_said(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each request takes half a second, and no timeout passes; the runs of 200 epochs take none of their own."""
    for patience in ("PATIENCE", "PATIENCE_FOR_ID"):
        monkeypatch.setattr(tracker_module, patience, 1.0)
    requests: list[str] = []

    def meddle(method: str, path: str) -> None:
        requests.append(path)
        time.sleep(0.5)

    with proxy(server, meddle) as tracking:
        begin = time.monotonic()
        train(tracking, 0, 200)
        assert time.monotonic() - begin < 3 * 1.0 + SLACK  # opened, asked for the id, closed
        deadline = time.monotonic() + 60
        while deliver_pending(tracking):  # what the last delivery of the training still had in hand
            assert time.monotonic() < deadline
    assert arrived(server) == expected(1, 200)
    assert len(requests) < 40  # not one for each epoch


def test_a_run_that_is_made_after_it_was_given_up_is_no_second_run(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    monkeypatch.setattr(tracker_module, "SHARE", 1)
    made: list[float] = []

    def meddle(method: str, path: str) -> None:
        if path.endswith("/runs/create"):
            made.append(time.monotonic())
            time.sleep(3 if len(made) == 1 else 0)

    def before(epoch: int) -> None:
        while epoch == 20 and (len(made) < 2 or time.monotonic() < made[0] + 5):
            time.sleep(0.1)
            assert not made or time.monotonic() < made[0] + 60

    with proxy(server, meddle) as tracking:
        train(tracking, 0, 20, before=before)
        while deliver_pending(tracking):
            assert time.monotonic() < made[0] + 60
    assert len(made) == 2
    assert server.runs() == [(a_run(0).name, "FINISHED")]
    assert arrived(server) == expected(1, 20)
