"""The examples run, on settings too small to show anything else."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

EXAMPLES = Path(__file__).parents[2] / "examples"


def test_adamerging() -> None:
    steps = ["--steps", "3", "--base-steps", "2", "--expert-steps", "2"]
    command = [sys.executable, "-W", "error", EXAMPLES / "adamerging.py", "--seeds", "0", *steps]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    head, before, after, gain = done.stdout.splitlines()
    assert head.split()[-1] == "mean"
    assert before.split()[:3] == ["0", "task", "arithmetic"]
    assert after.split()[:2] == ["0", "adamerging"]
    assert before.split()[3:] != after.split()[2:]
    assert gain.startswith("gain of the mean accuracy")
