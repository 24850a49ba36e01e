"""What happens between a signal and the end of the work: nothing is lost, nobody is kept waiting."""

from __future__ import annotations

import os
import signal
import threading

import pytest

from dvfl.errors import Pruned, Stopped
from dvfl.train.stopping import asked_to_stop


def handlers() -> list:
    return [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]


@pytest.fixture(autouse=True)
def as_before():
    before = handlers()
    yield
    assert handlers() == before


def send(number: signal.Signals) -> None:
    os.kill(os.getpid(), number)


def test_nobody_asks():
    with asked_to_stop() as stop:
        assert not stop()
    with pytest.raises(Pruned), asked_to_stop():
        raise Pruned("by the search")


def test_sigterm_is_a_question():
    with pytest.raises(Stopped, match="saved"), asked_to_stop() as stop:
        send(signal.SIGTERM)
        send(signal.SIGTERM)
        assert stop()
        raise Stopped("saved")
    with asked_to_stop() as stop:  # what ends by itself has ended
        send(signal.SIGTERM)


def test_ctrl_c_waits_for_a_safe_place_and_is_not_lost_there():
    reached = []
    with pytest.raises(KeyboardInterrupt), asked_to_stop() as stop:
        send(signal.SIGINT)
        assert stop()
        reached.append("safe place")
        raise Stopped("saved")
    with pytest.raises(KeyboardInterrupt), asked_to_stop() as stop:
        send(signal.SIGINT)
        reached.append("end")
    assert reached == ["safe place", "end"]


def test_an_error_after_ctrl_c_is_told():
    with pytest.raises(ValueError, match="broken"), asked_to_stop():
        send(signal.SIGINT)
        raise ValueError("broken")


def test_a_second_ctrl_c_ends_the_block_at_once():
    with pytest.raises(KeyboardInterrupt), asked_to_stop():
        send(signal.SIGINT)
        send(signal.SIGINT)
        pytest.fail("still in the block")


def test_ctrl_c_stays_ignored_where_it_was():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with asked_to_stop() as stop:
            send(signal.SIGINT)
            assert not stop()
    finally:
        signal.signal(signal.SIGINT, before)


def test_another_thread_is_never_asked():
    said = []

    def work():
        with asked_to_stop() as stop:
            said.append(stop())

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert said == [False]
