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


def test_gradients_that_would_begin_anew_in_each_slice_are_refused(pair: Path) -> None:
    with pytest.raises(InputError, match="'t' vary by layer, and would begin anew in each slice"):
        MergeConfig.load(recipe(pair, slices=slices(pair, (0, 1), (1, 4))))


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
    ("change", "words"),
    [
        (lambda pair: slices(pair, (0, 3)), ["has 4 layers", "take 3", "'models'"]),
        (lambda pair: slices(pair, (0, 5)), ["has 4 layers", "take 5"]),
        (lambda pair: slices(pair, (0, 3), (1, 4)), ["layers 1 to 4 follow layer 3"]),
        (lambda pair: slices(pair, (1, 4)), ["layers 1 to 4 follow layer 0"]),
        (
            lambda pair: [
                {"sources": [source(pair, "a", 0, 2)]},
                {"sources": [source(pair, "b", 2, 4)]},
            ],
            ["not all have the same models"],
        ),
        (
            lambda pair: [*slices(pair, (0, 2), parameters={"t": 1}), *slices(pair, (2, 4))],
            ["parameters differ from slice to slice"],
        ),
        (lambda pair: [], ["slices: found []"]),
        (lambda pair: [{"sources": [{"model": "a"}]}], ["layer_range is None", "[0, N]"]),
        (lambda pair: [{"sources": ["a"]}], ["slices[0]", "found 'a'"]),
        (
            lambda pair: [{"sources": [source(pair, "a", 0, 4)], "residual_weight": 1}],
            ["residual_weight", "is not done"],
        ),
    ],
)
def test_other_slices_are_refused(pair: Path, change: Any, words: list[str]) -> None:
    with pytest.raises(InputError) as caught:
        MergeConfig.load(recipe(pair, slices=change(pair)))
    assert_words(str(caught.value), *words)


def test_slices_beside_models_are_refused(pair: Path) -> None:
    with pytest.raises(InputError, match="keep one of the two"):
        MergeConfig.load(recipe(pair, models=["a"], slices=slices(pair, (0, 4))))
