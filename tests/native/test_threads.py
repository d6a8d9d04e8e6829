"""A lack of threads and errors inside a thread change no byte and end no process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.compiled import compiled, preloaded

NO_THREADS = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
int pthread_create(pthread_t* thread, const pthread_attr_t* attributes, void* (*body)(void*),
                   void* argument) {
  static int (*create)(pthread_t*, const pthread_attr_t*, void* (*)(void*), void*);
  static int n;
  if (!create) *(void**)&create = dlsym(RTLD_NEXT, "pthread_create");
  const char* first = getenv("FAIL_FROM");
  if (first && __atomic_add_fetch(&n, 1, __ATOMIC_SEQ_CST) >= atoi(first)) return EAGAIN;
  return create(thread, attributes, body, argument);
}
"""

PROGRAM = """
import hashlib
import numpy as np, torch
import tallies, tallies.torch as functions
from tallies import kernels
x = np.random.default_rng(0).standard_normal(1 << 19, np.float32)
t = torch.from_numpy(x)
found = [
    kernels.trim(x, 0.25).tobytes(),
    functions.trim(t, 0.25).numpy().tobytes(),
    functions.ties(t, [t * 0.5, t * 2], density=0.5, threads=3).numpy().tobytes(),
    tallies.merge_state_dicts({"w": t}, [{"w": t * 3}], method="ties")["w"].numpy().tobytes(),
]
print(hashlib.sha256(b"".join(found)).hexdigest())
"""


def run(program: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a program of Python with the threads of other libraries switched off."""
    single = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    command = [sys.executable, "-c", program]
    settings = {**os.environ, **single, **environment}
    return subprocess.run(command, env=settings, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def unhindered() -> str:
    """The result of the program with all its threads."""
    done = run(PROGRAM)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("first", [1, 2, 3])
def test_a_thread_that_cannot_be_started_is_done_without(
    tmp_path: Path, unhindered: str, first: int
) -> None:
    shim = compiled(tmp_path, NO_THREADS)
    done = run(PROGRAM, LD_PRELOAD=preloaded(shim), FAIL_FROM=str(first))
    assert (done.returncode, done.stdout) == (0, unhindered), done.stderr


@pytest.mark.parametrize("threads", [1, 2])
def test_what_goes_wrong_in_a_thread_is_an_error_of_the_call(threads: int) -> None:
    """The instruction set is chosen by the first call of a kernel, here in a worker."""
    program = f"""
import numpy as np
from tallies import _core, InputError
x = np.zeros(1 << 20, np.float32)
source = _core.Source.plain(values=(-1, x.ctypes.data, 0))
try:
    source.decode(n_elements=x.size, threads={threads}, out=x.ctypes.data)
except InputError as error:
    print(error)
"""
    done = run(program, TALLIES_CPU_TARGET="mmx")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("CPU target 'mmx' is not available on this machine; available: ")


def test_an_operator_without_its_instruction_set_is_an_error() -> None:
    program = """
import torch, tallies.torch as functions
try:
    functions.trim(torch.ones(1 << 20), 0.25)
except Exception as error:
    print(error)
"""
    done = run(program, TALLIES_CPU_TARGET="mmx")
    assert done.returncode == 0, done.stderr
    assert "CPU target 'mmx' is not available on this machine" in done.stdout
