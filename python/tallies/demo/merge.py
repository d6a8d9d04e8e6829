"""One merge by the command line itself, in a process of its own, as a user would run it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tallies.errors import InputError, StorageError


def merge(
    method: str,
    base: Path,
    experts: Sequence[Path],
    out: Path,
    parameters: Mapping[str, float],
) -> dict[str, Any]:
    """Run ``tallies merge`` and return its report, with ``seconds`` and ``peak_memory_bytes``.

    Raises InputError or StorageError with the line the command printed when it failed.
    """
    command = [sys.executable, "-m", "tallies", "merge", "--method", method, "--base", str(base)]
    for expert in experts:
        command += ["--model", str(expert)]
    for name, value in parameters.items():
        command += ["--param", f"{name}={value}"]
    command += ["--out", str(out), "--overwrite", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
        kind = InputError if done.returncode == InputError.exit_status else StorageError
        raise kind(f"the {method} merge of the demo failed: {lines[-1]}")
    report: dict[str, Any] = json.loads(done.stdout)
    return report
