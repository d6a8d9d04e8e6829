"""Requests that are refused, and in which words."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from tallies.errors import InputError
from tallies.recipe.config import MergeConfig
from tests.support.recipes import assert_words, refusal, request, with_parameters, write


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"merge_method": "Ties"}, ["merge_method", "did you mean 'ties'?", "task_arithmetic"]),
        ({"merge_method": "Task-Arithmetic"}, ["did you mean 'task_arithmetic'?"]),
        ({"merge_method": "task-vectors"}, ["'task-vectors' is not known"]),
        ({"merge_method": None}, ["merge_method", "missing"]),
        ({"models": None}, ["models", "missing"]),
        ({"models": []}, ["models", "found none", "at least one"]),
        ({"models": [["a"]]}, ["models[0]", "found ['a']", "{model: DIR"]),
        ({"models": [{"model": 5}]}, ["models[0].model", "found 5", "text"]),
        ({"models": [{"model": "a", "paramters": {}}]}, ["models[0]", "'parameters'?"]),
        ({"models": [{"model": "a", "parameters": [1]}]}, ["models[0].parameters", "a mapping"]),
        ({"models": {"model": "a"}}, ["models", "a list"]),
        ({"base": "x"}, ["'base' is not known", "base_model"]),
        ({"merge_metod": "ties"}, ["did you mean 'merge_method'?"]),
        ({"slices": [{"sources": []}], "models": None}, ["slices[0].sources", "a list"]),
        ({"modules": {"text": {}}}, ["modules", "'models'", "keep one of the two"]),
        ({"modules": {"text": {}}, "models": None}, ["modules: text: found {}"]),
        ({"chat_template": "chatmll"}, ["chat_template", "did you mean 'chatml'?"]),
        ({"chat_template": 3}, ["chat_template", "found 3", "auto"]),
        ({"chat_template": "one\ntwo"}, ["chat_template", "one", "braces"]),
        ({"tokenizer_source": 3}, ["tokenizer", "source", "found 3"]),
        ({"tokenizer_source": "unoin"}, ["tokenizer: source", "'unoin'", "did you mean 'union'?"]),
        ({"tokenizer": {"source": "bsae"}}, ["tokenizer: source", "did you mean 'base'?"]),
        ({"tokenizer_source": "model:llama"}, ["source: found 'model:llama'", "alone: 'llama'"]),
        ({"tokenizer_source": "union", "tokenizer": {}}, ["tokenizer_source", "keep one"]),
        ({"tokenizer": "union"}, ["tokenizer", "found 'union'", "source"]),
        ({"tokenizer": {"sauce": "base"}}, ["tokenizer", "did you mean 'source'?"]),
        ({"tokenizer": {"tokens": ["a"]}}, ["tokens", "found ['a']"]),
        ({"tokenizer": {"tokens": {3: {}}}}, ["tokens", "found 3", "in quotes"]),
        ({"tokenizer": {"tokens": {"a": "b"}}}, ["'a'", "found 'b'", "source"]),
        ({"tokenizer": {"tokens": {"a": {"forced": True}}}}, ["'a'", "did you mean 'force'?"]),
        ({"tokenizer": {"tokens": {"a": {"force": 1}}}}, ["force", "found 1"]),
        ({"tokenizer": {"tokens": {"a": {"source": 1}}}}, ["source", "found 1"]),
        ({"tokenizer": {"tokens": {"a": {"source": {"kind": "zeros"}}}}}, ["'zero'?"]),
        (
            {"tokenizer": {"tokens": {"a": {"source": {"kind": "zero", "token": "b"}}}}},
            ["'token' is not known"],
        ),
        (
            {"tokenizer": {"tokens": {"a": {"source": {"kind": "model_token", "token": "b"}}}}},
            ["model", "found model None"],
        ),
        (
            {"tokenizer": {"tokens": {"a": {"source": {"kind": "model_token", "model": "b"}}}}},
            ["one of token and token_id"],
        ),
        (
            {
                "tokenizer": {
                    "tokens": {
                        "a": {"source": {"kind": "model_token", "model": "b", "token_id": -1}}
                    }
                }
            },
            ["token_id", "-1"],
        ),
        ({"tokenizer": {"pad_to_multiple_of": "64"}}, ["pad_to_multiple_of", "found '64'"]),
        ({"dtype": "bfloat"}, ["dtype", "'bfloat'", "did you mean 'bfloat16'?"]),
        ({"out_dtype": "int64"}, ["out_dtype", "'int64'", "float32"]),
        ({"semantics": "mergkit"}, ["semantics", "did you mean 'mergekit'?"]),
        (
            {"merge_method": "ram", "semantics": "peft"},
            ["semantics", "'peft'", "ram", "paper and mergekit"],
        ),
        ({"nonfinite": "ignore"}, ["nonfinite", "error, warn, propagate"]),
        ({"seed": -1}, ["seed", "-1", "0 or more"]),
        ({"seed": 1 << 64}, ["seed", "less than 2**64"]),
        ({"models": [{"model": "a\0"}]}, ["models[0].model", "a\\x00", "a path"]),
        ({"files_from": "\ud800"}, ["files_from", "ud800", "a path"]),
        ({"seed": True}, ["seed", "True", "integer"]),
        ({"base_model": None}, ["base_model", "ties needs", "--base"]),
        ({"base_model": ""}, ["base_model", "''", "a path"]),
        ({"models": [{"model": "base"}]}, ["models", "only the base_model"]),
        ({"models": [{"model": "./base/../base"}]}, ["models", "only the base_model"]),
    ],
)
def test_wrong_keys_are_named(changes: dict[str, Any], words: list[str]) -> None:
    plain = request()
    plain.update(changes)
    text = refusal({key: value for key, value in plain.items() if value is not None})
    assert_words(text, *words)


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ({"desnity": 0.3}, ["'desnity'", "did you mean 'density'?", "parameter of ties"]),
        ({"density": 1.5}, ["density", "found 1.5", "from 0 to 1"]),
        ({"density": -0.1}, ["density", "found -0.1"]),
        ({"density": [0.5, 2]}, ["density", "found 2"]),
        ({"weight": math.nan}, ["weight", "nan", "finite number"]),
        ({"weight": "inf"}, ["weight", "'inf'", "finite number"]),
        ({"weight": 10**400}, ["weight", "finite number"]),
        ({"weight": True}, ["weight", "True", "finite number"]),
        ({"weight": "high"}, ["weight", "'high'", "finite number"]),
        ({"weight": None}, ["weight", "None", "finite number"]),
        ({"weight": []}, ["weight", "empty list"]),
        ({"weight": [[1, 2], [3]]}, ["weight", "[1, 2]", "finite number"]),
        ({"scale": 2}, ["scale", "one model", "recipe's 'parameters'"]),
        ({"lambda": 2}, ["lambda", "one model"]),
        ({"normalize": True}, ["normalize", "one model", "recipe's 'parameters'"]),
        ({"rescale": True}, ["rescale", "mergekit"]),
        ({"rescale": "perhaps"}, ["rescale", "true or false"]),
        ({"weight": [{"filter": "mlp", "valeu": 1}]}, ["'valeu'", "did you mean 'value'?"]),
        ({"weight": [{"filter": "mlp"}]}, ["mlp", "no 'value'"]),
        ({"weight": [{"filter": "mlp", "value": "x"}]}, ["filter 'mlp'", "'x'", "number"]),
        ({"weight": [{"filter": 12, "value": 1}]}, ["filter", "12", "quotes"]),
        ({"weight": [{"filter": "mlp", "value": 1}, 2]}, ["found 2", "among rules"]),
        ({"weight": [{"value": 1}, {"filter": "mlp", "value": 2}]}, ["never reached", "last"]),
        ({"weight": {"value": [{"value": 1}]}}, ["weight", "finite number"]),
    ],
)
def test_wrong_parameters_are_named(parameters: dict[str, Any], words: list[str]) -> None:
    assert_words(refusal(with_parameters(**parameters)), "b'", *words)


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ({"scope": "modle"}, ["scope", "did you mean 'model'?"]),
        ({"scope": ["model", "tensor"]}, ["scope", "whole merge"]),
        ({"integers": "bsae"}, ["integers", "did you mean 'base'?"]),
        ({"scale": 1, "lambda": 2}, ["lambda", "two names", "keep one"]),
        ({1: 2}, ["parameters", "found 1", "text"]),
    ],
)
def test_wrong_shared_parameters_are_named(parameters: dict[Any, Any], words: list[str]) -> None:
    assert_words(refusal(request(parameters=parameters)), *words)


def test_everything_wrong_is_named_at_once() -> None:
    text = refusal(
        request(
            models=[
                {"model": "a", "parameters": {"density": 2, "wieght": 1}},
                {"model": "b", "parameters": {"weight": "x"}},
            ],
            parameters={"scope": "all"},
            dtype="float17",
        )
    )
    assert_words(text, "found 2", "'weight'?", "'x'", "'all'", "'float16'?")


def test_long_values_are_shortened() -> None:
    assert len(refusal(with_parameters(weight="x\n" * 5000))) < 300


def test_construction_and_loading_refuse_alike() -> None:
    with pytest.raises(InputError, match="did you mean 'ties'"):
        MergeConfig(**request(merge_method="tise"))


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        (
            "r.yml",
            "merge_method: ties\nmerge_method: linear",
            ["line 2", "'merge_method'", "twice"],
        ),
        ("r.json", '{"seed": 1, "seed": 2}', ["'seed'", "twice"]),
        ("r.yml", "a: [1", ["cannot be parsed"]),
        ("r.json", "{", ["cannot be parsed"]),
        ("r.yml", "models: !!python/object:os.system {}", ["cannot be parsed"]),
        ("r.yml", "[" * 50_000, ["cannot be parsed"]),
        ("r.json", "[" * 200_000, ["cannot be parsed"]),
        ("r.yml", "a: &a [*a]", ["values", "recipe"]),
        ("r.yml", "- ties", ["'merge_method: ties'"]),
        ("r.yml", "", ["None", "'merge_method: ties'"]),
        ("r.yml", "1: 2", ["'1' is not known"]),
        ("r.yml", "#" * (1 << 20) + "#", ["bytes", "recipe"]),
        ("r.yml", "merge_method: ties\nmodels: [{model: a}]", ["base_model", "missing"]),
    ],
)
def test_wrong_files_are_named(tmp_path: Path, name: str, text: str, words: list[str]) -> None:
    path = write(tmp_path / name, text)
    assert_words(refusal(path), str(path), *words)


def test_aliases_cannot_blow_up(tmp_path: Path) -> None:
    lines = ["a: &a [0,0,0,0,0,0,0,0,0,0]"]
    for old, new in zip("abcdefgh", "bcdefghi", strict=True):
        lines.append(f"{new}: &{new} [{','.join([f'*{old}'] * 10)}]")
    assert_words(refusal(write(tmp_path / "r.yml", "\n".join(lines))), "100000 values")


@pytest.mark.parametrize("name", ["absent.yml", "."])
def test_unreadable_files_are_named(tmp_path: Path, name: str) -> None:
    assert_words(refusal(tmp_path / name), str(tmp_path), "cannot be read", "recipe")
