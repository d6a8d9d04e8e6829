"""Slices and modules of mergekit that mean whole models, and their refusals."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tallies
from tallies.errors import InputError
from tallies.recipe.config import MergeConfig
from tests.support.checkpoints import Model, read, write
from tests.support.recipes import LLAMA, assert_words

T = [{"filter": "self_attn", "value": [0.0, 0.5, 1.0]}, {"value": 0.5}]


@pytest.fixture
def pair(tmp_path: Path) -> Path:
    """Two models of four layers; the second has no config.json."""
    rng = np.random.default_rng(0)
    for name, config in (("a", {"num_hidden_layers": 4}), ("b", None)):
        model: Model = {one: rng.normal(size=(4, 3)).astype(np.float32) for one in LLAMA}
        write(tmp_path / name, model, config=config)
    return tmp_path


def source(folder: Path, name: str, first: int, last: int, **keys: Any) -> dict[str, Any]:
    return {"model": str(folder / name), "layer_range": [first, last], **keys}


def slices(folder: Path, *ranges: tuple[int, int], **keys: Any) -> list[dict[str, Any]]:
    return [{"sources": [source(folder, name, *one) for name in "ab"], **keys} for one in ranges]


def recipe(folder: Path, **keys: Any) -> dict[str, Any]:
    return {
        "merge_method": "slerp",
        "base_model": str(folder / "a"),
        "parameters": {"t": T},
        **keys,
    }


@pytest.mark.parametrize(("ranges", "t"), [([(0, 4)], T), ([(0, 1), (1, 4)], 0.5)])
def test_slices_that_are_whole_models_merge_as_models(
    pair: Path, ranges: list[tuple[int, int]], t: object
) -> None:
    models = [{"model": str(pair / name)} for name in "ab"]
    shared = {"parameters": {"t": t}}
    tallies.merge(recipe(pair, models=models, **shared), pair / "models")
    tallies.merge(recipe(pair, slices=slices(pair, *ranges), **shared), pair / "slices")
    expected, found = read(pair / "models"), read(pair / "slices")
    assert all(np.array_equal(found[name], expected[name]) for name in LLAMA)


def test_gradients_that_begin_anew_in_each_slice_keep_the_slices(pair: Path) -> None:
    made = MergeConfig.load(recipe(pair, slices=slices(pair, (0, 1), (1, 4))))
    assert made.slices is not None and len(made.slices) == 2
    assert [entry.model for entry in made.models] == [str(pair / name) for name in "ab"]


def test_parameters_of_sources_and_of_the_slice(pair: Path) -> None:
    (one,) = slices(pair, (0, 4), parameters={"weight": [{"filter": "mlp", "value": 0.1}]})
    one["sources"][0]["parameters"] = {"weight": 0.7}
    made = MergeConfig.load(
        {"merge_method": "linear", "slices": [one], "parameters": {"weight": 0.5}}
    )
    assert [entry.parameters for entry in made.models] == [{"weight": 0.7}, {}]
    assert made.parameters == {
        "weight": [{"filter": "mlp", "value": 0.1}, {"filter": None, "value": 0.5}]
    }


def test_the_only_module_is_the_recipe(pair: Path) -> None:
    models = [{"model": str(pair / name)} for name in "ab"]
    for module in ({"models": models}, {"slices": slices(pair, (0, 4))}):
        made = MergeConfig.load(recipe(pair, modules={"default": module}))
        assert [entry.model for entry in made.models] == [one["model"] for one in models]


@pytest.mark.parametrize(
    "ranges", [[(0, 3)], [(0, 3), (1, 4)], [(1, 4)], [(0, 2), (0, 2)]], ids=str
)
def test_other_layers_are_a_stack(pair: Path, ranges: list[tuple[int, int]]) -> None:
    made = MergeConfig.load(recipe(pair, slices=slices(pair, *ranges)))
    assert made.slices is not None
    assert [one.sources[0].layer_range for one in made.slices] == ranges
    again = MergeConfig.load(made.to_json_dict())
    assert again == made


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda pair: [], ["slices: found []"]),
        (lambda pair: [{"sources": [{"model": "a"}]}], ["layer_range is None", "[FIRST, END]"]),
        (lambda pair: [{"sources": [source(pair, "a", 3, 3)]}], ["is [3, 3]"]),
        (lambda pair: [{"sources": [source(pair, "a", -1, 3)]}], ["is [-1, 3]"]),
        (lambda pair: [{"sources": [{"model": "a", "layer_range": [0, 1.5]}]}], ["is [0, 1.5]"]),
        (lambda pair: [{"sources": ["a"]}], ["slices[0]", "found 'a'"]),
        (lambda pair: [{"sources": []}], ["slices[0].sources", "a list"]),
        (
            lambda pair: [{"sources": [source(pair, "a", 0, 4)], "residual_weight": 1}],
            ["residual_weight", "no method of mergekit reads it"],
        ),
        (
            lambda pair: [{"source": [source(pair, "a", 0, 4)]}],
            ["slices[0]", "did you mean 'sources'?"],
        ),
        (
            lambda pair: [{"sources": [source(pair, "a", 0, 4, layers=[0, 4])]}],
            ["slices[0]: sources: key 'layers' is not known"],
        ),
        (
            lambda pair: [{"sources": [source(pair, "a", 0, 2), source(pair, "b", 0, 3)]}],
            ["slices[0]", "gives 3 layers (0 to 2)", "2; give all sources"],
        ),
        (
            lambda pair: slices(pair, (0, 2), parameters={"tt": 1}),
            ["slices[0]: parameters: tt", "is not known"],
        ),
        (
            lambda pair: [{"sources": [source(pair, "b", 0, 2), source(pair, "b", 1, 3)]}],
            ["slices[0]", "slerp needs the layers of base_model", "add '{model: BASE"],
        ),
        (
            lambda pair: [{"sources": [source(pair, "a", 0, 2)]}],
            ["slices[0]: sources: found 1, and slerp merges exactly 2"],
        ),
    ],
)
def test_wrong_slices_are_refused(pair: Path, change: Any, words: list[str]) -> None:
    with pytest.raises(InputError) as caught:
        MergeConfig.load(recipe(pair, slices=change(pair)))
    assert_words(str(caught.value), *words)


def test_slices_beside_models_are_refused(pair: Path) -> None:
    with pytest.raises(InputError, match="keep one of the two"):
        MergeConfig.load(recipe(pair, models=["a"], slices=slices(pair, (0, 4))))


@pytest.mark.parametrize("given", [T, 7, "t"])
@pytest.mark.parametrize("owner", ["recipe", "slice", "source"])
def test_parameters_that_are_no_object_are_refused(pair: Path, owner: str, given: Any) -> None:
    asked = recipe(pair, slices=slices(pair, (0, 4)))
    holder = {
        "recipe": asked,
        "slice": asked["slices"][0],
        "source": asked["slices"][0]["sources"][0],
    }[owner]
    holder["parameters"] = given
    with pytest.raises(InputError) as caught:
        MergeConfig.load(asked)
    assert_words(str(caught.value), "parameters: found", "expected an object of parameters")
