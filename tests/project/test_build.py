"""When the CUDA kernels are built, when they are left out, and when that is an error."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import pybind11
import pytest

from tests.support.cmake import configure

ROOT = Path(__file__).parents[2]
HAS_DEVICE = any(Path("/dev").glob("nvidia[0-9]*")) or Path("/dev/dxg").exists()


def outcome(folder: Path, *, nvcc: bool, archs: str = "", **options: str) -> tuple[int, str]:
    """Configure the project, with or without a compiler for CUDA, and return status and output."""
    environment = {key: value for key, value in os.environ.items() if key != "CUDAARCHS"}
    if not nvcc:
        environment["CUDACXX"] = str(folder / "no-nvcc")
    if archs:
        environment["CUDAARCHS"] = archs
    settings: dict[str, str | Path] = {
        "SKBUILD_PROJECT_VERSION": "0",
        "pybind11_DIR": pybind11.get_cmake_dir(),
        "Python_EXECUTABLE": sys.executable,
        **options,
    }
    done = configure(ROOT, folder, settings, environment)
    return done.returncode, " ".join((done.stdout + done.stderr).split())


@pytest.mark.skipif(HAS_DEVICE, reason="is about a machine without a device")
def test_nothing_is_built_for_no_device(tmp_path: Path) -> None:
    status, output = outcome(tmp_path, nvcc=False)
    assert status == 0, output
    assert "No CUDA kernels: there is no device here, and no architectures are named" in output


@pytest.mark.parametrize("named", ["environment", "option", "all"])
def test_architectures_without_a_compiler_are_an_error(tmp_path: Path, named: str) -> None:
    archs = "90" if named == "environment" else ""
    options = {
        "environment": {},
        "option": {"CMAKE_CUDA_ARCHITECTURES": "90"},
        "all": {"TALLIES_CUDA_ALL_ARCHS": "ON"},
    }[named]
    status, output = outcome(tmp_path, nvcc=False, archs=archs, **options)
    assert status != 0
    assert "CUDA architectures are named (" in output
    assert "and there is no nvcc; set CUDACXX to it, or TALLIES_CUDA=OFF" in output


def test_on_without_a_compiler_is_an_error(tmp_path: Path) -> None:
    status, output = outcome(tmp_path, nvcc=False, TALLIES_CUDA="ON")
    assert status != 0
    assert "TALLIES_CUDA is ON and there is no nvcc" in output


def test_off_builds_nothing_whatever_is_named(tmp_path: Path) -> None:
    status, output = outcome(tmp_path, nvcc=False, archs="90", TALLIES_CUDA="OFF")
    assert status == 0, output
    assert "CUDA" not in output


@pytest.mark.skipif(shutil.which("nvcc") is None, reason="needs nvcc")
@pytest.mark.parametrize(("archs", "builds"), [("90", True), ("999", False)])
def test_an_architecture_that_nvcc_lacks_is_an_error(
    tmp_path: Path, archs: str, builds: bool
) -> None:
    status, output = outcome(tmp_path, nvcc=True, archs=archs)
    assert (status == 0) is builds, output
