"""A fixed case has the bytes that are in the repository, on every processor and in every way."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tallies import _core
from tallies.methods import names
from tests.support.known_bytes import CODECS_HERE, FILE, METHODS, METHODS_HERE, WAYS

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def found() -> dict[str, list[dict[str, Any]]]:
    """The hashes of each way of working, for each instruction set of the machine."""
    return {
        target: json.loads(
            subprocess.run(
                [sys.executable, "-m", "tests.support.known_bytes"],
                env={**os.environ, "TALLIES_CPU_TARGET": target},
                cwd=ROOT,
                capture_output=True,
                text=True,
                check=True,
            ).stdout
        )
        for target in _core.targets()
    }


@pytest.mark.parametrize("way", range(len(WAYS) + 1))
@pytest.mark.parametrize("target", _core.targets())
def test_the_bytes_of_a_fixed_case(
    found: dict[str, list[dict[str, Any]]], target: str, way: int
) -> None:
    """The last way is one of those before, in a second run."""
    assert found[target][way]["everywhere"] == json.loads(FILE.read_text())


def test_the_bytes_of_other_methods_are_one_on_this_machine(
    found: dict[str, list[dict[str, Any]]],
) -> None:
    """They call functions of libraries, which are others elsewhere."""
    first, *others = (
        (target, way, one["here"]) for target, ways in found.items() for way, one in enumerate(ways)
    )
    assert len(first[2]) == len(METHODS_HERE) + len(CODECS_HERE)
    for target, way, here in others:
        differ = [name for name, hash_ in here.items() if hash_ != first[2][name]]
        assert not differ, (target, way)


def test_every_method_is_among_them() -> None:
    assert {method for method, _, _ in (*METHODS, *METHODS_HERE)} == set(names())
