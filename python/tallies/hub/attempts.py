"""Ask the hub, again where that may help, and in several threads at once."""

from __future__ import annotations

import contextlib
import queue
import re
import threading
import time
from collections.abc import Callable, Iterable
from typing import Final, TypeVar

from .failures import is_about_the_network
from .library import transport

Item = TypeVar("Item")
Result = TypeVar("Result")

_PAUSES: Final = (0.5, 2.0, 5.0)
"""Seconds before the second and later attempts, where the hub names none."""

_LONGEST_PAUSE: Final = 60.0

_LONGEST_FAREWELL: Final = 5.0
"""Seconds that the threads of ``in_threads`` get to end their items after an error."""

_WAIT: Final = 0.2
"""Seconds of a wait: a signal that comes just before a wait begins is seen when the wait ends."""

_AGAIN: Final = (408, 429, 500, 502, 503, 504)


def attempt(ask: Callable[[], Result]) -> Result:
    """Return what ``ask`` returns, asked again after answers and breaks that may pass.

    A hub that says how long to wait is waited for, if that is not beyond a minute. A hub that is
    not reached at all is not asked again: the cache may have the model.
    """
    from huggingface_hub.errors import HfHubHTTPError

    for pause in _PAUSES:
        try:
            return ask()
        except HfHubHTTPError as error:
            asked = _asked_pause(error.response.headers)
            if error.response.status_code not in _AGAIN or (asked or 0) > _LONGEST_PAUSE:
                raise
            time.sleep(pause if asked is None else asked)
        except transport().TransportError as error:
            if is_about_the_network(error):
                raise
            time.sleep(pause)
    return ask()


def _asked_pause(headers: object) -> float | None:
    """Return the seconds that a hub asks to wait, from its headers."""
    get: Callable[[str, str], str] = headers.get  # type: ignore[attr-defined]
    after = get("Retry-After", "").strip()
    if after.isdigit():
        return float(after)
    reset = re.search(r"\bt=(\d+)", get("RateLimit", ""))
    return float(reset[1]) if reset else None


def in_threads(
    work: Callable[[Item], Result], items: Iterable[Item], n_threads: int
) -> list[Result]:
    """Return the results for all items, in their order; the first error ends the rest.

    An error waits up to five seconds for the items that other threads have begun, so that the
    caller can remove what they leave. The threads are no hindrance to the end of the process: an
    interrupt need not wait for an answer of the hub.
    """
    waiting: queue.SimpleQueue[tuple[int, Item]] = queue.SimpleQueue()
    for pair in (pairs := list(enumerate(items))):
        waiting.put(pair)
    done: queue.SimpleQueue[tuple[int, Result | None, BaseException | None]] = queue.SimpleQueue()
    stopped = threading.Event()

    def run() -> None:
        while not stopped.is_set():
            try:
                number, item = waiting.get_nowait()
            except queue.Empty:
                return
            try:
                done.put((number, work(item), None))
            except BaseException as error:
                done.put((number, None, error))

    results: dict[int, Result] = {}
    threads = [threading.Thread(target=run, daemon=True) for _ in range(min(n_threads, len(pairs)))]
    try:
        for thread in threads:
            thread.start()
        for _ in pairs:
            number, result, error = _next(done)
            if error is not None:
                stopped.set()
                _wait_for(threads, _LONGEST_FAREWELL)
                raise error
            results[number] = result  # type: ignore[assignment]
    finally:
        stopped.set()
    return [results[number] for number, _ in pairs]


def _next(done: queue.SimpleQueue[Item]) -> Item:
    """Wait for an item of a queue and return it."""
    while True:
        with contextlib.suppress(queue.Empty):
            return done.get(timeout=_WAIT)


def _wait_for(threads: Iterable[threading.Thread], n_seconds: float) -> None:
    """Wait until all threads have ended, ``n_seconds`` at the longest."""
    end = time.monotonic() + n_seconds
    for thread in threads:
        thread.join(max(end - time.monotonic(), 0.0))
