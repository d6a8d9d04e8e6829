"""The command line as a process: tracebacks, pipes, terminals."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import struct
import subprocess
import termios
from pathlib import Path

from tests.reference.linear import linear
from tests.support.checkpoints import assert_holds
from tests.support.command import COMMAND, assert_failed, tallies
from tests.support.command_line import BASE, EXPERTS, printed


def test_debugging_shows_the_traceback_before_the_line(models: Path) -> None:
    quiet = tallies("merge", "absent.yml", "out")
    assert_failed(quiet, 2)
    for value, begin in (("1", "Traceback (most recent call last):\n"), ("0", quiet.err)):
        done = subprocess.run(
            [*COMMAND, "merge", "absent.yml", "out"],
            env={**os.environ, "TALLIES_DEBUG": value},
            capture_output=True,
            text=True,
            check=False,
        )
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr.startswith(begin)
        assert done.stderr.endswith(quiet.err)
        assert ("recipe/config.py" in done.stderr) == (value == "1")


def test_a_reader_that_leaves_is_no_failure() -> None:
    for arguments in (["--help"], ["methods"], ["info", "--json"]):
        read_end, write_end = os.pipe()
        os.close(read_end)
        done = subprocess.run(
            [*COMMAND, *arguments], stdout=write_end, stderr=subprocess.PIPE, check=False
        )
        os.close(write_end)
        assert (done.returncode, done.stderr) == (0, b"")


def on_a_terminal(*arguments: str) -> bytes:
    """Return the standard error of a command on a terminal."""
    ours, its = pty.openpty()
    fcntl.ioctl(its, termios.TIOCSWINSZ, struct.pack("4H", 24, 80, 0, 0))
    try:
        subprocess.run(
            [*COMMAND, "merge", *arguments], stdout=subprocess.PIPE, stderr=its, check=True
        )
        os.close(its)
        found = b""
        try:
            while part := os.read(ours, 1 << 16):
                found += part
        except OSError:  # how a terminal ends on Linux
            pass
        return found
    finally:
        os.close(ours)


def test_a_bar_is_for_terminals_unless_asked_for(models: Path) -> None:
    bar = on_a_terminal("ties.yml", "0")
    assert b"merge: 100%" in bar and b"B/s" in bar
    assert on_a_terminal("ties.yml", "1", "--no-progress") == b""
    assert on_a_terminal("ties.yml", "2", "--quiet") == b""
    printed("merge", "ties.yml", "3")
    status, out, err = tallies("merge", "ties.yml", "4", "--progress", "--json")
    assert status == 0 and "merge: 100%" in err
    assert json.loads(out)["method"] == "ties"


def test_linear_on_the_command_line_needs_no_base(models: Path) -> None:
    printed("merge", "--method", "linear", "--model", "a", "--model", "b:weight=3", "out")
    expected = {name: linear([e[name] for e in EXPERTS], [1.0, 3.0]) for name in BASE}
    assert_holds(models / "out", expected)
