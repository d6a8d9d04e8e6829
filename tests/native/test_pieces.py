"""Outputs are written in pieces that the page cache keeps whole, and the cuts change no byte."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from tests.reference.task_arithmetic import task_arithmetic
from tests.support.checkpoints import read, write
from tests.support.compiled import compiled, preloaded
from tests.support.everywhere import assert_same_bits

NOTE_WRITES = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>
ssize_t pwrite(int file, const void* data, size_t n, off_t at) {
  static ssize_t (*put)(int, const void*, size_t, off_t);
  if (!put) *(void**)&put = dlsym(RTLD_NEXT, "pwrite");
  FILE* notes = fopen(getenv("NOTES"), "a");
  fprintf(notes, "%lld %lld\n", (long long)at, (long long)n);
  fclose(notes);
  return put(file, data, n, at);
}
"""

PROGRAM = """
import sys, tallies
base, expert, out, dtype, memory = sys.argv[1:]
recipe = {"merge_method": "task_arithmetic", "base_model": base, "models": [expert]}
recipe |= {"parameters": {"scale": 0.4}, "out_dtype": dtype}
tallies.merge(recipe, out, threads=2, max_memory=memory)
"""

N_ELEMENTS = 2_500_032


@pytest.fixture(scope="module")
def shim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A library that notes the place and the size of each write."""
    return compiled(tmp_path_factory.mktemp("shim"), NOTE_WRITES)


@pytest.mark.parametrize("memory", ["1GiB", "2MiB"])
@pytest.mark.parametrize("n_before", [0, 32, 100_032])
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_writes_lie_between_multiples_of_a_power_of_two(
    tmp_path: Path, shim: Path, dtype: str, n_before: int, memory: str
) -> None:
    draw = np.random.default_rng(0)
    shapes = {"a": n_before, "b": N_ELEMENTS}
    base, expert = (
        {
            name: draw.standard_normal(n, np.float32).astype(ml_dtypes.bfloat16)
            for name, n in shapes.items()
        }
        for _ in range(2)
    )
    places = [write(tmp_path / "base", base), write(tmp_path / "expert", expert), tmp_path / "out"]
    notes = tmp_path / "notes"
    subprocess.run(
        [sys.executable, "-c", PROGRAM, *map(str, places), dtype, memory],
        env={**os.environ, "LD_PRELOAD": preloaded(shim), "NOTES": str(notes)},
        check=True,
    )
    merged = read(places[-1])
    for name in shapes:
        expected = task_arithmetic(
            base[name].astype(np.float32), [expert[name].astype(np.float32)], scale=0.4
        )
        assert_same_bits(merged[name], expected.astype(merged[name].dtype))

    writes = sorted(tuple(map(int, line.split())) for line in notes.read_text().splitlines())
    size = (places[-1] / "model.safetensors").stat().st_size
    first = size - merged["b"].nbytes
    pieces = [(at, n) for at, n in writes if at >= first]
    assert [at for at, _ in pieces] == [first, *(at + n for at, n in pieces[:-1])]
    assert sum(n for _, n in pieces) == merged["b"].nbytes
    most = max(n for _, n in pieces)
    assert most & (most - 1) == 0
    # Tiles start on multiples of 64 elements, and so some tensors cannot be cut there.
    if first % (64 * merged["b"].itemsize) == 0:
        assert all((at % most, n) == (0, most) for at, n in pieces[1:-1])
