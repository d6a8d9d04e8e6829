"""Builds a CMake target for a test."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path


def build(
    source: Path, folder: Path, target: str, options: Mapping[str, str | Path] | None = None
) -> None:
    """Configure ``source`` in ``folder`` and build ``target``, on two cores."""
    beside = shutil.which("cmake", path=Path(sys.executable).parent)
    cmake = beside or shutil.which("cmake")
    assert cmake is not None, "needs CMake, which built the package: pip install cmake"
    settings = [f"-D{key}={value}" for key, value in (options or {}).items()]
    configure = [cmake, "-S", source, "-B", folder, *settings]
    make = [cmake, "--build", folder, "--target", target, "--parallel", "2"]
    for command in (configure, make):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
