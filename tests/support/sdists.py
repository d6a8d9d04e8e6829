"""The source distributions of hosts, which hold the hosts' own tests."""

from __future__ import annotations

import os
import tarfile
from pathlib import Path

import pytest

FOLDER = "TALLIES_SDISTS"
"""The variable of the environment that names the folder of the archives; make test-all sets it."""


def unpacked(name: str, place: Path) -> Path:
    """Unpack the source distribution of a host, such as ``mergekit-0.1.5``, into a folder.

    The test is skipped where no archives were downloaded.
    """
    folder = os.environ.get(FOLDER)
    if folder is None:
        pytest.skip(f"{FOLDER} names no folder of source distributions; make test-all does")
    with tarfile.open(Path(folder) / f"{name}.tar.gz") as archive:
        archive.extractall(place, filter="data")
    return place / name
