"""Ctrl-C ends every job within a second, and nothing of it stays."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from tests.faults.large import sparse
from tests.support.command import COMMAND

SECONDS: Final = 1.0
BEGUN: Final = 300 << 20
"""Bytes that a job has read when it is in the midst of its work; its imports read less."""

PATCH: Final = "patch base a --out patch"
JOBS: Final = {
    "merge": "merge --method ties --base base --model a --model b --out out",
    "pack": "pack --codec tall --base base --task a=a --task b=b --out out",
    "unpack": "unpack store a out",
    "sweep": "sweep --method ties --base base --model a --model b --set density=0.2,0.5 --out out",
    "diff": "diff base a",
    "patch": "patch base a --out out",
    "apply": "apply patch --to base --out out",
}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Models of 1 GiB, a store and a patch of them."""
    root = tmp_path_factory.mktemp("large")
    if shutil.disk_usage(root).free < 4 << 30:
        pytest.skip("4 GiB of disk are not free here")
    for seed, name in enumerate(("base", "a", "b")):
        sparse(root / name, seed, (1 << 18, 1 << 11))
    for job in (
        "pack --codec lossless --base base --task a=a --out store",
        "patch base a --out patch",
    ):
        subprocess.run([*COMMAND, *job.split()], cwd=root, check=True, capture_output=True)
    yield root
    shutil.rmtree(root)


def n_read(process: int) -> int:
    """Return the bytes that a process has read by calls so far."""
    facts = Path(f"/proc/{process}/io").read_text()
    return int(facts.split("rchar: ")[1].split()[0])


def processor_seconds(process: int) -> float:
    """Return the time of processors that a process has taken so far."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11:13])) / os.sysconf("SC_CLK_TCK")


@pytest.mark.parametrize("job", JOBS)
def test_ctrl_c_ends_a_job(models: Path, tmp_path: Path, job: str) -> None:
    """The second is one of a processor, because others may be at work on the machine."""
    before = set(os.listdir(models))
    errors = tmp_path / "errors"
    with open(errors, "w") as err:
        running = subprocess.Popen(
            [*COMMAND, *JOBS[job].split(), "--threads", "1"],
            cwd=models,
            stdout=subprocess.DEVNULL,
            stderr=err,
            # A shell may start its background jobs with the signal ignored.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )
        while n_read(running.pid) < BEGUN:
            assert running.poll() is None, errors.read_text()
            time.sleep(0.001)
        taken, sent = processor_seconds(running.pid), time.monotonic()
        running.send_signal(signal.SIGINT)
        _, status, used = os.wait4(running.pid, 0)
    running.returncode = os.waitstatus_to_exitcode(status)
    assert (running.returncode, errors.read_text()) == (130, "tallies: interrupted\n")
    assert used.ru_utime + used.ru_stime - taken < SECONDS
    assert time.monotonic() - sent < 20 * SECONDS
    assert set(os.listdir(models)) == before
