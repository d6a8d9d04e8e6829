"""Merges in a process of their own whose matrices take a minute each, in a call that cannot stop.

The process writes SLOW to standard error once the first matrix is in hand.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

_SLOW = """
import os, sys, time
from unittest import mock
import torch
from tallies.linalg import spectral

def slow(matrix, *args, **options):
    os.write(2, b"SLOW\\n")
    time.sleep(60)
    raise AssertionError("a minute has passed")

mock.patch.multiple(spectral, polar=slow, thin_svd=slow, spectrum=slow).start()
"""
SECONDS = 20.0
"""The most that an end may take on a machine that does much else; a matrix takes more."""


def interrupt(program: str, folder: Path) -> tuple[int, str, float]:
    """Run a program of Python and interrupt it when its first matrix is in hand.

    Args:
        program: The program; ``spectral`` and the modules of ``_SLOW`` are imported.
        folder: The working directory.

    Returns:
        The exit status, standard error behind the marks, and the seconds from the signal to the
        end.
    """
    running = subprocess.Popen(
        [sys.executable, "-c", _SLOW + program],
        stderr=subprocess.PIPE,
        text=True,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
        # A shell may start its background jobs with the signal ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    assert running.stderr is not None
    first = running.stderr.readline()
    assert first == "SLOW\n", first
    sent = time.monotonic()
    running.send_signal(signal.SIGINT)
    err = running.communicate(timeout=120)[1]
    return running.returncode, err.replace("SLOW\n", ""), time.monotonic() - sent
