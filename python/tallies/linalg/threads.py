"""Start the threads of work in Python, as many as the system allows."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import contextmanager
from threading import Event, Thread
from typing import Any, ParamSpec, TypeVar

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


def workers(n_workers: int, initializer: Callable[[], object] | None = None) -> Executor:
    """Return a pool of threads, at most ``n_workers`` and as many as the system starts.

    If no thread starts, the calling thread does each task when it is submitted.

    Args:
        n_workers: The number of threads.
        initializer: Is called in each thread at first.
    """
    n_started = _startable(n_workers)
    if n_started:
        return ThreadPoolExecutor(n_started, initializer=initializer)
    if initializer is not None:
        initializer()
    return _CallingThread()


@contextmanager
def single_threads(n_workers: int) -> Iterator[Executor]:
    """Yield a pool of workers, in each of which torch computes on one thread."""
    import torch

    before = torch.get_num_threads()
    try:
        with workers(n_workers, lambda: torch.set_num_threads(1)) as pool:
            yield pool
    finally:
        torch.set_num_threads(before)


class _CallingThread(Executor):
    """Does the tasks in the thread that submits them."""

    def submit(
        self, fn: Callable[Arguments, Result], /, *args: Any, **kwargs: Any
    ) -> Future[Result]:
        future: Future[Result] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:
            future.set_exception(error)
        return future


def _startable(n: int) -> int:
    """Count the threads that the system starts beside those that run, up to ``n``."""
    end = Event()
    started: list[Thread] = []
    try:
        for _ in range(n):
            thread = Thread(target=end.wait)
            thread.start()
            started.append(thread)
    except RuntimeError:  # CPython's, for any reason that the system gives
        pass
    finally:
        end.set()
        for thread in started:
            thread.join()
    return len(started)
