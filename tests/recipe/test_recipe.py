"""Recipes that are read: keys, paths, values that win, and the way back to data."""

from __future__ import annotations

import json
import os
from fractions import Fraction
from pathlib import Path

import pytest

from tallies.errors import InputError
from tallies.recipe.config import MergeConfig
from tallies.spec.choices import Equal, Nonfinite, Scope, Semantics
from tests.support.recipes import assert_words, refusal, request, with_parameters, write


def test_a_recipe_of_mergekit_is_read(tmp_path: Path) -> None:
    recipe = write(
        tmp_path / "recipe.yml",
        """
        # comments stay comments
        models:
          - model: base
          - model: a
            parameters: {density: [1, 0.7, 0.1], weight: 1e-1}
          - model: b
            parameters:
              weight:
                - filter: mlp
                  value: 0.5
                - value: 0
        merge_method: ties
        base_model: base
        parameters: {normalize: true, int8_mask: true, rescale: false, lambda: 2}
        dtype: float16
        tokenizer_source: base
        slices: null
        semantics: mergekit
        """,
    )
    config = MergeConfig.load(recipe)
    assert config.merge_method == "ties"
    assert config.models[1].parameters == {"density": [1.0, 0.7, 0.1], "weight": 0.1}
    assert config.models[2].parameters["weight"] == [
        {"filter": "mlp", "value": 0.5},
        {"filter": None, "value": 0.0},
    ]
    assert config.parameters == {
        "normalize": True,
        "int8_mask": True,
        "rescale": "none",
        "scale": 2.0,
    }
    assert config.output_dtype == "F16"
    experts, warnings = config.experts()
    assert [Path(entry.model).name for entry in experts] == ["a", "b"]
    assert len(warnings) == 1
    assert_words(warnings[0], "base_model", "left out")


@pytest.mark.parametrize(
    ("written", "dtype"),
    [
        ("bfloat16", "BF16"),
        ("torch.float32", "F32"),
        ("fp16", "F16"),
        ("F64", "F64"),
        ("float8_e4m3fn", "F8_E4M3"),
        ("F8_E5M2", "F8_E5M2"),
    ],
)
def test_dtypes_take_their_safetensors_names(written: str, dtype: str) -> None:
    config = MergeConfig.load(request(dtype=written))
    assert config.dtype == config.output_dtype == dtype
    assert MergeConfig.load(request(dtype="F32", out_dtype=written)).output_dtype == dtype


def test_without_dtype_the_result_has_none() -> None:
    assert MergeConfig.load(request()).output_dtype is None


@pytest.mark.parametrize("value", [1, 1.0, "1", "1e0", Fraction(1)])
def test_numbers_become_float(value: object) -> None:
    config = MergeConfig.load(with_parameters(weight=value))
    assert config.models[1].parameters == {"weight": 1.0}
    assert isinstance(config.models[1].parameters["weight"], float)


def test_paths_may_be_path_objects() -> None:
    config = MergeConfig(merge_method="linear", models=[{"model": Path("a")}], files_from=Path("b"))
    assert (config.models[0].model, config.files_from) == ("a", "b")


def test_loading_a_config_returns_it() -> None:
    config = MergeConfig.load(request())
    assert MergeConfig.load(config) is config


def test_a_config_does_not_share_data_with_its_source() -> None:
    source = with_parameters(weight=[0.0, 1.0])
    config = MergeConfig.load(source)
    source["models"][1]["parameters"]["weight"].append(2.0)
    assert config.models[1].parameters == {"weight": [0.0, 1.0]}


# Paths


def test_paths_are_taken_from_here_then_from_the_recipe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    for folder in (here / "a", there / "a", there / "b"):
        folder.mkdir(parents=True)
    monkeypatch.chdir(here)
    recipe = write(
        there / "recipe.json",
        json.dumps(
            {"merge_method": "linear", "models": [{"model": "a"}, {"model": "b"}, {"model": "c"}]}
        ),
    )
    for path in (recipe, str(recipe), Path("../there/recipe.json")):
        config = MergeConfig.load(path)
        assert [entry.model for entry in config.models] == ["a", "b", "c"]
        paths = [os.path.normpath(config.places.path(entry.model)) for entry in config.models]
        assert paths == [str(here / "a"), str(there / "b"), str(here / "c")]


def test_the_base_is_known_once_paths_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "there" / "base").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    base = str(tmp_path / "there" / "base")
    recipe = request(base_model=base, models=[{"model": "base"}])
    path = write(tmp_path / "there" / "recipe.json", json.dumps(recipe))
    assert_words(refusal(path), "only the base_model")


def test_to_json_dict_repeats_the_merge(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    config = MergeConfig.load(
        request(
            models=[
                {"model": "a", "parameters": {"density": [1, 0.5]}},
                {"model": "b", "parameters": {"weight": {"filter": "mlp", "value": "2e-1"}}},
            ],
            parameters={"lambda": 1.5, "scope": "tensor"},
            dtype="bfloat16",
            seed=7,
            files_from="a",
        )
    )
    plain = json.loads(json.dumps(config.to_json_dict()))
    assert plain["models"][0]["model"] == "a"
    assert MergeConfig.load(plain) == config
    assert MergeConfig.load(plain).to_json_dict() == plain
    stated = json.loads(json.dumps(config.relative_to(tmp_path / "out").to_json_dict()))
    assert [entry["model"] for entry in stated["models"]] == ["../a", "../b"]
    assert stated["files_from"] == "../a"
    (tmp_path / "out").mkdir()
    report = tmp_path / "out" / "tallies.json"
    write(report, json.dumps({"tallies": "0.1", "recipe": stated}))
    monkeypatch.chdir("/")
    again = MergeConfig.load(report)
    assert again.to_json_dict() == stated
    found = [os.path.normpath(again.places.path(entry.model)) for entry in again.models]
    assert found == [str(tmp_path / "a"), str(tmp_path / "b")]


@pytest.mark.parametrize(
    ("key", "stated", "default"),
    [
        ("seed", 7, 0),
        ("semantics", "mergekit", "paper"),
        ("nonfinite", "warn", "error"),
        ("max_shard_size", "1GiB", "5GB"),
        ("out_dtype", "F32", "BF16"),
    ],
)
def test_a_value_given_wins_and_none_keeps_the_recipes(
    key: str, stated: object, default: object
) -> None:
    """A given value wins even where it is the default of recipes without the key."""
    config = MergeConfig.load(request(**{key: stated}))
    assert getattr(config.replace(**{key: None}), key) == stated
    assert getattr(config.replace(**{key: default}), key) == default
    again = config.replace(**{key: default}).to_json_dict()
    assert again[key] == default


def test_words_are_parsed_and_written_as_text() -> None:
    config = MergeConfig.load(
        request(semantics="mergekit", nonfinite="warn", max_shard_size="1KiB")
    )
    assert config.semantics is Semantics.MERGEKIT and config.nonfinite is Nonfinite.WARN
    assert config.max_shard_bytes == 1024
    data = config.to_json_dict()
    words = [data[key] for key in ("semantics", "nonfinite", "max_shard_size")]
    assert words == ["mergekit", "warn", "1KiB"] and {type(word) for word in words} == {str}


def test_parameters_that_are_words_are_parsed_and_written_as_text() -> None:
    config = MergeConfig.load(request(parameters={"scope": "tensor", "equal": "first"}))
    assert config.parameters["scope"] is Scope.TENSOR and config.rule().equal is Equal.FIRST
    assert json.dumps(config.to_json_dict()["parameters"]) == (
        '{"scope": "tensor", "equal": "first"}'
    )


def test_replace_checks_again() -> None:
    config = MergeConfig.load(request(parameters={"scope": "tensor"}))
    assert config.replace(seed=3, dtype=None).seed == 3
    assert config.replace(seed=3).parameters == {"scope": "tensor"}
    assert config.replace(seed=3).model_fields_set == {*config.model_fields_set, "seed"}
    with pytest.raises(InputError, match="scope: ties has it only in paper semantics"):
        config.replace(semantics="mergekit")
