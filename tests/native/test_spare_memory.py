"""The passes of a merge leave their buffers to each other."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.support.checkpoints import write
from tests.support.compiled import compiled, preloaded

NOTE_PAGES = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>
void* aligned_alloc(size_t alignment, size_t n) {
  static void* (*allocate)(size_t, size_t);
  if (!allocate) *(void**)&allocate = dlsym(RTLD_NEXT, "aligned_alloc");
  // Elements in memory that are repaired take a page at most, which is no buffer of a pass.
  if (alignment == 4096 && n >= 65536) {
    int notes = open(getenv("NOTES"), O_WRONLY | O_CREAT | O_APPEND, 0666);
    if (write(notes, ".", 1) != 1) abort();
    close(notes);
  }
  return allocate(alignment, n);
}
"""

PROGRAM = """
import sys, tallies
base, one, two, out, scope, threads = sys.argv[1:]
recipe = {"merge_method": "ties", "base_model": base, "models": [one, two]}
recipe |= {"parameters": {"density": 0.3, "scope": scope}}
tallies.merge(recipe, out, threads=int(threads))
"""


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("scope", ["tensor", "model"])
def test_passes_use_the_buffers_of_the_passes_before(
    tmp_path: Path, scope: str, threads: int
) -> None:
    """A pass that needs more memory than those before takes new buffers, and drops theirs."""
    shim, notes = compiled(tmp_path, NOTE_PAGES), tmp_path / "notes"
    draw = np.random.default_rng(0)
    models = [
        write(
            tmp_path / name,
            {f"w{i:03}": draw.standard_normal(70_000, np.float32) for i in range(120)},
        )
        for name in ("base", "one", "two")
    ]
    subprocess.run(
        [
            sys.executable,
            "-c",
            PROGRAM,
            *map(str, models),
            str(tmp_path / "out"),
            scope,
            str(threads),
        ],
        env={**os.environ, "LD_PRELOAD": preloaded(shim), "NOTES": str(notes)},
        check=True,
    )
    # The sizes of a sample, a count, and a combine.
    assert 1 <= len(notes.read_bytes()) <= 3 * threads
