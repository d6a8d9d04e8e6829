"""Run the command line as a user would, each time in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import InputError, StorageError

Report = dict[str, Any]
"""A command's own report, with ``seconds`` and ``peak_memory_bytes``."""


def merge(
    method: str,
    base: Path,
    experts: Sequence[Path],
    out: Path,
    parameters: Mapping[str, float],
) -> Report:
    """Run ``tallies merge`` and return its report.

    Raises:
        InputError: The command refused its input; the message has the line that it printed.
        StorageError: The command failed to read or write; the message has the line that it printed.
    """
    arguments = ["--method", method, "--base", str(base)]
    for expert in experts:
        arguments += ["--model", str(expert)]
    for name, value in parameters.items():
        arguments += ["--param", f"{name}={value}"]
    return _run("merge", method, [*arguments, "--out", str(out)])


def pack(codec: str, base: Path, experts: Mapping[str, Path], out: Path) -> Report:
    """Run ``tallies pack`` on experts by task, and return its report; raise as ``merge`` does."""
    arguments = ["--codec", codec, "--base", str(base)]
    for task, expert in experts.items():
        arguments += ["--task", f"{task}={expert}"]
    return _run("pack", codec, [*arguments, "--out", str(out)])


def unpack(store: Path, task: str, out: Path) -> Report:
    """Run ``tallies unpack`` and return its report; raise as ``merge`` does."""
    return _run("unpack", task, [str(store), task, str(out)])


def _run(command: str, what: str, arguments: Sequence[str]) -> Report:
    line = [sys.executable, "-m", "tallies", command, *arguments, "--overwrite", "--json"]
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
        kind = InputError if done.returncode == InputError.exit_status else StorageError
        raise kind(f"the {what} {command} of the demo failed: {lines[-1]}")
    report: Report = json.loads(done.stdout)
    return report
