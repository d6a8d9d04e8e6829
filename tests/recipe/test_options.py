"""Requests from the options of the command line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tallies.errors import InputError
from tallies.recipe.config import MergeConfig
from tallies.recipe.text import from_options
from tests.support.recipes import assert_words, request


def test_options_mean_the_same_as_a_recipe() -> None:
    config = MergeConfig.load(
        from_options(
            "ties",
            "base",
            ["b", "a:weight=5e-1,density=[1,0.5]"],
            ["lambda=2", "scope=tensor"],
            out_dtype="float32",
            seed=None,
        )
    )
    assert config == MergeConfig.load(
        request(
            models=[
                {"model": "b"},
                {"model": "a", "parameters": {"weight": 0.5, "density": [1, 0.5]}},
            ],
            parameters={"scale": 2, "scope": "tensor"},
            out_dtype="F32",
        )
    )


@pytest.mark.parametrize(
    ("option", "path", "parameters"),
    [
        ("C:\\models\\a", "C:\\models\\a", {}),
        ("C:\\models\\a:weight=1", "C:\\models\\a", {"weight": 1.0}),
        ("runs:3/a", "runs:3/a", {}),
        ("runs:3/a:density=0.25,weight=2", "runs:3/a", {"density": 0.25, "weight": 2.0}),
        ("a:b", "a:b", {}),
        ("lr=0.1/a", "lr=0.1/a", {}),
    ],
)
def test_a_colon_may_belong_to_the_path(option: str, path: str, parameters: dict[str, Any]) -> None:
    (entry,) = MergeConfig.load(from_options("ties", "base", [option])).models
    assert entry.model == path
    assert entry.parameters == parameters


def test_an_existing_path_is_not_split(tmp_path: Path) -> None:
    odd = tmp_path / "run:weight=0.5"
    odd.mkdir()
    (entry,) = MergeConfig.load(from_options("ties", "base", [str(odd)])).models
    assert (entry.model, entry.parameters) == (str(odd), {})


@pytest.mark.parametrize(
    ("models", "params", "words"),
    [
        (["a"], ["density"], ["--param", "'density'", "key=value"]),
        (["a"], ["scale=1", "scale=2"], ["--param", "'scale'", "given twice"]),
        (["a:weight=1,weight=2"], [], ["--model a", "'weight'", "given twice"]),
        (["a:desnity=0.5"], [], ["a'", "did you mean 'density'?"]),
        (["a:density="], [], ["density", "found None", "number from 0 to 1"]),
        (["a"], ["density=[1"], ["--param", "'density'", "cannot be parsed"]),
        ([], [], ["models", "at least one"]),
    ],
)
def test_wrong_options_are_named(models: list[str], params: list[str], words: list[str]) -> None:
    with pytest.raises(InputError) as caught:
        MergeConfig.load(from_options("ties", "base", models, params))
    assert_words(str(caught.value), *words)


def test_a_bare_number_behind_a_model_is_no_weight() -> None:
    with pytest.raises(InputError, match=r"write runs/a:weight=0\.5"):
        from_options("ties", "base", ["runs/a:0.5"])
