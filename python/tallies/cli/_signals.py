"""Turn signals that ask a command to stop into an exception, so that the command cleans up."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator
from types import FrameType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sys import UnraisableHookArgs

_STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_SECONDS = 0.02
"""The time until a signal whose exception was lost is sent again."""


class Stopped(KeyboardInterrupt):
    """A signal asked the command to stop; the exit status is 128 plus its number."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number
        self.exit_status = 128 + number


@contextlib.contextmanager
def stoppable() -> Iterator[None]:
    """Raise ``Stopped`` at the first such signal, and ignore later ones during the cleaning up.

    Signals that were ignored before (by nohup) stay ignored. Only the main thread handles signals.
    """
    before = {}
    if threading.current_thread() is threading.main_thread():
        before = {number: signal.getsignal(number) for number in _STOPPING}
    handled = {number: old for number, old in before.items() if old not in (signal.SIG_IGN, None)}
    report = sys.unraisablehook

    def send_again(lost: UnraisableHookArgs) -> None:
        """Send a signal again that came in a callback, from which no exception gets out."""
        if isinstance(lost.exc_value, Stopped):
            again = threading.Timer(_SECONDS, os.kill, (os.getpid(), lost.exc_value.number))
            again.daemon = True
            again.start()
        else:
            report(lost)

    for number in handled:
        signal.signal(number, _stop)
    sys.unraisablehook = send_again
    try:
        yield
    finally:
        sys.unraisablehook = report
        for number, old in handled.items():
            signal.signal(number, old)


def _stop(number: int, frame: FrameType | None) -> None:
    """Raise ``Stopped``, unless the command cleans up after an earlier one."""
    error = sys.exc_info()[1]
    while error is not None:
        if isinstance(error, Stopped):
            return
        error = error.__context__
    raise Stopped(number)


def ignore_signals() -> None:
    """Ignore such signals from now on, at the end of the process."""
    for number in _STOPPING:
        signal.signal(number, signal.SIG_IGN)
