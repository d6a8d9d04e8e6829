"""Fixtures and settings that all tests share."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from tallies import cpu
from tests.support.cmake import build

# A test that names a model that is nowhere asks no hub; tests/hub/ has one of its own.
os.environ["HF_HUB_OFFLINE"] = "1"

# No deadline: the machines that run this are shared, and a slow example is not a wrong one.
settings.register_profile("tallies", deadline=None, print_blob=True)
settings.load_profile("tallies")


@pytest.fixture(scope="session")
def mergekit_python() -> str:
    """The Python that has mergekit."""
    python = os.environ.get("TALLIES_MERGEKIT_PYTHON")
    if not python:
        reason = "TALLIES_MERGEKIT_PYTHON does not name a Python with mergekit; `make test` does"
        (pytest.fail if os.environ.get("CI") else pytest.skip)(reason)
    return python


@pytest.fixture(scope="session")
def fusion_bench_python() -> str:
    """The Python that has mergekit, peft and fusion_bench."""
    found = os.environ.get("TALLIES_MERGEKIT_PYTHON")
    check = "from importlib.util import find_spec; assert find_spec('fusion_bench')"
    if not found or subprocess.run([found, "-I", "-c", check], check=False).returncode:
        reason = (
            "TALLIES_MERGEKIT_PYTHON does not name a Python with peft and fusion_bench; "
            "`make test` does"
        )
        (pytest.fail if os.environ.get("CI") else pytest.skip)(reason)
    return found


@pytest.fixture(scope="session")
def emulator(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the CUDA kernels, and the operators on them, built for the processor."""
    folder = tmp_path_factory.mktemp("emulator")
    build(Path(__file__).parent / "emulator", folder, "torch_emulated")
    return folder


@pytest.fixture(params=cpu.targets())
def target(request: pytest.FixtureRequest) -> Iterator[str]:
    """Every instruction set that this machine runs, in use during the test."""
    before = cpu.target()
    cpu.set_target(request.param)
    yield request.param
    cpu.set_target(before)
