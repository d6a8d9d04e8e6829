"""The examples run, on settings too small to show anything else."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

EXAMPLES = Path(__file__).parents[2] / "examples"


def lines_of(name: str, *options: str) -> list[str]:
    """Run an example on models that are hardly trained, and return the lines that it prints."""
    steps = ["--base-steps", "2", "--expert-steps", "2", *options]
    command = [sys.executable, "-W", "error", EXAMPLES / name, "--seeds", "0", *steps]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_adamerging() -> None:
    head, before, after, gain = lines_of("adamerging.py", "--steps", "3")
    assert head.split()[-1] == "mean"
    assert before.split()[:3] == ["0", "task", "arithmetic"]
    assert after.split()[:2] == ["0", "adamerging"]
    assert before.split()[3:] != after.split()[2:]
    assert gain.startswith("gain of the mean accuracy")


def test_evolve() -> None:
    head, row, mean, *_ = lines_of("evolve.py", "--budget", "14")
    assert head.split() == ["seed", "defaults", "random", "accuracy", "item-response"]
    assert row.split()[0] == "0" and mean.split()[0] == "mean"
    # What a search found is another model than the one without a search.
    assert len(set(row.split()[1:3])) == 2
    assert all(0 < float(one) < 100 for one in row.split()[1:])


def test_pareto() -> None:
    head, row, mean, *_ = lines_of("pareto.py", "--budget", "8", "--generations", "3")
    assert head.split()[:3] == ["seed", "volume", "random"]
    _, random, found, gain, *_ = map(float, row.split())
    assert 0 < random < 100 and 0 < found < 100
    assert abs(found - random - gain) < 0.02
    assert mean.split()[1:] == row.split()[1:]
