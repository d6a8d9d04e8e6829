"""A fixed case has the bytes that are in the repository, on every processor and in every way."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tallies import _core
from tests.support.known_bytes import FILE, WAYS

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("target", _core.targets())
@pytest.mark.parametrize("way", range(len(WAYS)))
def test_the_bytes_of_a_fixed_case(target: str, way: int) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.known_bytes", str(way)],
        env={**os.environ, "TALLIES_CPU_TARGET": target},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(done.stdout) == json.loads(FILE.read_text())
