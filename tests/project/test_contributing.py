"""The method that CONTRIBUTING adds is one: its code is taken from the page and runs."""

from __future__ import annotations

import re
import sys
import types
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given

from tallies import merge_state_dicts, methods
from tallies.methods._method import Method
from tests.support.everywhere import assert_same_bits
from tests.support.rooms import ROOMS
from tests.support.strategies import Group, groups

PAGE = (Path(__file__).parents[2] / "CONTRIBUTING.md").read_text()
FENCE = re.compile(r"^<!-- (\w+): (\S+) -->\n```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
BLOCKS = {kind: (path, text) for kind, path, text in FENCE.findall(PAGE)}


def loaded(kind: str, package: str) -> types.ModuleType:
    """The block as a module of this package."""
    path, text = BLOCKS[kind]
    module = types.ModuleType(f"{package}.{Path(path).stem}")
    module.__package__ = package
    exec(compile(text, path, "exec"), module.__dict__)
    return module


@pytest.fixture(scope="module")
def method() -> Iterator[type[Method]]:
    (found,) = (
        value
        for value in vars(loaded("method", "tallies.methods")).values()
        if isinstance(value, type) and issubclass(value, Method) and value is not Method
    )
    known: dict[str, type[Method]] = sys.modules[methods.__name__]._METHODS  # type: ignore[attr-defined]
    known[found.name] = found
    yield found
    del known[found.name]


def test_the_example_is_as_short_as_methods_are() -> None:
    assert len(BLOCKS["method"][1].splitlines()) <= 60


@given(models=groups(min_size=1))
def test_the_example_equals_its_reference(method: type[Method], models: Group) -> None:
    reference = loaded("reference", "tests.reference")
    for parameters in reference.EXAMPLES:
        found = merge_state_dicts(
            {"x": models.base},
            [{"x": expert} for expert in models.experts],
            method=method.name,
            nonfinite="propagate",
            **parameters,
        )["x"]
        expected = reference.loudest(models.base, models.experts, **parameters)
        assert_same_bits(found, expected)


def test_the_page_has_the_rooms_in_their_order() -> None:
    table = PAGE.partition("| room | content |")[2].partition("\n\n")[0]
    first_cells = [line.split("|")[1] for line in table.splitlines() if line.startswith("| `")]
    named = [room for cell in first_cells for room in re.findall(r"`(\w+)`", cell)]
    assert named == [room for room in ROOMS if "." not in room and room != "__main__"]
