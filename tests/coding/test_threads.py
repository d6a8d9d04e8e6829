"""Results come in order, and no thread works when their context has ended."""

from __future__ import annotations

import threading
import time

import pytest

from tallies.coding import in_order


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_results_are_those_of_a_loop(threads: int) -> None:
    with in_order(lambda n: n * n, range(100), threads) as results:
        assert list(results) == [n * n for n in range(100)]


@pytest.mark.parametrize("threads", [2, 5])
def test_no_thread_works_when_the_reader_fails(threads: int) -> None:
    at_work = []
    lock = threading.Lock()

    def one(piece: int) -> int:
        with lock:
            at_work.append(piece)
        time.sleep(0.02)
        with lock:
            at_work.remove(piece)
        return piece

    kept = None
    try:
        with in_order(one, range(100), threads) as results:
            for piece in results:
                raise ValueError(piece)
    except ValueError as error:
        kept = error  # with the frames that it came through
    assert str(kept) == "0"
    assert at_work == []
