"""Recipes: what is read, what is refused and in which words, what each tensor gets."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tallies import methods
from tallies.errors import InputError
from tallies.recipe.config import MergeConfig
from tallies.recipe.layers import layer_positions
from tallies.recipe.parameters import check_parameters
from tallies.recipe.settings import evaluate, normalise
from tallies.spec.choices import Equal, Nonfinite, Scope, Semantics
from tallies.spec.rules import Blend, Gate, Vote, Zero

LLAMA = [
    "model.embed_tokens.weight",
    *(
        f"model.layers.{layer}.{part}.weight"
        for layer in range(4)
        for part in ("input_layernorm", "self_attn.q_proj", "mlp.up_proj")
    ),
    "model.norm.weight",
    "lm_head.weight",
]


def request(**changes: Any) -> dict[str, Any]:
    plain: dict[str, Any] = {
        "merge_method": "ties",
        "base_model": "base",
        "models": [{"model": "a"}, {"model": "b"}],
    }
    return {key: value for key, value in {**plain, **changes}.items() if value is not None}


def with_parameters(**parameters: Any) -> dict[str, Any]:
    """A request whose second model has these parameters."""
    return request(models=[{"model": "a"}, {"model": "b", "parameters": parameters}])


def refusal(config: Any) -> str:
    """The one line with which a request is refused."""
    with pytest.raises(InputError) as caught:
        MergeConfig.load(config)
    text = str(caught.value)
    assert "\n" not in text
    assert caught.value.exit_status == 2
    return text


def assert_words(text: str, *words: str) -> None:
    assert [word for word in words if word not in text] == [], text


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


# What is accepted


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
    assert config.parameters == {"normalize": True, "int8_mask": True, "scale": 2.0}
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
        models = [entry.model for entry in MergeConfig.load(path).models]
        assert models == [str(here / "a"), str(there / "b"), str(here / "c")]


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
    monkeypatch.chdir("/")
    assert MergeConfig.load(plain) == config
    report = write(tmp_path / "tallies.json", json.dumps({"tallies": "0.1", "recipe": plain}))
    assert MergeConfig.load(report) == config
    assert plain["models"][0]["model"] == str(tmp_path / "a")


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


# Command line


def test_options_mean_the_same_as_a_recipe() -> None:
    config = MergeConfig.from_options(
        "ties",
        "base",
        ["b", "a:weight=5e-1,density=[1,0.5]"],
        ["lambda=2", "scope=tensor"],
        out_dtype="float32",
        seed=None,
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
    (entry,) = MergeConfig.from_options("ties", "base", [option]).models
    assert Path(entry.model) == Path(path).absolute()
    assert entry.parameters == parameters


def test_an_existing_path_is_not_split(tmp_path: Path) -> None:
    odd = tmp_path / "run:weight=0.5"
    odd.mkdir()
    (entry,) = MergeConfig.from_options("ties", "base", [str(odd)]).models
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
        MergeConfig.from_options("ties", "base", models, params)
    assert_words(str(caught.value), *words)


# What is refused


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"merge_method": "Ties"}, ["merge_method", "did you mean 'ties'?", "task_arithmetic"]),
        ({"merge_method": "Task-Arithmetic"}, ["did you mean 'task_arithmetic'?"]),
        ({"merge_method": "task-vectors"}, ["'task-vectors' is not known"]),
        ({"merge_method": None}, ["merge_method", "missing"]),
        ({"models": None}, ["models", "missing"]),
        ({"models": []}, ["models", "found none", "at least one"]),
        ({"models": ["a"]}, ["models[0]", "found 'a'", "{model: DIR"]),
        ({"models": [{"model": 5}]}, ["models[0].model", "found 5", "text"]),
        ({"models": [{"model": "a", "paramters": {}}]}, ["models[0]", "'parameters'?"]),
        ({"models": [{"model": "a", "parameters": [1]}]}, ["models[0].parameters", "a mapping"]),
        ({"models": {"model": "a"}}, ["models", "a list"]),
        ({"base": "x"}, ["'base' is not known", "base_model"]),
        ({"merge_metod": "ties"}, ["did you mean 'merge_method'?"]),
        ({"slices": [{"sources": []}]}, ["slices", "not done", "models"]),
        ({"modules": {"text": {}}}, ["modules", "not done"]),
        ({"chat_template": "auto"}, ["chat_template", "remove it"]),
        ({"tokenizer_source": "union"}, ["tokenizer_source", "'union'", "use 'base'"]),
        ({"tokenizer": {"source": "base", "tokens": {}}}, ["tokenizer", "use 'base'"]),
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
        ({"rescale": True}, ["rescale", "not done", "scale"]),
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


# Who takes part


def test_the_base_takes_part_in_linear() -> None:
    config = MergeConfig.load(request(merge_method="linear", models=[{"model": "base"}]))
    experts, warnings = config.experts()
    assert ([Path(entry.model).name for entry in experts], warnings) == (["base"], [])


def test_a_base_that_linear_does_not_use_is_told() -> None:
    _, (warning,) = MergeConfig.load(request(merge_method="linear")).experts()
    assert_words(warning, "base", "takes no part in linear")
    text = refusal(request(merge_method="linear", semantics="mergekit", parameters={"weight": 1}))
    assert_words(text, "base_model", "mergekit averages", "list it under 'models'")


def test_a_model_listed_twice_counts_twice_with_a_warning() -> None:
    experts, (warning,) = MergeConfig.load(
        request(models=[{"model": "a"}, {"model": "b"}, {"model": "./a"}])
    ).experts()
    assert [Path(entry.model).name for entry in experts] == ["a", "b", "a"]
    assert_words(warning, "a'", "again")


def test_a_link_to_the_base_is_the_base(tmp_path: Path) -> None:
    (tmp_path / "base").mkdir()
    (tmp_path / "link").symlink_to("base")
    config = MergeConfig.load(
        request(base_model=tmp_path / "base", models=[{"model": tmp_path / "link"}, {"model": "a"}])
    )
    assert len(config.experts()[0]) == 1


def test_mergekit_wants_every_weight_of_linear() -> None:
    linear = request(merge_method="linear", base_model=None, semantics="mergekit")
    assert_words(refusal(linear), "a'", "'weight' is missing", "linear", "mergekit")
    assert MergeConfig.load({**linear, "parameters": {"weight": 1}}).parameters == {"weight": 1.0}
    assert MergeConfig.load({**linear, "semantics": "paper"}).parameters == {}


# What each tensor gets


def test_layer_positions() -> None:
    positions = layer_positions(
        [
            *LLAMA,
            "encoder.block.0.layer.1.w",
            "encoder.block.2.layer.0.w",
            "decoder.block.0.w",
            "4.weight",
            "0.weight",
            "scales.7",
            "h." + "9" * 5000 + ".w",
        ]
    )
    assert positions["model.layers.0.mlp.up_proj.weight"] == 0.0
    assert positions["model.layers.1.mlp.up_proj.weight"] == 1 / 3
    assert positions["model.layers.3.mlp.up_proj.weight"] == 1.0
    outside = ("model.embed_tokens.weight", "model.norm.weight", "lm_head.weight", "scales.7")
    assert [positions[name] for name in outside] == [0.0] * 4
    assert positions["encoder.block.0.layer.1.w"] == 0.0
    assert positions["encoder.block.2.layer.0.w"] == 1.0
    assert positions["decoder.block.0.w"] == 1.0, "the only layer"
    assert (positions["0.weight"], positions["4.weight"]) == (0.0, 1.0)
    assert positions["h." + "9" * 5000 + ".w"] == 0.0


def test_values_are_those_of_mergekit() -> None:
    """The numbers were printed by mergekit 0.1.5's planner for this recipe and these names."""
    config = MergeConfig.load(
        request(
            semantics="mergekit",
            models=[
                {"model": "base"},
                {"model": "a", "parameters": {"density": [1, 0.7, 0.1], "weight": "1e-1"}},
                {
                    "model": "b",
                    "parameters": {
                        "density": 0.33,
                        "weight": [
                            {"filter": "mlp", "value": [0.5, 1.5]},
                            {"filter": "layernorm", "value": 0.25},
                        ],
                    },
                },
            ],
            parameters={
                "weight": [{"filter": "*", "value": 0.75}],
                "normalize": True,
                "int8_mask": True,
                "lambda": [0.0, 0.5, 0.25, 1],
            },
        )
    )
    resolver = config.resolver(LLAMA)
    expected = {
        "model.embed_tokens.weight": ((1.0, 0.33), (0.1, 0.75), 0.0),
        "model.layers.0.mlp.up_proj.weight": ((1.0, 0.33), (0.1, 0.5), 0.0),
        "model.layers.1.mlp.up_proj.weight": ((0.8, 0.33), (0.1, 0.8333333333333334), 0.5),
        "model.layers.2.input_layernorm.weight": ((0.5, 0.33), (0.1, 0.25), 0.25),
        "model.layers.2.mlp.up_proj.weight": ((0.5, 0.33), (0.1, 1.1666666666666667), 0.25),
        "model.layers.3.self_attn.q_proj.weight": ((0.1, 0.33), (0.1, 0.75), 1.0),
        "model.norm.weight": ((1.0, 0.33), (0.1, 0.75), 0.0),
        "lm_head.weight": ((1.0, 0.33), (0.1, 0.75), 0.0),
    }
    for name, (density, weight, scale) in expected.items():
        assert resolver.parameters_for(name) == {
            "density": density,
            "weight": weight,
            "scale": scale,
            "normalize": True,
            "int8_mask": True,
            "integers": "equal",
        }
    assert resolver.warnings == ()


def test_defaults_depend_on_the_semantics() -> None:
    for semantics, density in (("paper", 0.2), ("mergekit", 1.0)):
        config = MergeConfig.load(request(semantics=semantics))
        values = config.resolver(LLAMA).parameters_for("lm_head.weight")
        assert values["density"] == (density, density)
        assert values["weight"] == (1.0, 1.0)


def test_rules_that_fit_nothing_fall_back_and_unused_filters_are_told() -> None:
    config = MergeConfig.load(
        with_parameters(weight=[{"filter": "mpl", "value": 3}, {"filter": "lm_head", "value": 2}])
    )
    resolver = config.resolver(LLAMA)
    assert resolver.parameters_for("lm_head.weight")["weight"] == (1.0, 2.0)
    assert resolver.parameters_for("model.norm.weight")["weight"] == (1.0, 1.0)
    (warning,) = resolver.warnings
    assert_words(warning, "b'", "'mpl'", "'weight'", "no tensor")


def test_a_required_parameter_without_a_fitting_rule_is_an_error() -> None:
    config = MergeConfig.load(
        request(
            merge_method="linear",
            base_model=None,
            semantics="mergekit",
            parameters={"weight": {"filter": "mlp", "value": 1}},
        )
    )
    resolver = config.resolver(LLAMA)
    assert resolver.parameters_for("model.layers.0.mlp.up_proj.weight")["weight"] == (1.0, 1.0)
    with pytest.raises(InputError) as caught:
        resolver.parameters_for("lm_head.weight")
    assert_words(str(caught.value), "a'", "'weight'", "'lm_head.weight'", "without a filter")


@pytest.mark.parametrize("method", ["linear", "task_arithmetic"])
@pytest.mark.parametrize("weights", [(1, -1), (0, 0), (0.1, -0.1 + 1e-9)])
def test_weights_that_cancel_are_refused_where_they_divide(
    method: str, weights: tuple[float, float]
) -> None:
    a, b = (
        {"model": name, "parameters": {"weight": [w]}}
        for name, w in zip("ab", weights, strict=True)
    )
    config = MergeConfig.load(
        request(merge_method=method, models=[a, b], parameters={"normalize": True})
    )
    with pytest.raises(InputError) as caught:
        config.resolver(LLAMA).parameters_for("lm_head.weight")
    assert_words(str(caught.value), method, "'lm_head.weight'", "zero", "normalize: false")
    total = config.replace(parameters={"normalize": False}).resolver(LLAMA)
    assert total.parameters_for("lm_head.weight")["weight"] == weights


def test_a_name_that_was_not_given_has_no_parameters() -> None:
    with pytest.raises(KeyError):
        MergeConfig.load(request()).resolver(LLAMA).parameters_for("other")


numbers = st.floats(-10, 10)


def as_is(value: object) -> float | bool:
    assert isinstance(value, (float, bool))
    return value


@given(st.lists(numbers, min_size=1, max_size=6), st.integers(0, 40), st.integers(1, 40))
def test_gradients_interpolate(values: list[float], index: int, last: int) -> None:
    position = min(index, last) / last
    found = evaluate(normalise(values, as_is), "w", position)
    at = Fraction(min(index, last), last) * (len(values) - 1)
    left = math.floor(at)
    right = min(left + 1, len(values) - 1)
    exact = Fraction(values[left]) * (1 - at + left) + Fraction(values[right]) * (at - left)
    assert isinstance(found, float)
    assert found == pytest.approx(float(exact), rel=1e-13, abs=1e-12)


@given(st.lists(numbers, min_size=1, max_size=6))
def test_gradients_begin_and_end_exactly(values: list[float]) -> None:
    setting = normalise(values, as_is)
    assert evaluate(setting, "w", 0.0) == values[0]
    assert evaluate(setting, "w", 1.0) == values[-1]


def test_lists_of_booleans_are_not_interpolated() -> None:
    setting = normalise([True, False, True], as_is)
    assert [evaluate(setting, "w", t) for t in (0.0, 0.4, 0.5, 0.9, 1.0)] == [
        True,
        True,
        False,
        False,
        True,
    ]


# Methods


def test_rules_state_the_methods() -> None:
    def rule(**changes: Any) -> Any:
        return MergeConfig.load(request(**changes)).rule()

    for method, usual, other in (
        ("linear", Blend.MEAN, {"normalize": False}),
        ("task_arithmetic", Blend.SUM, {"normalize": True}),
    ):
        plain = rule(merge_method=method)
        assert (plain.gate, plain.vote, plain.blend) == (Gate.ALL, Vote.NONE, usual)
        assert rule(merge_method=method, parameters=other).blend is not usual

    paper = rule()
    assert (paper.gate, paper.vote) == (Gate.MAGNITUDE, Vote.SUM)
    assert (paper.blend, paper.zero) == (Blend.MEAN_OF_AGREEING, Zero.MAJORITY)
    assert (paper.scope, paper.equal) == ("model", "keep")
    local = rule(parameters={"scope": "tensor", "equal": "first"})
    assert (local.scope, local.equal) == ("tensor", "first")

    mergekit = rule(semantics="mergekit")
    assert (mergekit.blend, mergekit.zero) == (Blend.WEIGHTED_MEAN_OF_AGREEING, Zero.POSITIVE)
    assert (mergekit.scope, mergekit.equal) == ("tensor", "first")
    plain_sum = rule(semantics="mergekit", parameters={"normalize": False})
    assert plain_sum.blend is Blend.SUM_OF_AGREEING


@pytest.mark.parametrize("name", methods.names())
def test_every_method_is_complete(name: str) -> None:
    method = methods.get(name)
    assert method.name == name
    assert set(method.semantics) <= set(tuple(Semantics))
    assert method.summary().endswith(".")
    assert "=" in method.formula
    for semantics in method.semantics:
        for key, parameter in method.parameters(semantics).items():
            assert parameter.doc
            if parameter.default is not None:
                checked = check_parameters({key: parameter.default}, method, semantics)
                assert checked == {key: parameter.default}


def test_an_unknown_method_is_named() -> None:
    with pytest.raises(InputError, match="'tie' is not known; did you mean 'ties'"):
        methods.get("tie")


def test_parameters_are_checked_without_heavy_imports() -> None:
    code = (
        "import sys, tallies.methods, tallies.recipe.parameters\n"
        "heavy = {'numpy', 'torch', 'pydantic', 'yaml'} & set(sys.modules)\n"
        "print(sorted(heavy))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.stdout.strip(), done.stderr) == ("[]", "")
