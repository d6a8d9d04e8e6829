"""Configurations of models that are to become one are compared."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tallies import InputError, merge, pack, plan
from tallies.checkpoint.belonging import differences
from tallies.checkpoint.checkpoint import Checkpoint
from tests.support.checkpoints import write

LLAMA = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "rope_theta": 10000.0,
    "rms_norm_eps": 1e-5,
}


def compared(folder: Path, *configs: Mapping[str, Any], **options: Any) -> list[str]:
    models = []
    for i, config in enumerate(configs):
        path = write(folder / f"m{i}", {"w": np.zeros((2, 2), np.float32)})
        (path / "config.json").write_text(json.dumps(config))
        models.append(Checkpoint.open(path))
    return differences(models, **options)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("num_key_value_heads", 4),
        ("rope_theta", 500000.0),
        ("rope_scaling", {"type": "yarn", "factor": 4.0}),
        ("rms_norm_eps", 1e-6),
        ("architectures", ["LlamaForSequenceClassification"]),
    ],
)
def test_a_difference_is_one_warning_with_both_values(
    tmp_path: Path, key: str, value: object
) -> None:
    (warning,) = compared(tmp_path, LLAMA, LLAMA | {key: value})
    assert str(tmp_path / "m1" / "config.json") in warning and str(tmp_path / "m0") in warning
    assert f"{key} is " in warning
    first = "yarn" if key == "rope_scaling" else repr(value)
    assert first in warning and f"and {LLAMA.get(key)!r} in" in warning


def test_every_difference_of_every_model_is_told(tmp_path: Path) -> None:
    other = {"rope_theta": 1e6, "num_attention_heads": 4}
    assert len(compared(tmp_path, LLAMA, LLAMA | other, LLAMA, LLAMA | {"rope_theta": 2e6})) == 3


@pytest.mark.parametrize(
    "changed",
    [
        {},
        {"torch_dtype": "float16", "transformers_version": "5.0.0", "_name_or_path": "x"},
        {"eos_token_id": [1, 2], "use_cache": False, "vocab_size": 7, "pad_token_id": 0},
        {"rope_theta": 10000, "rope_scaling": None, "head_dim": None},
        {"rope_scaling": {"rope_type": "default"}},
        {"max_position_embeddings": 1 << 20, "attention_bias": False, "hidden_act": "silu"},
    ],
    ids=str,
)
def test_what_does_not_matter_is_no_difference(tmp_path: Path, changed: dict[str, Any]) -> None:
    assert compared(tmp_path, LLAMA, LLAMA | changed) == []


def without(config: Mapping[str, Any], *keys: str) -> dict[str, Any]:
    return {key: value for key, value in config.items() if key not in keys}


def test_a_configuration_of_a_newer_library_is_read_as_it_was_written_before(
    tmp_path: Path,
) -> None:
    newer = without(LLAMA, "rope_theta") | {
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0}
    }
    assert compared(tmp_path / "a", LLAMA, newer) == []
    newer["rope_parameters"] = {"rope_type": "llama3", "rope_theta": 10000.0, "factor": 8.0}
    older = LLAMA | {"rope_scaling": {"type": "llama3", "factor": 8.0}}
    assert compared(tmp_path / "b", older, newer) == []
    (warning,) = compared(tmp_path / "c", LLAMA, newer)
    assert "rope_scaling is " in warning and "llama3" in warning


def test_rotary_positions_of_each_type_of_layer(tmp_path: Path) -> None:
    older = {"model_type": "gemma3_text", "rope_theta": 1e6, "rope_local_base_freq": 1e4}
    newer = {
        "model_type": "gemma3_text",
        "rope_parameters": {
            "full_attention": {"rope_type": "default", "rope_theta": 1e6},
            "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
        },
    }
    assert compared(tmp_path / "a", older, newer) == []
    (warning,) = compared(tmp_path / "b", older | {"rope_local_base_freq": 2e4}, newer)
    assert "rope_local_base_freq" in warning


def test_a_window_that_is_not_used_is_none(tmp_path: Path) -> None:
    unused = LLAMA | {"sliding_window": 4096, "use_sliding_window": False}
    assert compared(tmp_path / "a", unused, LLAMA | {"sliding_window": None}) == []
    (warning,) = compared(tmp_path / "b", LLAMA | {"sliding_window": 4096}, unused)
    assert "sliding_window is None, and 4096 in" in warning


def test_nested_configurations(tmp_path: Path) -> None:
    whole = {"model_type": "llava", "text_config": LLAMA, "vision_config": {"model_type": "clip"}}
    other = whole | {"text_config": LLAMA | {"rope_theta": 5e5}}
    (warning,) = compared(tmp_path / "a", whole, other)
    assert "text_config.rope_theta is 500000.0, and 10000.0 in" in warning
    # A language model alone is compared with that part of the other.
    assert compared(tmp_path / "b", whole, LLAMA) == []
    assert len(compared(tmp_path / "c", LLAMA, other)) == 1


def test_another_architecture_is_an_error_with_a_way_out(tmp_path: Path) -> None:
    mistral = LLAMA | {"model_type": "mistral", "architectures": ["MistralForCausalLM"]}
    with pytest.raises(InputError, match=r"model_type is 'mistral', and 'llama' in that of .*m0"):
        compared(tmp_path / "a", LLAMA, mistral)
    (warning,) = compared(tmp_path / "b", LLAMA, mistral, any_architecture=True)
    assert "another architecture" in warning


def test_models_without_a_configuration_are_not_compared(tmp_path: Path) -> None:
    assert compared(tmp_path / "a", {}, LLAMA, LLAMA) == []
    assert len(compared(tmp_path / "b", {}, LLAMA, LLAMA | {"rope_theta": 1.0})) == 1


# Through the front door.


@pytest.fixture
def models(tmp_path: Path) -> Path:
    for name, config in (
        ("base", LLAMA),
        ("a", LLAMA | {"rope_theta": 5e5}),
        ("b", LLAMA | {"model_type": "mistral"}),
    ):
        tensors = {"w": np.full((2, 2), len(name), np.float32)}
        path = write(tmp_path / name, tensors)
        (path / "config.json").write_text(json.dumps(config))
    return tmp_path


def recipe(root: Path, name: str, **more: Any) -> dict[str, Any]:
    return {
        "merge_method": "task_arithmetic",
        "base_model": str(root / "base"),
        "models": [{"model": str(root / name)}],
        **more,
    }


def test_plans_and_reports_tell_the_differences(models: Path) -> None:
    made = plan(recipe(models, "a"))
    assert any("rope_theta is 500000.0, and 10000.0 in" in one for one in made.warnings)
    report = merge(recipe(models, "a"), models / "out")
    assert [one for one in report.warnings if "rope_theta" in one]
    packed = pack(models / "base", {"a": models / "a"}, models / "store")
    assert [one for one in packed.warnings if "rope_theta" in one]


def test_another_architecture_is_refused_unless_any_is_asked_for(models: Path) -> None:
    with pytest.raises(InputError, match="--architecture any"):
        merge(recipe(models, "b"), models / "out")
    report = merge(recipe(models, "b", architecture="any"), models / "out")
    assert [one for one in report.warnings if "another architecture" in one]
    with pytest.raises(InputError, match="architecture: 'all' is not known"):
        plan(recipe(models, "b", architecture="all"))
    with pytest.raises(InputError, match="--architecture any"):
        pack(models / "base", {"b": models / "b"}, models / "store")
    packed = pack(models / "base", {"b": models / "b"}, models / "store", architecture="any")
    assert [one for one in packed.warnings if "another architecture" in one]
    with pytest.raises(InputError, match="architecture: found 'all', expected 'same' or 'any'"):
        pack(models / "base", {"b": models / "b"}, models / "s2", architecture="all")
