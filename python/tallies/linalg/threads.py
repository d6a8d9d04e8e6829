"""Start the threads of work in Python, as many as the system allows.

A library's decomposition of a large matrix takes minutes and cannot be stopped. A pool whose caller
is interrupted therefore leaves its threads: they end behind the call that they are in, and their
results are dropped.
"""

from __future__ import annotations

import atexit
import ctypes
import math
import os
import signal
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future
from contextlib import contextmanager, suppress
from functools import partial
from queue import Empty, SimpleQueue
from threading import Condition, Lock, Thread, get_ident
from types import TracebackType
from typing import Any, Final, ParamSpec, TypeVar

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")

_WAIT: Final = 0.2
"""Seconds of a wait: a signal that comes just before a wait begins is seen when the wait ends."""


class _Answer(Future[Result]):
    """A future whose caller can be interrupted at any moment.

    A future has a lock that its thread takes to set the result. An exception that a signal raises
    behind the taking of a lock leaves it locked, and the thread would wait for ever. A caller
    therefore takes it only once the result is set.
    """

    def __init__(self) -> None:
        super().__init__()
        self._ended = ended = Lock()
        ended.acquire()
        self.add_done_callback(lambda _: ended.release())

    def result(self, timeout: float | None = None) -> Result:
        """Return the result of the call, or raise its exception."""
        self._wait(timeout)
        try:
            return super().result(0)
        finally:
            del self  # the error holds this frame, see results

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """Return the exception of the call, or None if it has returned."""
        self._wait(timeout)
        return super().exception(0)

    def _wait(self, timeout: float | None) -> None:
        end = math.inf if timeout is None else time.monotonic() + timeout
        while not self._ended.acquire(timeout=min(_WAIT, max(end - time.monotonic(), 0.0))):
            if time.monotonic() >= end:
                return
        self._ended.release()


class Workers(Executor):
    """A pool of threads that do tasks; the calling thread does them if no thread starts.

    As a context, the pool waits for its tasks. An exception in the block cancels those that have
    not begun. An exception such as KeyboardInterrupt leaves the block without waiting for others.

    Args:
        n_workers: The most threads to start.
        initializer: Is called in each thread at first.
    """

    def __init__(self, n_workers: int, initializer: Callable[[], object] | None = None) -> None:
        self._tasks: SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None] = SimpleQueue()
        self._initializer = initializer or (lambda: None)
        # Taken as such: an exception on the way into a condition leaves it locked.
        self._lock = Lock()
        self._changed = Condition(self._lock)
        self._busy: set[int] = set()
        self._n_undisturbed = 0
        self._left = False
        self._threads: list[Thread] = []
        try:
            for _ in range(n_workers):
                # A daemon, for which the interpreter does not wait at its end.
                thread = Thread(target=self._work, daemon=True)
                thread.start()
                self._threads.append(thread)
        except RuntimeError:  # CPython's, for any reason that the system gives
            pass
        if not self._threads:
            self._initializer()

    def submit(
        self, fn: Callable[Arguments, Result], /, *args: Any, **kwargs: Any
    ) -> Future[Result]:
        """Return the future result of a call, which the next idle thread makes."""
        future: Future[Result] = _Answer()
        call = partial(fn, *args, **kwargs)
        if self._threads:
            self._tasks.put((future, call))
            return future
        try:
            future.set_result(call())
        except Exception as error:
            future.set_exception(error)
        return future

    def submit_undisturbed(
        self, fn: Callable[Arguments, Result], /, *args: Any, **kwargs: Any
    ) -> Future[Result]:
        """Return the future result of a call for which an interrupted caller waits."""

        def call() -> Result:
            with self.undisturbed():
                return fn(*args, **kwargs)

        return self.submit(call)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """End the threads once the tasks are done, or once those that have begun are."""
        if cancel_futures:
            self._cancel()
        for _ in self._threads:
            self._tasks.put(None)
        if wait:
            for thread in self._threads:
                join(thread)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Wait for the threads, or leave them if the block was interrupted."""
        if kind is None:
            self.shutdown()
            return
        waits = issubclass(kind, Exception)
        if not waits:
            _abandoned[:] = [*filter(Thread.is_alive, _abandoned), *self._threads]
        self._leave()
        self.shutdown(wait=waits)

    @contextmanager
    def undisturbed(self) -> Iterator[None]:
        """Do a step of a task in a thread that is not left meanwhile.

        A step that reads or writes what belongs to the caller needs this. It should be short, or
        call ``check`` now and then.
        """
        with self._lock:
            self.check()
            self._n_undisturbed += 1
        try:
            yield
        finally:
            with self._lock:
                self._n_undisturbed -= 1
                self._changed.notify_all()

    def check(self) -> None:
        """End the task that calls this if its thread has been left."""
        if self._left:
            raise _LeftError

    def _work(self) -> None:
        """Do tasks until there is None."""
        me = get_ident()
        try:
            self._initializer()
            while (task := self._tasks.get()) is not None:
                future, call = task
                with self._lock:
                    self._busy.add(me)
                if future.set_running_or_notify_cancel():
                    _do(future, call)
                del task, future, call
                with self._lock:
                    self._busy.discard(me)
        except _LeftError:
            pass

    def _leave(self) -> None:
        """Cancel what has not begun, and let tasks end where Python gets its turn next."""
        self._cancel()
        with self._lock:
            self._left = True
            self._changed.wait_for(lambda: self._n_undisturbed == 0)
            for thread in self._busy:
                raise_in = ctypes.pythonapi.PyThreadState_SetAsyncExc
                raise_in(ctypes.c_ulong(thread), ctypes.py_object(_LeftError))

    def _cancel(self) -> None:
        try:
            while (task := self._tasks.get_nowait()) is not None:
                task[0].cancel()
        except Empty:
            pass


class _LeftError(BaseException):
    """Nobody waits for the result of the task any more."""


def _do(future: Future[Any], call: Callable[[], Any]) -> None:
    try:
        result = call()
    except BaseException as error:
        future.set_exception(error)
        del future, call  # the error holds this frame, see results
    else:
        future.set_result(result)


def join(thread: Thread) -> None:
    """Wait for the end of a thread, and see signals meanwhile."""
    while thread.is_alive():
        thread.join(_WAIT)


def next_of(items: SimpleQueue[Result]) -> Result:
    """Wait for the next item of a queue, and see signals meanwhile."""
    while True:
        with suppress(Empty):
            return items.get(timeout=_WAIT)


def results(futures: Sequence[Future[Result]]) -> Iterator[Result]:
    """Yield the results of calls in order, for callers that hold no other way to the futures.

    A future that holds an error holds the frames that it came through. If one of these held the
    future, files that are open there would stay so until a collection of garbage.
    """
    waiting = deque(futures)
    del futures
    while waiting:
        yield waiting.popleft().result()


@contextmanager
def single_threads(n_workers: int) -> Iterator[Workers]:
    """Yield a pool of workers, in each of which torch computes on one thread."""
    import torch

    before = torch.get_num_threads()
    try:
        with Workers(n_workers, lambda: torch.set_num_threads(1)) as pool:
            yield pool
    finally:
        torch.set_num_threads(before)


_abandoned: Final[list[Thread]] = []
"""Threads of pools that were interrupted."""


def _is_interrupted() -> bool:
    """Return True if the interpreter ends because nobody handled a KeyboardInterrupt."""
    return getattr(sys, "last_type", None) is KeyboardInterrupt


@atexit.register
def _before_the_end() -> None:
    """Wait for threads of interrupted pools; a program that Ctrl-C ends does not wait.

    A thread that comes back from a library's call into an interpreter that is ending aborts the
    process.
    """
    if any(map(Thread.is_alive, _abandoned)) and _is_interrupted():
        atexit.unregister(_before_the_end)
        atexit._run_exitfuncs()
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        sys.stdout.flush()
        sys.stderr.flush()
        os.kill(os.getpid(), signal.SIGINT)
    for thread in _abandoned:
        thread.join()
