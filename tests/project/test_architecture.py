"""Modules of Python import only what stands below their room."""

from __future__ import annotations

import ast
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

from tests.support.rooms import (
    PACKAGE,
    ROOT,
    WORKS_ON_ARRAYS,
    WORKS_ON_TENSORS,
    import_nodes,
    imports,
    may_import,
    python_modules,
    room_of,
)


@pytest.mark.parametrize("name", sorted(python_modules().keys() - {"tallies"}))
def test_imports_point_downwards(name: str) -> None:
    ours = {
        m
        for m in imports(python_modules()[name], inside=True, typing=True)
        if m.startswith("tallies")
    }
    assert "tallies" not in ours, "the front door imports the rooms, and no room imports it"
    wrong = sorted(m for m in ours if not may_import(room_of(name), room_of(m)))
    assert not wrong, f"{room_of(name)} may not import {wrong}"


@pytest.mark.parametrize(
    ("room", "other"),
    [
        ("checkpoint", "engine"),
        ("spec", "methods"),
        ("methods", "recipe"),
        ("engine", "merging"),
        ("merging", "store"),
        ("store.codecs", "torch"),
        ("inspection", "cli"),
        ("recipe", "_core"),
        ("checkpoint", "_core"),
        ("cli", "_core"),
    ],
)
def test_imports_that_point_upwards_are_found(room: str, other: str) -> None:
    assert not may_import(room, other)


def test_no_module_hides_one_of_the_standard_library() -> None:
    assert not {path.stem for path in PACKAGE.iterdir()} & set(sys.stdlib_module_names)


@pytest.mark.parametrize("name", python_modules())
def test_arrays_and_tensors_are_imported_late(name: str) -> None:
    roots = {module.partition(".")[0] for module in imports(python_modules()[name])}
    room = room_of(name).partition(".")[0] if name != "tallies" else ""
    assert "numpy" not in roots or room in WORKS_ON_ARRAYS
    assert "torch" not in roots or room in WORKS_ON_TENSORS


def test_only_main_imports_the_command_line() -> None:
    users = {
        name
        for name, path in python_modules().items()
        if not name.startswith("tallies.cli")
        and any(module.startswith("tallies.cli") for module in imports(path, inside=True))
    }
    assert users == {"tallies.__main__"}


METHODS = sorted((PACKAGE / "methods").glob("[!_]*.py"))


@pytest.mark.parametrize("path", METHODS, ids=lambda path: path.stem)
def test_a_method_is_one_short_file(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 80, "what it solves for has a room of its own"


def test_imports_have_no_cycle() -> None:
    graph = {name: imports(path) for name, path in python_modules().items()}
    assert list(TopologicalSorter(graph).static_order())


def test_the_reference_needs_numpy_alone() -> None:
    roots: set[str] = set()
    for path in (ROOT / "tests" / "reference").glob("*.py"):
        for node in import_nodes(ast.parse(path.read_text()), inside=True):
            if isinstance(node, ast.Import):
                roots.update(alias.name.partition(".")[0] for alias in node.names)
            elif node.level == 0:
                roots.add(str(node.module).partition(".")[0])
    assert "numpy" in roots
    assert roots <= {"numpy", *sys.stdlib_module_names}
