"""Pools work with any number of threads that the system starts, down to none."""

from __future__ import annotations

import threading

import pytest

from tallies.linalg.threads import single_threads, workers


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
    with workers(4) as pool:
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
