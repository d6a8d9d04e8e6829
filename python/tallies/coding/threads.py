"""Work on the pieces of a stream by several threads, whose results come in order."""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future
from typing import Any, TypeVar

from ..linalg.threads import Workers

T = TypeVar("T")
P = TypeVar("P")


@contextlib.contextmanager
def in_order(
    one: Callable[[P], T], pieces: Iterable[P], threads: int
) -> Generator[Iterator[T], None, None]:
    """Give the results ``one(piece)`` for each piece, in their order.

    At most two pieces a thread are in work or wait to be taken, which bounds the memory. No thread
    works any more when the context ends, whatever ends it: memory that ``one`` writes to may go.
    """
    with contextlib.closing(_results(one, pieces, threads)) as results:
        yield results


def _results(one: Callable[[P], T], pieces: Iterable[P], threads: int) -> Generator[T, None, None]:
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
