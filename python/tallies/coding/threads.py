"""Work on the pieces of a stream by several threads, whose results come in order."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from typing import Any, TypeVar

from ..linalg.threads import Workers

T = TypeVar("T")
P = TypeVar("P")


def in_order(one: Callable[[P], T], pieces: Iterable[P], threads: int) -> Iterator[T]:
    """Yield ``one(piece)`` for each piece, in their order.

    At most two pieces a thread are in work or wait to be taken, which bounds the memory.
    """
    if threads < 2:
        yield from map(one, pieces)
        return
    waiting: deque[Future[Any]] = deque()
    with Workers(threads) as pool:
        for piece in pieces:
            waiting.append(pool.submit_undisturbed(one, piece))
            if len(waiting) >= 2 * threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
