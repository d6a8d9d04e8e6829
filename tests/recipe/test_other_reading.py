"""Recipes that mergekit reads differently, and that do not choose, say so once."""

from __future__ import annotations

from typing import Any

import pytest

from tallies.recipe.config import MergeConfig
from tallies.recipe.other_reading import unsaid
from tallies.recipe.text import from_options


def note(method: str, shared: dict[str, Any], *own: dict[str, Any], **keys: Any) -> str | None:
    models = [{"model": f"m{i}", "parameters": one} for i, one in enumerate(own or ({}, {}))]
    recipe = {"merge_method": method, "base_model": "base", "models": models, "parameters": shared}
    return unsaid(MergeConfig.load({**recipe, **keys}))


@pytest.mark.parametrize(
    ("method", "shared", "own", "words"),
    [
        ("ties", {}, ({}, {}), ["density 0.2 (1)", "over the whole model (by tensor)"]),
        ("ties", {"density": 0.5}, ({}, {}), ["ranked over the whole model (by tensor)"]),
        ("ties", {"density": 1}, ({"weight": 0.5}, {"weight": 0.3}), ["weights not divided out"]),
        ("dare_ties", {}, ({}, {}), ["density 0.1 (1)", "normalize true (false)", "rescale"]),
        ("dare_linear", {"density": 0.5}, ({}, {}), ["rescale probability (l1)"]),
        ("breadcrumbs", {"density": 0.9, "gamma": 0.01}, ({}, {}), ["by row (by tensor)"]),
        ("della", {"density": 0.5, "epsilon": 0.1}, ({}, {}), ["rescale probability (l1)"]),
        ("linear", {}, ({"weight": 1}, {}), ["weight 1 (required)"]),
        ("sce", {"select_topk": 0.1}, ({}, {}), ["fallback false (true)"]),
    ],
)
def test_a_difference_is_named_with_both_values(
    method: str, shared: dict[str, Any], own: tuple[dict[str, Any], ...], words: list[str]
) -> None:
    told = note(method, shared, *own)
    assert told is not None
    for word in [*words, "'semantics: mergekit'", "--semantics mergekit", "'semantics: paper'"]:
        assert word in told


@pytest.mark.parametrize(
    ("method", "shared", "own", "keys"),
    [
        ("ties", {}, ({}, {}), {"semantics": "paper"}),
        ("ties", {"density": 1}, ({}, {}), {}),
        ("ties", {"scope": "tensor"}, ({}, {}), {}),
        ("ties", {}, ({}, {}), {"post_scale": 0.5}),
        ("linear", {}, ({"weight": 1}, {"weight": 2}), {}),
        ("task_arithmetic", {}, ({"weight": 0.5}, {}), {}),
        ("slerp", {"t": 0.5}, ({},), {}),
        ("tsv_m", {}, ({}, {}), {}),
    ],
)
def test_recipes_that_mean_one_thing_are_not_told_anything(
    method: str, shared: dict[str, Any], own: tuple[dict[str, Any], ...], keys: dict[str, Any]
) -> None:
    assert note(method, shared, *own, **keys) is None


def test_options_of_the_command_line_are_the_papers() -> None:
    assert unsaid(MergeConfig.load(from_options("ties", "base", ["a", "b"]))) is None
    asked = MergeConfig.load(from_options("ties", "base", ["a", "b"], semantics="mergekit"))
    assert asked.semantics == "mergekit"
