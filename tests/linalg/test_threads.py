"""Pools work with any number of threads that the system starts, down to none."""

from __future__ import annotations

import signal
import sys
import threading
import time
from concurrent.futures import Future
from types import FrameType
from typing import Any, NoReturn

import pytest

from tallies.linalg.threads import Workers, single_threads


@pytest.mark.parametrize("n_allowed", [0, 1, 2, 4])
def test_work_is_done_with_the_threads_that_start(
    monkeypatch: pytest.MonkeyPatch, n_allowed: int
) -> None:
    start = threading.Thread.start
    alive: list[threading.Thread] = []

    def limited(thread: threading.Thread) -> None:
        alive[:] = [one for one in alive if one.is_alive()]
        if len(alive) >= n_allowed:
            raise RuntimeError("can't start new thread")
        start(thread)
        alive.append(thread)

    monkeypatch.setattr(threading.Thread, "start", limited)
    with Workers(4) as pool:
        assert list(pool.map(lambda n: n * n, range(20))) == [n * n for n in range(20)]
        with pytest.raises(ZeroDivisionError):
            pool.submit(lambda: 1 // 0).result()


def test_torch_gets_its_threads_back(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    def refused(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refused)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with single_threads(2) as pool:
            assert pool.submit(torch.get_num_threads).result() == 1
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_an_interruption_leaves_the_tasks_in_hand_and_cancels_the_others() -> None:
    begun, end, came_back = threading.Event(), threading.Event(), threading.Event()

    def task() -> None:
        begun.set()
        end.wait()
        came_back.set()

    def interrupted() -> None:
        with Workers(1) as pool:
            futures.extend(pool.submit(task) for _ in range(3))
            begun.wait()
            raise KeyboardInterrupt

    futures: list[Future[None]] = []
    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert [future.cancelled() for future in futures] == [False, True, True]
    end.set()
    dropped = futures[0].exception(60)
    assert dropped is not None and not isinstance(dropped, Exception)
    assert not came_back.is_set()


def test_an_error_waits_for_the_tasks_in_hand() -> None:
    begun, ended = threading.Event(), threading.Event()

    def task(pool: Workers) -> None:
        with pool.undisturbed():
            begun.set()
            time.sleep(0.2)
            ended.set()

    with pytest.raises(ValueError, match="no"), Workers(1) as pool:
        pool.submit(task, pool)
        begun.wait()
        raise ValueError("no")
    assert ended.is_set()


def test_an_interruption_waits_for_a_step_that_must_not_be_disturbed() -> None:
    begun, ended, again = threading.Event(), threading.Event(), threading.Event()

    def task(pool: Workers) -> None:
        with pool.undisturbed():
            begun.set()
            time.sleep(0.2)
            ended.set()
        with pool.undisturbed():
            again.set()

    with pytest.raises(KeyboardInterrupt), Workers(1) as pool:
        future = pool.submit(task, pool)
        begun.wait()
        raise KeyboardInterrupt
    assert ended.is_set()
    assert future.exception(60) is not None
    assert not again.is_set()


def test_a_step_asks_if_it_is_to_end() -> None:
    begun = threading.Event()

    def task(pool: Workers) -> None:
        with pool.undisturbed():
            begun.set()
            while True:
                pool.check()
                time.sleep(0.01)

    with pytest.raises(KeyboardInterrupt), Workers(1) as pool:
        future = pool.submit(task, pool)
        begun.wait()
        raise KeyboardInterrupt
    assert future.exception(60) is not None


def _interrupt(*_: object) -> NoReturn:
    raise KeyboardInterrupt


def test_a_signal_that_ends_no_wait_is_seen_soon() -> None:
    """As one that comes just before the wait begins, here because another thread gets it."""
    end = threading.Event()
    before = signal.signal(signal.SIGUSR1, _interrupt)
    try:
        with pytest.raises(KeyboardInterrupt), Workers(1) as pool:
            future = pool.submit(end.wait, 60)
            threading.Timer(0.2, signal.raise_signal, [signal.SIGUSR1]).start()
            begin = time.monotonic()
            future.result()
    finally:
        end.set()
        signal.signal(signal.SIGUSR1, before)
    assert time.monotonic() - begin < 30


def test_an_interruption_on_the_way_into_a_wait_leaves_no_thread_locked() -> None:
    """As a signal does that comes when the lock of a condition has just been taken."""

    def interrupt(frame: FrameType, event: str, _: Any) -> None:
        if event == "c_return" and frame.f_code is threading.Condition.__enter__.__code__:
            sys.setprofile(None)
            raise KeyboardInterrupt

    begun = threading.Event()

    def task() -> None:
        begun.set()
        time.sleep(0.2)

    before = sys.getprofile()
    try:
        with pytest.raises(KeyboardInterrupt), Workers(1) as pool:
            future = pool.submit(task)
            begun.wait()
            sys.setprofile(interrupt)
            future.result()
    finally:
        sys.setprofile(before)
    for thread in pool._threads:
        thread.join(20)
        assert not thread.is_alive()


def test_a_result_is_waited_for_as_long_as_is_asked() -> None:
    end = threading.Event()
    with Workers(1) as pool:
        future = pool.submit(end.wait)
        for ask in (future.result, future.exception):
            with pytest.raises(TimeoutError):
                ask(0.3)
        end.set()
        assert future.result(60) is True
        assert future.exception(60) is None
