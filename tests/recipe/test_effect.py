"""Recipes in which everything stands that is in effect: they merge alike under other defaults."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from tallies import InputError, MergeConfig, methods
from tallies.methods._method import Method
from tallies.methods.karcher import Karcher
from tallies.recipe import modifiers
from tallies.recipe.effect import in_effect
from tallies.recipe.parameters import check_parameters
from tallies.recipe.settings import evaluate
from tallies.spec.choices import MERGEKIT, PAPER, Semantics
from tallies.spec.parameters import Parameter, told
from tests.support.methods import PAIRS
from tests.support.recipes import complete

NAMES = ["embed.weight", *(f"layers.{i}.{part}.weight" for i in range(3) for part in "ab")]
RULES = [{"filter": "layers.1", "value": 0.25}, {"filter": ".a.", "value": [0.5, 0.75]}]


def resolved(recipe: dict[str, Any]) -> dict[str, Any]:
    """All that a merge takes from its recipe."""
    config = MergeConfig.load(recipe)
    known = config.method.parameters(config.semantics)
    resolver = config.resolver(NAMES)
    changes = config.modifiers()
    return {
        "constants": told(config.constants(), known),
        "tensors": {name: told(resolver.parameters_for(name), known) for name in NAMES},
        "rule": str(config.rule()).split(" at 0x")[0],
        "factors": changes.factors(NAMES, 1.0),
        "drop_layers": changes.drop_layers and options(changes.drop_layers),
        "others": (config.semantics, config.seed, config.nonfinite, config.max_shard_size),
    }


def options(given: Mapping[str, Any]) -> dict[str, Any]:
    """The options of ``drop_layers`` as the merge reads them."""
    known = modifiers.DropLayers.parameters()
    return {name: given.get(name, option.default) for name, option in known.items()}


def other(parameter: Parameter) -> Parameter:
    """The parameter with another default, which its checks allow."""
    default = parameter.default
    if default == parameter.idle:
        return parameter
    if isinstance(default, bool):
        return replace(parameter, default=not default)
    if parameter.choices:
        return replace(
            parameter, default=[*parameter.choices, default][parameter.choices[0] == default]
        )
    if isinstance(default, float):
        return replace(parameter, default=default / 2 + (0.125 if default < 1 else 0))
    return parameter


def change_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give every parameter, option and key another default."""
    given = Method.__dict__["parameters"].__func__

    def parameters(cls: type[Method], semantics: Semantics = PAPER) -> dict[str, Parameter]:
        return {name: other(one) for name, one in given(cls, semantics).items()}

    monkeypatch.setattr(Method, "parameters", classmethod(parameters))
    for option in ("drop", "unit"):
        changed = other(getattr(modifiers.DropLayers, option))
        monkeypatch.setattr(modifiers.DropLayers, option, changed)
    for key, value in (("seed", 5), ("nonfinite", "warn"), ("max_shard_size", "1GB")):
        monkeypatch.setattr(MergeConfig.model_fields[key], "default", value)
    MergeConfig.model_rebuild(force=True)


def resolved_or_refused(recipe: dict[str, Any]) -> dict[str, Any]:
    """The same; nothing for a recipe that the method refuses."""
    try:
        return resolved(recipe)
    except InputError:
        return {}


def assert_survives(recipe: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    before = resolved(recipe)
    written = json.loads(json.dumps(in_effect(MergeConfig.load(recipe)).to_json_dict()))
    assert resolved(written) == before
    try:
        with monkeypatch.context() as patched:
            change_defaults(patched)
            assert resolved(written) == before
            assert resolved_or_refused(recipe) != before
    finally:
        MergeConfig.model_rebuild(force=True)


@pytest.mark.parametrize(("name", "semantics"), PAIRS)
def test_a_written_recipe_keeps_to_the_defaults_of_its_day(
    name: str, semantics: Semantics, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert_survives(complete(name, semantics), monkeypatch)


@pytest.mark.parametrize(
    "keys",
    [
        {"parameters": {"density": RULES}},
        {"parameters": {"weight": [0.0, 1.0]}, "post_scale": RULES},
        {"layer_scaling": {"alpha": "auto", "beta": 0.5}},
        {"drop_layers": {"score": "size", "ratio": 0.5}},
    ],
)
def test_rules_and_modifiers_are_completed(
    keys: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert_survives(complete("ties", PAPER, **keys), monkeypatch)


def test_rules_of_one_model_fall_back_on_what_all_share(monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = complete("ties", PAPER)
    recipe["models"][0]["parameters"] = {"density": RULES, "weight": 2}
    recipe["models"][1]["parameters"] = {"density": 0.1, "weight": 3}
    written = in_effect(MergeConfig.load(recipe)).parameters
    assert written["density"] == 0.2
    assert "weight" not in written  # each model has its own
    assert_survives(recipe, monkeypatch)


def test_a_last_rule_says_what_holds_elsewhere() -> None:
    written = in_effect(MergeConfig.load(complete("ties", PAPER, parameters={"density": RULES})))
    assert written.parameters["density"][-1] == {"filter": None, "value": 0.2}
    assert written.parameters["scope"] == "model"
    assert in_effect(written) == written


@pytest.mark.parametrize(("name", "semantics"), PAIRS)
def test_defaults_are_written_as_they_are_read_back(name: str, semantics: Semantics) -> None:
    """An integer stays one: 10 of a report is not 10.0 in the report of its repetition."""
    method = methods.get(name)
    for key, parameter in method.parameters(semantics).items():
        if parameter.default is not None:
            read = check_parameters({key: parameter.default}, method, semantics)
            assert json.dumps(read) == json.dumps({key: parameter.default})


@pytest.mark.parametrize("given", [10, 10.0, "10"])
def test_whole_numbers_are_integers(given: object) -> None:
    (read,) = check_parameters({"max_iter": given}, Karcher, PAPER).values()
    assert read == 10 and type(read) is int


def test_gradients_of_whole_numbers_are_interpolated() -> None:
    setting = check_parameters({"max_iter": [2, 6, 7]}, Karcher, MERGEKIT)["max_iter"]
    assert [evaluate(setting, "w", at) for at in (0.0, 0.25, 0.5, 1.0)] == [2, 4, 6, 7]
