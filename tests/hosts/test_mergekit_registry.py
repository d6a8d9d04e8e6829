"""Every method and parameter that mergekit registers is known here, with its default."""

from __future__ import annotations

from typing import Any

import pytest

from tallies import methods
from tallies.recipe.config import MergeConfig
from tallies.spec.choices import MERGEKIT

registry = pytest.importorskip(
    "mergekit.merge_methods.registry", reason="needs mergekit, of the extra test-hosts"
)
SPECS = {
    one.spec.name: one.spec
    for one in registry.registered_methods()
    if one.spec.name != "passthrough"  # of one model; the tests of slices have it
}
WITHOUT_EFFECT = {"task_arithmetic": {"rescale", "density"}}
"""Parameters that mergekit reads and does not use."""


@pytest.mark.parametrize("name", SPECS)
def test_every_method_is_known(name: str) -> None:
    method = methods.get(name)
    assert MERGEKIT in method.semantics


@pytest.mark.parametrize("name", SPECS)
def test_every_parameter_is_known_with_its_default(name: str) -> None:
    known = {
        alias: parameter
        for key, parameter in methods.get(name).parameters(MERGEKIT).items()
        for alias in (key, *parameter.aliases)
    }
    for spec in SPECS[name].parameters:
        if spec.name in WITHOUT_EFFECT.get(name, ()):
            continue
        ours = known[spec.name]
        assert ours.per_model == (spec.scope.value != "shared"), spec.name
        if spec.required:
            # A task vector counts once unless its weight is given; mergekit asks for it.
            assert ours.default is None or (spec.name, ours.default) == ("weight", 1.0)
        elif isinstance(spec.default, bool) and ours.choices:
            assert (ours.default != "none") is spec.default, spec.name
        else:
            assert ours.default == spec.default, spec.name


VALUES: dict[type, Any] = {float: 0.25, bool: True, int: 3}


@pytest.mark.parametrize("name", SPECS)
def test_a_recipe_with_every_parameter_is_read(name: str) -> None:
    spec = SPECS[name]
    n = spec.contract.max_inputs or spec.contract.max_non_base or 3
    given = {one.name: VALUES.get(one.value_type, 0.25) for one in spec.parameters}
    needs_base = spec.contract.base.value == "required"
    recipe: dict[str, Any] = {
        "merge_method": name,
        "semantics": "mergekit",
        "models": [{"model": f"model{i}"} for i in range(n)],
        "parameters": given,
    }
    if needs_base:
        recipe["base_model"] = "model0"
    config = MergeConfig.load(recipe)
    assert config.method.name in (name, "ramplus")
