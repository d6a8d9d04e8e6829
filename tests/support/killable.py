"""Merges in processes of their own that die at a chosen moment, as by ``kill -9``.

Reads requests from standard input and answers each, one JSON object a line. Every merge runs in a
child that is forked after all imports, so that trying many moments is quick.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from unittest import mock

from tallies import TalliesError, merge

_TOUCHES = ("open", "os.", "shutil.", "fcntl.", "progress")


class Fuse:
    """Counts what a process does to files from its first directory on, and reports of progress.

    Kills the process just before the one with the given number.
    """

    def __init__(self, die_at: int | None) -> None:
        self._die_at = die_at
        self.n_moments = 0

    def __call__(self, event: str, arguments: tuple[object, ...]) -> None:
        if not self.n_moments and event != "os.mkdir":
            return
        if event.startswith(_TOUCHES):
            if self.n_moments == self._die_at:
                signal.raise_signal(signal.SIGKILL)
            self.n_moments += 1


def _merge(request: Mapping[str, Any], answer: int) -> None:
    if not request["exchange"]:
        mock.patch("ctypes.CDLL").start().return_value = None
    fuse = Fuse(request["die_at"])
    sys.addaudithook(fuse)
    said: dict[str, Any] = {}
    try:
        merge(**request["merge"], progress=lambda done, whole: fuse("progress", ()))
    except TalliesError as error:
        said["error"] = str(error)
    said["n_moments"] = fuse.n_moments
    os.write(answer, json.dumps(said).encode())


def _answer(request: Mapping[str, Any]) -> dict[str, Any]:
    read_end, write_end = os.pipe()
    child = os.fork()
    if child == 0:
        _merge(request, write_end)
        os._exit(0)
    if request["die_after"] is not None:
        time.sleep(request["die_after"])
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    os.close(write_end)
    said = os.read(read_end, 1 << 16)
    os.close(read_end)
    return {"killed": os.WIFSIGNALED(status), **(json.loads(said) if said else {})}


class Killer:
    """The client of such a process."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.killable"],
            cwd=Path(__file__).parents[2],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def merge(
        self,
        *,
        die_at: int | None = None,
        die_after: float | None = None,
        exchange: bool = True,
        **arguments: Any,
    ) -> dict[str, Any]:
        """Merge with these arguments, and die at a moment of that number or after so many seconds.

        Tells whether it was ``killed``, and if not, ``n_moments`` and the text of an ``error``.
        Without ``exchange`` the system has no call that swaps two directories.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        request = {
            "die_at": die_at,
            "die_after": die_after,
            "exchange": exchange,
            "merge": arguments,
        }
        print(json.dumps(request), file=self._process.stdin, flush=True)
        answer: dict[str, Any] = json.loads(self._process.stdout.readline())
        return answer

    def close(self) -> None:
        """End the process."""
        self._process.communicate()


if __name__ == "__main__":
    for line in sys.stdin:
        print(json.dumps(_answer(json.loads(line))), flush=True)
