"""Models far larger than the memory that a job gets, under a limit that the kernel holds.

With ``-rP`` each command prints the most memory that its process had.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np
import pytest

from tests.faults.large import SHAPE, sparse
from tests.support.command import COMMAND

GIB: Final = 1 << 30
BUDGET: Final = 256 << 20
ALLOWED: Final = BUDGET + (150 << 20)


def _group() -> Path | None:
    """Make a control group with a limit on memory, where this user may."""
    roots = [Path("/sys/fs/cgroup/memory"), Path("/sys/fs/cgroup")]
    for root, limit in zip(roots, ("memory.limit_in_bytes", "memory.max"), strict=True):
        group = root / f"tallies-test-{os.getpid()}"
        try:
            group.mkdir()
        except OSError:
            continue
        try:
            (group / limit).write_text(str(ALLOWED))
        except OSError:
            group.rmdir()
            continue
        return group
    return None


@pytest.fixture(scope="module")
def group() -> Iterator[Path]:
    made = _group()
    if made is None:
        pytest.skip("no control group with a limit on memory can be made here")
    yield made
    made.rmdir()


def adapter(path: Path) -> Path:
    """Write an adapter of rank 2 of the large tensor."""
    path.mkdir()
    factors = {"lora_A": (2, SHAPE[1]), "lora_B": (SHAPE[0], 2)}
    at, entries, data = 0, {}, b""
    for name, shape in factors.items():
        data += np.full(shape, 0.5, np.float32).tobytes()
        entry = {"dtype": "F32", "shape": shape, "data_offsets": [at, len(data)]}
        entries[f"base_model.model.model.large.{name}.weight"] = entry
        at = len(data)
    head = json.dumps(entries).encode()
    (path / "adapter_model.safetensors").write_bytes(struct.pack("<Q", len(head)) + head + data)
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 2, "target_modules": ["large"]}
    (path / "adapter_config.json").write_text(json.dumps(config))
    return path


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    root = tmp_path_factory.mktemp("large")
    if shutil.disk_usage(root).free < 16 * GIB:
        pytest.skip("16 GiB of disk are not free here")
    for seed, name in enumerate(("base", "a", "b")):
        sparse(root / name, seed)
    adapter(root / "adapter")
    yield root
    shutil.rmtree(root)


def in_group(group: Path, command: list[str], **options: Any) -> tuple[int, int]:
    """Run a command whose memory the kernel limits; return its status and its most MiB."""

    def enter() -> None:
        (group / "cgroup.procs").write_text(str(os.getpid()))

    running = subprocess.Popen(command, preexec_fn=enter, **options)
    _, status, used = os.wait4(running.pid, 0)
    running.returncode = os.waitstatus_to_exitcode(status)
    return running.returncode, used.ru_maxrss >> 10


def run(group: Path, folder: Path, *arguments: str) -> None:
    """Run a command in the control group, with two threads and a budget."""
    command = [*COMMAND, *arguments, "--max-memory", str(BUDGET), "--threads", "2"]
    errors = folder / "errors"
    with open(errors, "w") as err:
        status, mib = in_group(group, command, cwd=folder, stdout=subprocess.DEVNULL, stderr=err)
    assert status in (0, 1 if arguments[0] == "diff" else 0), errors.read_text()
    print(f"{' '.join(arguments)}: {mib} MiB")


def test_the_group_ends_who_takes_more(group: Path) -> None:
    program = f"bytearray(b'x') * {2 * ALLOWED}"
    status, _ = in_group(group, [sys.executable, "-c", program])
    assert status == -signal.SIGKILL


TWO: Final = "--base base --model a --model b"
JOBS: Final = {
    "task_arithmetic": [f"merge --method task_arithmetic {TWO} --out out"],
    "ties": [f"merge --method ties {TWO} --param density=0.2 --out out"],
    "della": [f"merge --method della {TWO} --param density=0.4 --out out"],
    "adapter": ["merge --method linear --model base+adapter --out out"],
    "sweep": [f"sweep --method ties {TWO} --set density=0.2,0.5 --out out"],
    "tall": ["pack --codec tall --base base --task a=a --task b=b --out out"],
    "sparse": [
        "pack --codec sparse --param density=0.01 --base base --task a=a --out made",
        "unpack made a out",
    ],
    "lossless": ["pack --codec lossless --base base --task a=a --out made", "unpack made a out"],
    "patch": ["patch base a --out made", "apply made --to base --out out"],
    "diff": ["diff base a"],
}


@pytest.mark.parametrize("job", JOBS)
def test_a_tensor_of_four_gib_in_a_group_with_little_memory(
    group: Path, models: Path, job: str
) -> None:
    try:
        for command in JOBS[job]:
            run(group, models, *command.split())
    finally:
        for name in ("made", "out"):
            shutil.rmtree(models / name, ignore_errors=True)
