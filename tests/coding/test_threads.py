"""Pieces of a stream, worked on by several threads."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from tallies.coding import in_order, room


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_results_come_in_order_and_few_wait(threads: int) -> None:
    taken = 0
    ahead: list[int] = []

    def pieces() -> Iterator[int]:
        for number in range(50):
            ahead.append(number - taken)
            yield number

    for number, found in enumerate(in_order(lambda piece: piece * piece, pieces(), threads)):
        assert found == number * number
        taken += 1
    assert taken == 50
    assert max(ahead) <= 2 * threads


@pytest.mark.parametrize("threads", [1, 3])
def test_an_error_in_a_thread_is_that_of_the_call(threads: int) -> None:
    def one(piece: int) -> int:
        if piece == 7:
            raise ValueError("seven")
        return piece

    found = in_order(one, range(100), threads)
    assert [next(found) for _ in range(7)] == list(range(7))
    with pytest.raises(ValueError, match="seven"):
        next(found)


def test_a_thread_has_memory_of_its_own_for_each_use() -> None:
    first, second = room("a", 4), room("b", 4)
    first[:], second[:] = b"aaaa", b"bbbb"
    assert room("a", 2) == b"aa"
    elsewhere: list[bytes] = []
    thread = threading.Thread(target=lambda: elsewhere.append(bytes(room("a", 4))))
    thread.start()
    thread.join()
    assert elsewhere == [bytes(4)]
    assert len(room("a", 1000)) == 1000 and not room("c", 0)
