"""Native files include only what csrc/README.md allows, and kernel objects export their table."""

from __future__ import annotations

import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from tests.support.cmake import build
from tests.support.rooms import CSRC, ROOT

# Symbols that compilers call for copies and for __builtin_cpu_supports.
EXTERNAL = {
    "memcpy",
    "memmove",
    "memset",
    "__cpu_model",
    "__cpu_features2",
    "_GLOBAL_OFFSET_TABLE_",
}


@cache
def layers() -> dict[str, tuple[list[str], str]]:
    """Return each layer's own headers that it may include, and the words about other headers."""
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in (CSRC / "README.md").read_text().splitlines()
        if line.startswith("| `")
    ]
    return {row[0].strip("`"): (re.findall(r"`([^`]+)`", row[1]), row[2]) for row in rows}


def layer_of(path: str) -> str:
    """Return the layer with the longest name that a path below csrc begins with."""
    return max((name for name in layers() if path.startswith(f"{name}/")), key=len)


def is_allowed(layer: str, header: str, *, system: bool) -> bool:
    ours, others = layers()[layer]
    if not system:
        return any(header == name or header.startswith(f"{name}/") for name in (layer, *ours))
    if f"`<{header}>`" in others:
        return True
    if "/" in header:
        return header.startswith("pybind11/") and "pybind11" in others
    return ("POSIX" if header.endswith(".h") else "C++ standard library") in others


def native_files() -> list[Path]:
    return sorted(path for path in CSRC.rglob("*") if path.suffix in (".h", ".cpp", ".cu"))


def test_the_table_names_every_folder() -> None:
    folders = {str(path.parent.relative_to(CSRC)) for path in native_files()}
    assert folders == layers().keys()


@pytest.mark.parametrize("path", native_files(), ids=lambda path: str(path.relative_to(CSRC)))
def test_includes(path: Path) -> None:
    layer = layer_of(str(path.relative_to(CSRC)))
    includes = re.findall(r'^\s*#\s*include\s*(["<])([^">]+)', path.read_text(), re.MULTILINE)
    wrong = [
        header
        for bracket, header in includes
        if not is_allowed(layer, header, system=bracket == "<")
    ]
    assert not wrong, f"{layer} may not include {wrong}; see csrc/README.md"


@pytest.mark.parametrize(
    ("layer", "header", "system"),
    [
        ("core", "kernels/lanes.h", False),
        ("core", "pybind11/pybind11.h", True),
        ("core", "unistd.h", True),
        ("kernels", "vector", True),
        ("kernels", "algorithm", True),
        ("kernels", "cpu/ops.h", False),
        ("cpu", "kernels/lanes.h", False),
        ("cuda", "cpu/ops.h", False),
        ("cuda", "engine/plan.h", False),
        ("bind", "cuda/launch.h", False),
        ("stream", "cpu/ops.h", False),
        ("engine", "kernels/survey.h", False),
        ("engine", "cpu/dispatch.h", False),
        ("engine", "Python.h", True),
        ("bind", "kernels/survey.h", False),
        ("torch", "kernels/survey.h", False),
        ("torch", "torch/csrc/stable/library.h", True),
        ("torch", "pybind11/pybind11.h", True),
    ],
)
def test_what_the_table_forbids(layer: str, header: str, system: bool) -> None:
    assert not is_allowed(layer, header, system=system)


@pytest.fixture(scope="module")
def target_objects(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The kernels compiled for every instruction set with the flags of CMakeLists.txt."""
    import pybind11

    folder = tmp_path_factory.mktemp("objects")
    options: dict[str, str | Path] = {
        "CMAKE_BUILD_TYPE": "Release",
        "SKBUILD_PROJECT_VERSION": "0",
        "pybind11_DIR": pybind11.get_cmake_dir(),
        "Python_EXECUTABLE": sys.executable,
        "TALLIES_WERROR": "ON",
        "TALLIES_CUDA": "OFF",
    }
    build(ROOT, folder, "tallies_targets", options)
    return sorted(folder.rglob("targets/*.o"))


def test_kernel_objects_export_their_table_alone(target_objects: list[Path]) -> None:
    assert target_objects
    for path in target_objects:
        listing = subprocess.run(
            ["nm", "-C", path], capture_output=True, text=True, check=True
        ).stdout
        symbols = [re.match(r"[0-9a-f ]{16} (\S) (.*)", line) for line in listing.splitlines()]
        kinds: dict[str, list[str]] = {}
        for symbol in symbols:
            assert symbol is not None, listing
            kinds.setdefault(symbol[1], []).append(symbol[2])
        table = f"tallies::{path.name.partition('.')[0]}_table"
        exported = [name for kind, names in kinds.items() if kind.isupper() for name in names]
        assert set(exported) - EXTERNAL == {table}, path.name
        assert kinds.keys() <= set("DRUbdrt"), (
            f"{path.name} has weak or odd symbols: {kinds.keys()}"
        )
        assert set(kinds.get("U", [])) <= EXTERNAL, path.name
