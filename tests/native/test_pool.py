"""Threads are taken from one pool and given back to it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.compiled import compiled, preloaded

COUNTED = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <pthread.h>
static int n;
static size_t least = -1;
int pthread_create(pthread_t* thread, const pthread_attr_t* attributes, void* (*body)(void*),
                   void* argument) {
  static int (*create)(pthread_t*, const pthread_attr_t*, void* (*)(void*), void*);
  if (!create) *(void**)&create = dlsym(RTLD_NEXT, "pthread_create");
  size_t n_bytes = 0;
  if (attributes) pthread_attr_getstacksize(attributes, &n_bytes);
  if (n_bytes < least) least = n_bytes;
  __atomic_add_fetch(&n, 1, __ATOMIC_SEQ_CST);
  return create(thread, attributes, body, argument);
}
int started(void) { return n; }
size_t least_stack(void) { return least; }
"""

HEAD = """
import ctypes, os, sys
import torch, tallies.torch as functions
t = torch.linspace(-1, 1, 1 << 22)
experts = [t * 0.5, t * 2]  # by threads of torch
def work(threads=3):
    return functions.ties(t, experts, density=0.5, threads=threads)
"""

COUNT = """
shim = ctypes.CDLL(os.environ["LD_PRELOAD"].split()[-1])
"""


def run(program: str, **environment: str) -> list[str]:
    """Run a program of Python, and return what it prints."""
    single = {"OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    settings = {**os.environ, **single, **environment}
    command = [sys.executable, "-c", HEAD + program]
    done = subprocess.run(
        command, env=settings, capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.fixture(scope="module")
def shim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compiled(tmp_path_factory.mktemp("shim"), COUNTED)


def test_calls_share_their_threads(shim: Path) -> None:
    program = """
torch.set_num_threads(1)
before = shim.started()
for _ in range(30):
    work()
print(shim.started() - before)
"""
    assert run(COUNT + program, LD_PRELOAD=preloaded(shim)) == ["2"]


def test_operators_take_the_threads_of_torch(shim: Path) -> None:
    program = """
for n in (1, 3, 2):
    torch.set_num_threads(n)
    before = shim.started()
    functions.trim(t, 0.5)
    work(None)
    print(shim.started() - before)
"""
    # A call for which two threads wait starts no other.
    assert run(COUNT + program, LD_PRELOAD=preloaded(shim)) == ["0", "2", "0"]


def test_threads_have_room_for_the_arrays_of_kernels(shim: Path) -> None:
    """As where the system's own threads have 128 KiB."""
    program = """
libc = ctypes.CDLL(None)
attributes = ctypes.create_string_buffer(256)
libc.pthread_attr_init(attributes)
libc.pthread_attr_setstacksize(attributes, ctypes.c_size_t(128 << 10))
assert libc.pthread_setattr_default_np(attributes) == 0
shim.least_stack.restype = ctypes.c_size_t
torch.set_num_threads(1)
work()
print(shim.least_stack())
"""
    assert run(COUNT + program, LD_PRELOAD=preloaded(shim)) == [str(1 << 20)]


@pytest.mark.parametrize("n_others", [0, 2])
def test_a_forked_process_has_threads_of_its_own(n_others: int) -> None:
    """Also one that is forked while other threads are at work."""
    program = f"""
import hashlib, threading
def digest():
    return hashlib.sha256(work().numpy().tobytes()).hexdigest()
torch.set_num_threads(1)
expected = digest()
end = threading.Event()
def disturb():
    while not end.is_set():
        work()
others = [threading.Thread(target=disturb) for _ in range({n_others})]
for one in others:
    one.start()
for _ in range(10):
    child = os.fork()
    if child == 0:
        same = digest() == expected
        n = len(os.listdir("/proc/self/task"))
        os._exit(0 if same and n == 3 else 1)
    print(os.waitpid(child, 0)[1])
end.set()
print(digest() == expected)
"""
    assert run(program) == ["0"] * 10 + ["True"]


def test_many_threads_that_wait_do_not_stay() -> None:
    program = """
import time
from tallies import _core
torch.set_num_threads(1)
x, out = torch.zeros(1 << 24), torch.empty(1 << 24)
source = _core.Source.plain(values=(-1, x.data_ptr(), 0))
source.decode(n_elements=x.numel(), threads=200, out=out.data_ptr())
end = time.monotonic() + 60
while (n := len(os.listdir("/proc/self/task"))) > 70 and time.monotonic() < end:
    time.sleep(0.1)
print(n <= 70)
"""
    assert run(program) == ["True"]
