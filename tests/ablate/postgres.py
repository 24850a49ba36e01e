"""A PostgreSQL of the test's own on loopback, with a password, started by hand in a folder of its own."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

USER = "nobody"  # PostgreSQL is never run by root
PASSWORD = "opensesame"
CONF = """
listen_addresses = '127.0.0.1'
unix_socket_directories = ''
fsync = off
max_connections = 60
"""


def why_not() -> str | None:
    """Why no PostgreSQL can be started here; None where one can."""
    if _programs() is None:
        return "PostgreSQL is not installed: no initdb; on Debian: apt-get install postgresql"
    if os.geteuid() == 0 and shutil.which("runuser") is None:
        return "PostgreSQL is not run by root, and there is no runuser"
    if find_spec("psycopg") is None:
        return "psycopg is not installed"
    return None


@contextmanager
def postgres() -> Iterator[str]:
    """Its URL, without the password, as long as the block lasts."""
    programs = _programs()
    with tempfile.TemporaryDirectory(prefix="dvfl-postgres-") as name:  # pytest's folders are closed to other users
        folder = Path(name)
        data, secret = folder / "data", folder / "password"
        secret.write_text(PASSWORD)
        if os.geteuid() == 0:
            for each in (folder, secret):
                shutil.chown(each, USER)
        initdb = [programs / "initdb", "--username=dvfl", f"--pwfile={secret}", "--auth=scram-sha-256", "--no-sync"]
        subprocess.run(_as_user([*initdb, f"--pgdata={data}"]), check=True, capture_output=True, cwd=folder)
        with (data / "postgresql.conf").open("a") as conf:
            conf.write(CONF)
        port = _free_port()
        command = _as_user([programs / "postgres", "-D", data, "-p", str(port)])
        with (folder / "postgres.log").open("w") as log:
            server = subprocess.Popen(command, stdout=log, stderr=log, cwd=folder)
        try:
            url = f"postgresql://dvfl@127.0.0.1:{port}/postgres"
            _wait(url, folder)
            yield url
        finally:
            if (data / "postmaster.pid").exists():  # SIGINT: without waiting for those that are still connected
                os.kill(int((data / "postmaster.pid").read_text().split()[0]), signal.SIGINT)
            server.wait(timeout=60)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _programs() -> Path | None:
    found = shutil.which("initdb")
    folders = [Path(found).parent] if found else sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    return next((folder for folder in reversed(folders) if (folder / "initdb").exists()), None)


def _as_user(command: list[str | Path]) -> list[str]:
    return [*(["runuser", "-u", USER, "--"] if os.geteuid() == 0 else []), *map(str, command)]


def _wait(url: str, folder: Path, seconds: float = 60) -> None:
    import psycopg

    deadline = time.monotonic() + seconds
    while True:
        try:
            psycopg.connect(url, password=PASSWORD).close()
            return
        except psycopg.OperationalError:
            if time.monotonic() > deadline:
                raise AssertionError((folder / "postgres.log").read_text()[-1500:]) from None
            time.sleep(0.2)
