"""Parameters that mergekit passes over are left out in its semantics, and told; slips are not."""

from __future__ import annotations

from typing import Any

import pytest

from tallies.errors import InputError
from tallies.recipe.config import MergeConfig


def recipe(method: str, own: dict[str, Any], shared: dict[str, Any]) -> dict[str, Any]:
    return {
        "merge_method": method,
        "semantics": "mergekit",
        "base_model": "base",
        "models": [{"model": "a", "parameters": own}, "b"],
        "parameters": shared,
    }


@pytest.mark.parametrize(
    ("method", "own", "shared", "kept", "told"),
    [
        ("model_stock", {"weight": 1}, {}, [{}, {}], "model 'a': weight"),
        ("sce", {}, {"weight": 1, "density": 0.5}, [{}, {}], "parameters: density"),
        ("task_arithmetic", {"normalize": True}, {}, [{}, {}], "model 'a': normalize"),
        ("ties", {"lambda": 2}, {}, [{}, {}], "model 'a': lambda"),
        (
            "ties",
            {"weight": [{"value": 0.5}, {"filter": "mlp", "value": 9}]},
            {},
            [{"weight": [{"filter": None, "value": 0.5}]}, {}],
            "never reached",
        ),
    ],
)
def test_it_is_left_out_and_told(
    method: str,
    own: dict[str, Any],
    shared: dict[str, Any],
    kept: list[dict[str, Any]],
    told: str,
) -> None:
    made = MergeConfig.load(recipe(method, own, shared))
    assert [one.parameters for one in made.models] == kept
    assert not {"weight", "density"} & made.parameters.keys()
    assert any(told in warning for warning in made.experts()[1])
    assert made.replace(seed=3).experts()[1] == made.experts()[1]


@pytest.mark.parametrize(
    ("own", "shared", "words"),
    [
        ({"wieght": 1}, {}, "did you mean 'weight'"),
        ({"density": [{"filter": "mlp"}, {"value": 1}]}, {}, "has no 'value'"),
    ],
)
def test_slips_and_what_is_not_done_stay_errors(
    own: dict[str, Any], shared: dict[str, Any], words: str
) -> None:
    with pytest.raises(InputError, match=words):
        MergeConfig.load(recipe("ties", own, shared))


def test_empty_lists_and_notes_are_passed_over() -> None:
    noted = {**recipe("ties", {}, {"density": []}), "x-weights": {"weight": 1}, "_rest": 2}
    made = MergeConfig.load(noted)
    assert made.parameters == {}
    for words in ("parameters: density: passed over, the list is empty", "x-weights: passed over"):
        assert any(words in warning for warning in made.experts()[1])
    with pytest.raises(InputError, match="x-weights"):
        MergeConfig.load({**noted, "semantics": "paper", "parameters": {}})


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ({"weight": True}, {"weight": 1.0}),
        ({"normalize": "n", "int8_mask": "off"}, {"normalize": False, "int8_mask": False}),
        ({"density": 1.5}, {"density": 1.5}),
        ({"normalize": [True, False]}, {"normalize": [True, False]}),
        ({"rescale": "yes"}, {"rescale": "l1"}),
    ],
)
def test_values_that_mergekit_takes(given: dict[str, Any], kept: dict[str, Any]) -> None:
    made = MergeConfig.load(recipe("ties", {}, given))
    assert made.parameters == kept
    if "int8_mask" not in given:
        with pytest.raises(InputError):
            MergeConfig.load({**recipe("ties", {}, given), "semantics": "paper"})


@pytest.mark.parametrize(
    "given", [{"integers": ["equal", "base"]}, {"density": "all"}, {"normalize": "perhaps"}]
)
def test_slips_of_values_stay_errors(given: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        MergeConfig.load(recipe("ties", {}, given))


def test_the_papers_semantics_names_the_way_out() -> None:
    strict = {**recipe("slerp", {"weight": 0.5}, {"t": 0.5}), "semantics": "paper"}
    with pytest.raises(InputError, match="set 'semantics: mergekit', which passes over it"):
        MergeConfig.load(strict)


def test_the_name_of_the_result_asks_for_nothing() -> None:
    named = MergeConfig.load({**recipe("ties", {}, {}), "name": "mine"})
    assert named == MergeConfig.load(recipe("ties", {}, {}))
