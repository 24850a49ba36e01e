"""One writer at a time; a dead one holds nothing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from dvfl.errors import UserError
from dvfl.train.lease import LeaseTaken, lease

ROOT = Path(__file__).parents[2]
HOLD = """
import sys, time
from pathlib import Path
from dvfl.train.lease import lease
with lease(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that holds the lease of tmp_path/run."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path / "run")],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


def test_a_second_process_is_told_who_works_there(tmp_path, holder):
    with pytest.raises(LeaseTaken) as error, lease(tmp_path / "run"):
        pass
    line = str(error.value)
    assert str(tmp_path / "run") in line and f"process {holder.pid} on {os.uname().nodename}" in line
    assert "wait for it to end, or end it" in line and "\n" not in line
    assert isinstance(error.value, UserError)


def test_a_killed_process_holds_nothing(tmp_path, holder):
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    with lease(tmp_path / "run"):
        assert str(os.getpid()) in (tmp_path / "run/lease.holder").read_text()


def test_one_may_wait_for_the_other_to_end(tmp_path, holder):
    threading.Timer(0.3, holder.kill).start()
    begin = time.monotonic()
    with lease(tmp_path / "run", wait=True):
        assert time.monotonic() - begin > 0.2


def test_it_is_free_again_after_the_work_and_after_a_failure(tmp_path):
    for _ in range(2):
        with pytest.raises(ZeroDivisionError), lease(tmp_path):
            raise ZeroDivisionError
    with lease(tmp_path):
        pass
    assert not (tmp_path / "lease.holder").exists()


def test_other_runs_are_free(tmp_path):
    with lease(tmp_path / "one"), lease(tmp_path / "other"):
        assert (tmp_path / "one/lease.holder").exists() and (tmp_path / "other/lease.holder").exists()
