"""Requests that make no sense are refused in one line."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.checkpoints import write
from tests.support.command import COMMAND, Ended, assert_failed, tallies, ties, tree
from tests.support.refusals import BASE, assert_names, changed, refused, spoilt

pytestmark = pytest.mark.usefixtures("here")


# Requests that make no sense.


@pytest.mark.parametrize(
    ("more", "parts"),
    [
        ("--param desnity=0.5", ["'desnity' is not known; did you mean 'density'?"]),
        ("--model a:desnity=0.5", ["model 'a'", "'desnity' is not known", "mean 'density'?"]),
        ("--param density=1.5", ["density: found 1.5, expected a finite number from 0 to 1"]),
        ("--param density=-0.1", ["density: found -0.1, expected a finite number from 0 to 1"]),
        ("--param density=nan", ["density: found 'nan', expected a finite number from 0 to 1"]),
        ("--model a:weight=nan", ["model 'a': weight: found 'nan', expected a finite number"]),
        ("--model a:weight=inf", ["model 'a': weight: found 'inf', expected a finite number"]),
        ("--param scale=one", ["scale: found 'one', expected a finite number"]),
        ("--out-dtype bf61", ["out_dtype: 'bf61' is not known", "bfloat16"]),
        ("--max-memory much", ["size 'much': expected such as '5GB'"]),
        ("--max-shard-size 0", ["size '0': expected such as '5GB'"]),
        ("--threads 0", ["threads: found 0, expected a number from 1 to 1024"]),
        ("--nonfinite hide", ["'--nonfinite': 'hide' is not one of 'error', 'warn', 'propagate'"]),
        ("--semantics mine", ["'--semantics': 'mine' is not one of 'paper', 'mergekit'"]),
        ("--device tpu", ["'--device': 'tpu' is not one of 'cpu', 'cuda'"]),
        ("--max-vram much", ["size 'much': expected such as '5GB'"]),
        ("--device cuda --max-vram 1kB", ["max_vram: found 1,000 bytes for "]),
        ("--files-from nowhere", ["nowhere: no such file or directory"]),
    ],
)
def test_wrong_option(more: str, parts: list[str]) -> None:
    assert_names(refused(*ties("a", "b", more=more)), *parts)


def test_unknown_method() -> None:
    line = refused("merge", "--method=tise", "--base=base", "--model=a", "--out=out")
    assert_names(line, "'tise' is not known; did you mean 'ties'?")


@pytest.mark.parametrize(
    ("recipe", "parts"),
    [
        ({"merge_method": "tise"}, ["merge_method: 'tise' is not known; did you mean 'ties'?"]),
        ({"merge_metod": "ties"}, ["'merge_metod' is not known; did you mean 'merge_method'?"]),
        ({"parameters": {"desnity": 0.5}}, ["'desnity' is not known; did you mean 'density'?"]),
        ({"parameters": {"density": 2}}, ["density: found 2, expected a finite number from 0 to"]),
        ({"parameters": {"scale": float("nan")}}, ["scale: found nan, expected a finite number"]),
        (
            {"models": [{"model": "a", "parameters": {"weight": float("nan")}}]},
            ["model 'a': weight: found nan, expected a finite number"],
        ),
        ({"base_model": None}, ["base_model: missing"]),
        ({"slices": []}, ["slices"]),
    ],
    ids=lambda value: json.dumps(value) if isinstance(value, dict) else "",
)
def test_wrong_recipe(recipe: dict[str, Any], parts: list[str]) -> None:
    whole = {"merge_method": "ties", "base_model": "base", "models": [{"model": "a"}]} | recipe
    # JSON is YAML, but for its NaN.
    text = json.dumps({key: value for key, value in whole.items() if value is not None})
    Path("recipe.yml").write_text(text.replace("NaN", ".nan"))
    assert_names(refused("merge", "recipe.yml", "out"), "recipe.yml", *parts)


@pytest.mark.parametrize("text", ["merge_method: [", "", "- ties", "a: &x [*x]", "\0"])
def test_text_that_is_no_recipe(text: str) -> None:
    Path("recipe.yml").write_text(text)
    assert_names(refused("merge", "recipe.yml", "out"), "recipe.yml")
    assert_names(refused("merge", "nowhere.yml", "out"), "nowhere.yml")


# Requests that are done, but look like a mistake.


def test_experts_without_a_difference_are_warned_of(here: Path) -> None:
    ended = tallies(*ties("a", "base", more="--json"))
    assert ended.status == 0
    (warning,) = json.loads(ended.out)["warnings"]
    assert_names(warning, "'base'", "is the base_model and adds nothing: left out")
    for name in ("x", "y"):
        write(Path("models") / name, BASE)
    ended = tallies(*ties("models/x", "a", "models/y", more="--json --overwrite"))
    assert ended.status == 0
    for name, line in zip("xy", json.loads(ended.out)["warnings"], strict=True):
        assert_names(line, f"'models/{name}'", "its task vector is zero and adds nothing")
    ended = tallies(*ties("models/x", "models/y", more="--json --overwrite"))
    assert ended.status == 0
    assert json.loads(ended.out)["warnings"][2:] == ["the result equals the base bit for bit"]


# The same from a shell.


@pytest.mark.parametrize(
    ("request_", "part"),
    [
        (ties("a", "short.safetensors"), "truncated"),
        (ties("a", "nan"), "has 1 NaN or infinite values, the first at element 4"),
        (ties("a", out="base/out"), "lies inside the input"),
    ],
)
def test_from_a_shell(here: Path, request_: list[str], part: str) -> None:
    os.truncate(write(Path("short.safetensors"), changed()), 300)
    write(Path("nan"), changed(layer_weight=spoilt((4, 4), {4: np.nan})))
    before = tree(here)
    run = subprocess.run([*COMMAND, *request_], capture_output=True, text=True, check=False)
    assert_names(assert_failed(Ended(run.returncode, run.stdout, run.stderr), 2), part)
    assert tree(here) == before
