"""Merges in forked processes, and in interpreters that share a process with another."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tallies import InputError, merge
from tests.support.checkpoints import data_bytes
from tests.support.stages import OPTIONS

pytestmark = pytest.mark.usefixtures("inputs_stay")


def merge_in_child(recipe: dict[str, Any], out: Path) -> str:
    """Merge with several threads; returns what it says where it is refused."""
    try:
        merge(recipe, out, **{**OPTIONS, "threads": 3})
    except InputError as error:
        return str(error)
    return ""


def in_children(n: int, recipe: dict[str, Any], *outs: Path) -> list[str]:
    """Merge to each place in one of so many forked processes."""
    with multiprocessing.get_context("fork").Pool(n) as pool:
        waiting = [pool.apply_async(merge_in_child, (recipe, out)) for out in outs]
        return [one.get(300) for one in waiting]


@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
def test_forked_after_threads_have_worked(
    recipe: dict[str, Any], result: dict[str, bytes], tmp_path: Path
) -> None:
    """The threads of the pool are not in the children, which start their own."""
    assert merge_in_child(recipe, tmp_path / "parent") == ""
    with ThreadPoolExecutor(2) as pool:
        mine = [pool.submit(merge_in_child, recipe, tmp_path / f"mine-{i}") for i in range(2)]
        outs = [tmp_path / f"child-{i}" for i in range(3)]
        assert in_children(2, recipe, *outs) == [""] * 3
        assert [one.result() for one in mine] == [""] * 2
    for out in tmp_path.iterdir():
        assert data_bytes(out) == result


@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
def test_processes_that_merge_to_one_place(
    recipe: dict[str, Any], result: dict[str, bytes], tmp_path: Path
) -> None:
    """One wins; the others say that another writes, or has written."""
    said = in_children(4, recipe, *[tmp_path / "out"] * 4)
    assert said.count("") == 1
    for line in said:
        assert not line or "another run is writing it" in line or "is not empty" in line
    assert data_bytes(tmp_path / "out") == result
    assert os.listdir(tmp_path) == ["out"]


SUBINTERPRETER = """
import sys
try:
    import _interpreters as interpreters
    inside = interpreters.create("legacy")
except ImportError:
    import _xxsubinterpreters as interpreters
    inside = interpreters.create()
program = '''
try:
    import tallies._core
except ImportError as error:
    assert "subinterpreter" in str(error), error
else:
    raise AssertionError("it was loaded")
'''
found = interpreters.run_string(inside, program)
assert found is None, found
from tallies import _core
print(_core.version)
"""


@pytest.mark.parametrize("first", ["", "import tallies._core\n"])
def test_a_subinterpreter_is_refused(first: str) -> None:
    """Also where the main interpreter has loaded it; which can load it still."""
    done = subprocess.run(
        [sys.executable, "-c", first + SUBINTERPRETER],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout
