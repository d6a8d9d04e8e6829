"""Configures and builds CMake targets for a test."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

Options = Mapping[str, str | Path]


def found_cmake() -> str:
    """Return the CMake beside this Python, or else the machine's."""
    beside = shutil.which("cmake", path=Path(sys.executable).parent)
    cmake = beside or shutil.which("cmake")
    assert cmake is not None, "needs CMake, which built the package: pip install cmake"
    return cmake


def configure(
    source: Path, folder: Path, options: Options, environment: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Configure ``source`` in ``folder``, and return the outcome even if it is a failure."""
    settings = [f"-D{key}={value}" for key, value in options.items()]
    command = [found_cmake(), "-S", str(source), "-B", str(folder), *settings]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def build(source: Path, folder: Path, target: str, options: Options | None = None) -> None:
    """Configure ``source`` in ``folder`` and build ``target``, on two cores."""
    done = configure(source, folder, options or {})
    assert done.returncode == 0, done.stdout + done.stderr
    make = [found_cmake(), "--build", str(folder), "--target", target, "--parallel", "2"]
    done = subprocess.run(make, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
