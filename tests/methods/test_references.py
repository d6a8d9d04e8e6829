"""Methods against references that state a whole merge, found by their names.

A file tests/reference/x.py takes part where it has ``EXAMPLES``, the parameters to try, and a
function ``x(base, experts, **parameters)`` that merges one tensor as method x does.
"""

from __future__ import annotations

import importlib
import pkgutil
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given, settings

import tests.reference
from tallies import merge_state_dicts, methods
from tests.support.everywhere import assert_same_bits, on_every_target
from tests.support.strategies import Group, groups

MODULES = {
    one.name: importlib.import_module(f"tests.reference.{one.name}")
    for one in pkgutil.iter_modules(tests.reference.__path__)
}
WHOLE = [
    (name, parameters)
    for name, module in MODULES.items()
    for parameters in getattr(module, "EXAMPLES", ())
]


def states(module: ModuleType, name: str) -> bool:
    """Return whether a reference is of this method: by a function's name, or by its own."""
    file = module.__name__.rpartition(".")[2]
    return (
        hasattr(module, name)
        or f"{name}_".startswith(f"{file}_")
        or name == "ramplus" == f"{file}plus"
    )


@pytest.mark.parametrize("name", methods.names())
def test_every_method_has_a_reference(name: str) -> None:
    assert [file for file, module in MODULES.items() if states(module, name)]


def test_the_references_of_whole_merges_are_of_methods() -> None:
    assert WHOLE
    assert {name for name, _ in WHOLE} <= {*methods.names()}


@pytest.mark.parametrize(("name", "parameters"), WHOLE, ids=str)
@settings(max_examples=40)
@given(group=groups(min_size=1))
def test_a_merge_has_the_bits_of_its_reference(
    name: str, parameters: dict[str, Any], group: Group
) -> None:
    expected = getattr(MODULES[name], name)(group.base, group.experts, **parameters)
    results = on_every_target(
        lambda: merge_state_dicts(
            {"x": group.base},
            [{"x": expert} for expert in group.experts],
            method=name,
            nonfinite="propagate",
            **parameters,
        )
    )
    for found in results.values():
        assert_same_bits(found["x"], expected)
