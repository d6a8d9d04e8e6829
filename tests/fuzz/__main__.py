"""Run targets for some seconds, two at a time: ``python -m tests.fuzz --seconds 60 [target ...]``.

A case may be read or refused with an InputError or a StorageError. Other exceptions, warnings of
NumPy, more than 5 s of processor time three times in a row, 512 MiB of memory more than before, and
files opened outside the folder are findings: they are written to build/fuzz and end the run with
status 1.

A seed gives the same cases in the same order, so that a slower machine runs fewer of them and no
others. The checks of a change name one seed, whose cases were run further than the checks go: they
fail for nothing but the change. Without a seed each run tries cases of its own.
"""

from __future__ import annotations

import argparse
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from tests.fuzz import cases
from tests.fuzz.mutate import mutate

ROOT = Path(__file__).parents[2]
FOUND = ROOT / "build" / "fuzz"
NATIVE = FOUND / "native"
CPU_SECONDS = 5
MEMORY = 512 << 20
ROOM = 256 << 20
OURS = {"base", "case", "hub", "out", "seeds"}
NAMES = (
    "header", "index", "configuration", "store", "patch", "adapter", "torch_file", "recipe",
    "command",
)  # fmt: skip


class Watch:
    """Notes a file opened outside: writing anywhere else, reading but for what Python imports."""

    def __init__(self, room: Path) -> None:
        self.outside: str | None = None
        self.is_on = False
        self._inside = str(room)
        self._read = tuple(
            {sys.prefix, sys.base_prefix, str(ROOT), "/proc", "/sys", "/dev", "/usr"}
        )
        sys.addaudithook(self._see)

    def _see(self, event: str, arguments: Any) -> None:
        if not self.is_on:
            return
        if event in ("os.system", "subprocess.Popen", "os.exec", "socket.connect"):
            self.outside = f"{event} {arguments!r}"
        if event != "open" or not isinstance(arguments[0], str | bytes | os.PathLike):
            return
        path = os.path.abspath(os.fsdecode(arguments[0]))
        writes = arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
        if path.startswith(self._inside) or (not writes and path.startswith(self._read)):
            return
        self.outside = f"{path} {arguments!r}"


def _has_room(folder: str) -> bool:
    """Return whether a folder can be written, and has room for the files of a run."""
    if not os.access(folder, os.W_OK):
        return False
    status = os.statvfs(folder)
    return status.f_bavail * status.f_frsize > ROOM


def _memory() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _fuzz(name: str, seconds: float, seed: int, room: Path) -> int:
    """Run one target in this process; return how many findings there were."""
    os.environ |= {"HF_HUB_OFFLINE": "1", "HF_HOME": str(room / "hub")}
    from tests.fuzz.targets import TARGETS, checkpoint

    warnings.simplefilter("error", RuntimeWarning)
    target, rng = TARGETS[name], random.Random(seed)
    os.chdir(room)
    tempfile.tempdir = str(room)
    checkpoint(room / "base")
    (room / "seeds").mkdir()
    corpus = target.seeds(room / "seeds")
    case = room / "case"
    watch = Watch(room)
    n_run, n_found = 0, 0
    known: set[str] = set()

    def attempt(files: cases.Files) -> tuple[float, str]:
        """Return the seconds of processor time that a case took, and what it did wrong."""
        cases.write(case, files)
        began, problem = time.process_time(), ""
        try:
            watch.is_on = n_run > len(corpus)  # seeds import what is imported late
            target.run(case)
        except Exception:
            problem = traceback.format_exc()
        finally:
            watch.is_on = False
        return time.process_time() - began, problem

    def once(files: cases.Files) -> None:
        nonlocal n_run, n_found
        n_run += 1
        before = _memory()
        taken, problem = attempt(files)
        # A processor that is shared is slow by chance: a slow case is one that is slow each time.
        for _ in range(2):
            if not problem and taken > CPU_SECONDS:
                taken, problem = attempt(files)
        if not problem and taken > CPU_SECONDS:
            problem = f"took {taken:.1f} s of processor time, three times"
        if not problem and n_run > len(corpus) and _memory() - before > MEMORY:
            problem = f"took {(_memory() - before) >> 20} MiB"
        beside = {one for one in os.listdir(room) if not one.startswith("tallies-")} - OURS
        if not problem and beside:
            problem = f"made {sorted(beside)} beside the folder"
        if not problem and watch.outside:
            problem = f"opened {watch.outside}"
        watch.outside = None
        key = problem[-400:]
        if problem and key not in known:
            known.add(key)
            n_found += 1
            cases.write(FOUND / f"{name}-{seed}-{n_found}", files)
            print(f"FINDING {name} (seed {seed}, case {n_run})\n{problem}", flush=True)

    for files in corpus:
        once(files)
    end = time.monotonic() + seconds
    while time.monotonic() < end and n_found < 20:
        once(mutate(rng.choice(corpus), rng, target.sign))
    print(f"{name}: {n_run} executions, {n_found} findings", flush=True)
    return n_found


def _native(seconds: float, seed: int) -> int:
    """Build the harness of the native decoders and run it."""
    build = ["cmake", "--build", str(NATIVE), "-j", "2"]
    source = ROOT / "tests" / "fuzz" / "native"
    for command in (["cmake", "-S", str(source), "-B", str(NATIVE)], build):
        made = subprocess.run(command, capture_output=True, text=True)
        if made.returncode:
            print(made.stdout, made.stderr)
            return 1
    return subprocess.run([NATIVE / "decoders", str(seconds), str(seed)]).returncode


def _child(name: str, seconds: float, seed: int) -> int:
    if name == "native":
        return _native(seconds, seed)
    command = [sys.executable, "-m", "tests.fuzz", "--in-process", "--seed", str(seed)]
    return subprocess.run([*command, "--seconds", str(seconds), name], cwd=ROOT).returncode


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz")
    parser.add_argument("targets", nargs="*", help="by default all, and native")
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--in-process", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    seed = random.SystemRandom().randrange(2**31) if given.seed is None else given.seed
    if given.in_process:
        memory = "/dev/shm" if _has_room("/dev/shm") else None
        with tempfile.TemporaryDirectory(dir=memory) as room:
            return int(bool(_fuzz(given.targets[0], given.seconds, seed, Path(room))))
    run: Callable[[str], int] = lambda name: _child(name, given.seconds, seed)  # noqa: E731
    with ThreadPoolExecutor(2) as pool:
        return int(any(pool.map(run, given.targets or ("native", *NAMES))))


if __name__ == "__main__":
    sys.exit(main())
