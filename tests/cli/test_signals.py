"""Signals that come at odd moments."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from tallies.cli._signals import Stopped, ignore_signals, stoppable


@pytest.fixture(autouse=True)
def handlers_stay() -> Iterator[None]:
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.getsignal(number) for number in numbers}
    # Runners of tests may ignore Ctrl-C.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


class Loses:
    """Gets a signal where no exception gets out: when it is deleted."""

    def __del__(self) -> None:
        signal.raise_signal(signal.SIGTERM)


def test_a_signal_in_a_callback_is_not_lost(capsys: pytest.CaptureFixture[str]) -> None:
    hook = sys.unraisablehook
    begin = time.monotonic()
    with pytest.raises(Stopped) as stopped, stoppable():
        Loses()
        time.sleep(60)
    assert time.monotonic() - begin < 30
    assert stopped.value.exit_status == 128 + signal.SIGTERM
    assert sys.unraisablehook is hook
    assert capsys.readouterr() == ("", "")


def test_a_signal_behind_one_that_was_caught_is_obeyed() -> None:
    with pytest.raises(Stopped) as stopped, stoppable():
        with contextlib.suppress(BaseException):  # as a library may do
            signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGINT)
    assert stopped.value.exit_status == 128 + signal.SIGINT


def test_cleaning_up_is_not_disturbed() -> None:
    cleaned = []
    with pytest.raises(Stopped) as stopped, stoppable():
        try:
            signal.raise_signal(signal.SIGTERM)
        finally:
            try:
                raise FileNotFoundError
            except FileNotFoundError:
                signal.raise_signal(signal.SIGINT)
            cleaned.append(True)
    assert stopped.value.exit_status == 128 + signal.SIGTERM
    assert cleaned == [True]


def test_at_the_end_signals_are_ignored() -> None:
    ignore_signals()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.raise_signal(number)


WHILE_IMPORTING = """
import signal, sys
from tallies.__main__ import main

class Interrupts:
    def find_spec(self, name, path=None, target=None):
        if name == "click":
            signal.raise_signal(signal.SIGINT)

sys.meta_path.insert(0, Interrupts())
sys.argv = ["tallies", "--version"]
main()
"""


@pytest.mark.parametrize("ignored", [False, True])
def test_an_interrupt_while_the_command_line_is_imported_is_quiet(ignored: bool) -> None:
    before = "import signal; signal.signal(signal.SIGINT, signal.{})\n"
    code = before.format("SIG_IGN" if ignored else "default_int_handler") + WHILE_IMPORTING
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    if ignored:
        assert (done.returncode, done.stderr) == (0, b"")
        assert done.stdout.startswith(b"tallies, version ")
    else:
        assert (done.returncode, done.stdout) == (130, b"")
        assert done.stderr == b"tallies: interrupted\n"
