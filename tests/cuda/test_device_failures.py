"""A device that fails in the middle of a merge leaves one error, which names a way out."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

KINDS = ("device memory", "pinned memory", "stream", "copy")
"""Kinds of calls that the emulator lets fail, by its numbers."""

MERGE = """
import ctypes, os, sys
from pathlib import Path
import numpy as np
from safetensors.numpy import save_file
from tallies import StorageError, merge
from tallies.engine import device as rates

for model in ("base", "a"):
    Path(model).mkdir()
    save_file({"w": np.full(300_000, len(model), np.float32)}, f"{model}/model.safetensors")
rates.link_rate, rates.merge_rate = lambda: 4e9, lambda *_: 1e9
library = ctypes.CDLL(os.environ["TALLIES_CUDA_LIBRARY"])
recipe = {"merge_method": "task_arithmetic", "base_model": "base", "models": ["a"]}
library.emulator_fail(int(sys.argv[1]), int(sys.argv[2]))
try:
    merge(recipe, "out", device="cuda", max_vram="8MiB", threads=3)
except StorageError as error:
    print(error)
print(library.emulator_held(), os.path.exists("out"))
"""

MEMORY = "CUDA device: out of memory; lower --max-vram, or use --device cpu"
LOCKED = (
    "CUDA device: out of memory; the system locks no more memory: lower --max-memory, or use "
    "--device cpu"
)
OTHER = "CUDA device: invalid argument; use --device cpu"


@pytest.mark.parametrize(
    ("kind", "nth", "says"),
    [
        ("device memory", 1, MEMORY),
        ("pinned memory", 1, LOCKED),
        ("pinned memory", 3, LOCKED),
        ("pinned memory", 4, LOCKED),
        ("stream", 1, OTHER),
        ("stream", 3, OTHER),
        ("copy", 1, OTHER),
        ("copy", 3, OTHER),
    ],
)
def test_a_failure_is_an_error_and_everything_is_given_back(
    emulated: Path, tmp_path: Path, kind: str, nth: int, says: str
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", MERGE, str(KINDS.index(kind)), str(nth)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "TALLIES_CUDA_LIBRARY": str(emulated)},
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [says, "0 False"]
