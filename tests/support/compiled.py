"""A shared library of C, compiled for a test."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path


def compiled(folder: Path, source: str) -> Path:
    """Compile a shared library of C."""
    (folder / "source.c").write_text(source)
    library = folder / "library.so"
    options = ["-shared", "-fPIC", "-O1"]
    command = ["cc", *options, "-o", str(library), str(folder / "source.c"), "-ldl"]
    subprocess.run(command, check=True)
    return library


def preloaded(library: Path) -> str:
    """Return what LD_PRELOAD says, with one library more.

    A sanitizer's own library stays the first, as it must.
    """
    return f"{os.environ.get('LD_PRELOAD', '')} {library}".strip()
