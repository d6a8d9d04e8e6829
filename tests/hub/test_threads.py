"""Work in several threads: results in order, and an error that waits for what was begun."""

from __future__ import annotations

import signal
import threading
import time
from typing import NoReturn
from unittest import mock

import pytest

from tallies.hub import attempts
from tallies.hub.attempts import in_threads


def test_results_come_in_the_order_of_the_items() -> None:
    def work(item: int) -> int:
        time.sleep(0.001 * (7 - item % 7))
        return item * item

    assert in_threads(work, range(20), 4) == [item * item for item in range(20)]
    assert in_threads(work, [], 4) == []


def test_an_error_waits_for_items_that_were_begun() -> None:
    begun, ended = threading.Event(), threading.Event()

    def work(item: str) -> None:
        if item == "slow":
            begun.set()
            time.sleep(0.3)
            ended.set()
        else:
            assert begun.wait(5)
            raise ValueError(item)

    with pytest.raises(ValueError, match="wrong"):
        in_threads(work, ["slow", "wrong"], 2)
    assert ended.is_set()


def test_a_thread_that_hangs_is_left_behind() -> None:
    begun, released = threading.Event(), threading.Event()

    def work(item: str) -> None:
        if item == "hangs":
            begun.set()
            released.wait(20)
        else:
            assert begun.wait(5)
            raise ValueError(item)

    start = time.monotonic()
    with mock.patch.object(attempts, "_LONGEST_FAREWELL", 0.1), pytest.raises(ValueError):
        in_threads(work, ["hangs", "wrong"], 2)
    assert time.monotonic() - start < 10
    released.set()


def test_a_signal_that_ends_no_wait_is_seen_soon() -> None:
    """As one that comes just before the wait begins, here because another thread gets it."""

    def interrupt(*_: object) -> NoReturn:
        raise KeyboardInterrupt

    released = threading.Event()
    before = signal.signal(signal.SIGUSR1, interrupt)
    start = time.monotonic()
    try:
        threading.Timer(0.2, signal.raise_signal, [signal.SIGUSR1]).start()
        with pytest.raises(KeyboardInterrupt):
            in_threads(released.wait, [20], 1)
    finally:
        released.set()
        signal.signal(signal.SIGUSR1, before)
    assert time.monotonic() - start < 10
