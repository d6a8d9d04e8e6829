"""Calls in processes of their own that die at a chosen moment, as by ``kill -9``.

Reads requests from standard input and answers each, one JSON object a line. Every call runs in a
child that is forked after all imports, so that trying many moments is quick.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final
from unittest import mock

import tallies
from tallies.patches import works
from tests.support.compiled import preloaded


def _apply_part_by_part(**arguments: Any) -> object:
    """Apply patches in passes over one part each, between which there are moments to die at."""
    with mock.patch.object(works, "_MOST_TENSOR_BYTES", 0):
        return tallies.apply_patch(**arguments)


_CALLS: Final[dict[str, Callable[..., object]]] = {
    "merge": tallies.merge,
    "pack": tallies.pack,
    "unpack": lambda store, **arguments: tallies.Store.open(store).unpack(**arguments),
    "add": tallies.store.add,
    "sweep": tallies.sweep,
    "make_patch": tallies.make_patch,
    "apply_patch": _apply_part_by_part,
}
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


def _call(request: Mapping[str, Any], answer: int) -> None:
    if not request["exchange"]:
        mock.patch("ctypes.CDLL").start().return_value = None
    fuse = Fuse(request["die_at"])
    sys.addaudithook(fuse)
    said: dict[str, Any] = {}
    call = _CALLS[request["call"]]
    if request["faults"]:
        folder, kinds, first, last, error, log = request["faults"]
        shim = ctypes.PyDLL(None)
        texts, numbers = [ctypes.c_char_p] * 2, [ctypes.c_long] * 2
        shim.arm.argtypes = [*texts, *numbers, ctypes.c_int, ctypes.c_char_p]
        shim.arm(folder.encode(), kinds.encode(), first, last, error, log.encode())
    try:
        call(**request["arguments"], progress=lambda done, whole: fuse("progress", ()))
    except tallies.TalliesError as error:
        said |= {"error": str(error), "kind": type(error).__name__}
    if request["faults"]:
        said["n_calls"] = shim.disarm()
    said["n_moments"] = fuse.n_moments
    os.write(answer, json.dumps(said).encode())


def _kill_at(child: int, seconds: float) -> None:
    """Kill a process that has taken so much of the processors, unless it ends before."""
    clock = ~child << 3 | 2  # the one that clock_getcpuclockid of the C library names
    while not os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT):
        if time.clock_gettime(clock) >= seconds:
            os.kill(child, signal.SIGKILL)
            return
        time.sleep(1e-4)


def _answer(request: Mapping[str, Any]) -> dict[str, Any]:
    read_end, write_end = os.pipe()
    child = os.fork()
    if child == 0:
        _call(request, write_end)
        os._exit(0)
    if request["die_after"] is not None:
        time.sleep(request["die_after"])
        os.kill(child, signal.SIGKILL)
    if request["die_at_seconds"] is not None:
        _kill_at(child, request["die_at_seconds"])
    _, status, used = os.wait4(child, 0)
    os.close(write_end)
    said = os.read(read_end, 1 << 16)
    os.close(read_end)
    seconds = used.ru_utime + used.ru_stime
    found = {"killed": os.WIFSIGNALED(status), "seconds": seconds}
    return found | (json.loads(said) if said else {})


class Killer:
    """The client of such a process.

    Args:
        call: The function that it calls.
        preload: A library that stands between the process and the system.
    """

    def __init__(self, call: str = "merge", preload: Path | None = None) -> None:
        self._call = call
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.killable"],
            cwd=Path(__file__).parents[2],
            env=os.environ | ({"LD_PRELOAD": preloaded(preload)} if preload else {}),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def run(
        self,
        *,
        die_at: int | None = None,
        die_after: float | None = None,
        die_at_seconds: float | None = None,
        exchange: bool = True,
        faults: tuple[str, str, int, int, int, str] | None = None,
        call: str | None = None,
        **arguments: Any,
    ) -> dict[str, Any]:
        """Call with these arguments, and die at a moment of that number or after so many seconds.

        ``die_at_seconds`` counts those of the processors that the call takes, which do not depend
        on what else the machine does. Tells whether it was ``killed``, the ``seconds`` of the
        processors and, if it was not killed, ``n_moments`` and the text of an ``error``.
        Without ``exchange`` the system has no call that swaps two directories. ``faults`` are the
        arguments of the preloaded ``arm``, see ``tests/faults/calls.c``.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        request = {
            "die_at": die_at,
            "die_after": die_after,
            "die_at_seconds": die_at_seconds,
            "exchange": exchange,
            "faults": faults,
            "call": call or self._call,
            "arguments": arguments,
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
