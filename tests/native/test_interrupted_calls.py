"""Calls of the system that a signal interrupts are made again; files may be opened meanwhile."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from tallies import _core
from tests.support.compiled import compiled, preloaded

INTERRUPTED = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#define REAL(name) \
  static __typeof__(&name) real; \
  if (!real) *(void**)&real = dlsym(RTLD_NEXT, #name);
/* Each call of the kind fails twice, then goes through. */
static int is_interrupted(const char* name) {
  static __thread int n;
  const char* asked = getenv("INTERRUPTED");
  if (!asked || strcmp(asked, name) || n++ % 3 == 2) return 0;
  errno = EINTR;
  return 1;
}
static int is_ours(const char* path) { return strstr(path, "model") != NULL; }
int open64(const char* path, int flags, ...) {
  REAL(open64)
  va_list rest;
  va_start(rest, flags);
  mode_t mode = flags & O_CREAT ? va_arg(rest, mode_t) : 0;
  va_end(rest);
  return is_ours(path) && is_interrupted("open") ? -1 : real(path, flags, mode);
}
int open(const char* path, int flags, ...) {
  va_list rest;
  va_start(rest, flags);
  mode_t mode = flags & O_CREAT ? va_arg(rest, mode_t) : 0;
  va_end(rest);
  return open64(path, flags, mode);
}
int fallocate64(int fd, int mode, off64_t at, off64_t n) {
  REAL(fallocate64)
  return is_interrupted("fallocate") ? -1 : real(fd, mode, at, n);
}
int fallocate(int fd, int mode, off_t at, off_t n) { return fallocate64(fd, mode, at, n); }
int ftruncate64(int fd, off64_t n) {
  REAL(ftruncate64)
  return is_interrupted("ftruncate") ? -1 : real(fd, n);
}
int ftruncate(int fd, off_t n) { return ftruncate64(fd, n); }
"""

PROGRAM = """
import sys
from tallies import _core
path = sys.argv[1]
plan = _core.Plan(has_base=False)
plan.close(plan.open_to_write(path, 5000))
plan.open_to_read(path)
print(len(open(path + "", "rb").read()))
"""


@pytest.mark.parametrize("call", ["open", "fallocate", "ftruncate"])
def test_an_interrupted_call_is_made_again(tmp_path: Path, call: str) -> None:
    shim = compiled(tmp_path, INTERRUPTED)
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(tmp_path / "model")],
        env={**os.environ, "LD_PRELOAD": preloaded(shim), "INTERRUPTED": call},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "5000\n"), done.stderr


def test_files_are_opened_while_a_pass_reads(tmp_path: Path) -> None:
    """The list of files grows, and moves in memory, under the reads of the pass."""
    path = tmp_path / "x"
    x = np.arange(1 << 22, dtype=np.float32)
    x.tofile(path)
    plan = _core.Plan(has_base=False)
    plan.add_job(x.size, [(plan.open_to_read(str(path)), 0, 0)], [])
    end = threading.Event()

    def read() -> None:
        task = _core.GramTask(job=0, row_length=x.size)
        while not end.is_set():
            [rows] = plan.gram(
                tasks=[task], deltas=False, with_magnitudes=True, limits=_core.Limits(2, 1 << 16)
            )
            tables.append(rows.table())

    tables: list[bytes] = []
    reader = threading.Thread(target=read)
    reader.start()
    try:
        for _ in range(400):
            plan.open_to_read(str(path))
    finally:
        end.set()
        reader.join()
    assert len(set(tables)) == 1
