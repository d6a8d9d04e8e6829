"""Stacks of slices against mergekit's own float32 results; transformers loads all of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file

import tallies
from tallies.checkpoint.stacked import is_before_layers
from tests.support import mergekit_host

ROUNDING = 5e-7
"""The most relative error of a tensor, of sums in float32 in another order."""

SIZES = {"num_attention_heads": 2, "num_key_value_heads": 2, "vocab_size": 32}
FAMILIES = {
    "llama": transformers.LlamaConfig(
        hidden_size=16, intermediate_size=24, num_hidden_layers=4, **SIZES
    ),
    "tied": transformers.LlamaConfig(
        hidden_size=16, intermediate_size=24, num_hidden_layers=4, tie_word_embeddings=True, **SIZES
    ),
    "gpt2": transformers.GPT2Config(vocab_size=32, n_embd=16, n_layer=4, n_head=2, n_positions=24),
    "qwen2": transformers.Qwen2Config(
        hidden_size=16, intermediate_size=24, num_hidden_layers=4, **SIZES
    ),
}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three random models of each family, as FAMILY-a, FAMILY-b and FAMILY-c."""
    folder = tmp_path_factory.mktemp("models")
    for family, config in FAMILIES.items():
        for seed, name in enumerate("abc"):
            torch.manual_seed(seed)
            made = transformers.AutoModelForCausalLM.from_config(config)
            for parameter in made.parameters():
                torch.nn.init.normal_(parameter)
            made.save_pretrained(folder / f"{family}-{name}")
    return folder


def sources(*taken: tuple[str, int, int], **keys: Any) -> dict[str, Any]:
    rows = [{"model": name, "layer_range": [first, end]} for name, first, end in taken]
    return {"sources": rows, **keys}


RECIPES: dict[str, dict[str, Any]] = {
    "two models stacked": {
        "merge_method": "passthrough",
        "slices": [sources(("a", 0, 3)), sources(("b", 1, 4))],
    },
    "repeated and interleaved": {
        "merge_method": "passthrough",
        "slices": [sources(("a", 0, 2)), sources(("a", 1, 3)), sources(("b", 1, 4))],
    },
    "left out": {
        "merge_method": "passthrough",
        "slices": [sources(("a", 0, 1)), sources(("a", 3, 4))],
    },
    "scaled": {
        "merge_method": "passthrough",
        "slices": [
            sources(
                ("a", 0, 2),
                parameters={"scale": [{"filter": "mlp", "value": 0.5}, {"value": 1.0}]},
            ),
            sources(("b", 1, 4)),
        ],
    },
    "gradients anew": {
        "merge_method": "slerp",
        "base_model": "a",
        "slices": [
            sources(("a", 0, 2), ("b", 1, 3)),
            sources(("b", 2, 4), ("a", 1, 3), parameters={"t": [0, 1]}),
        ],
        "parameters": {"t": [0.2, 0.7]},
    },
    "models that differ by slice": {
        "merge_method": "linear",
        "slices": [
            sources(("a", 0, 2), ("b", 0, 2)),
            sources(("c", 2, 4)),
            sources(("a", 1, 3), ("b", 1, 3), ("c", 1, 3), parameters={"weight": [0.1, 0.9]}),
        ],
        "parameters": {"weight": 1.0},
    },
    "task vectors": {
        "merge_method": "ties",
        "base_model": "a",
        "slices": [
            sources(("a", 0, 2), ("b", 0, 2)),
            sources(("a", 1, 4), ("b", 1, 4), ("c", 0, 3)),
        ],
        "parameters": {"weight": [0.5, 1.0], "density": 0.5},
    },
    "a base of its own": {
        "merge_method": "task_arithmetic",
        "base_model": "a",
        "slices": [
            sources(("a", 0, 2), ("b", 0, 2)),
            sources(("c", 1, 4), ("b", 1, 4), base_model="c"),
        ],
        "parameters": {"weight": 0.5},
    },
    "the base alone": {
        "merge_method": "task_arithmetic",
        "base_model": "a",
        "slices": [sources(("a", 0, 2)), sources(("a", 1, 4), ("b", 1, 4))],
        "parameters": {"weight": 0.5},
    },
    "coefficients": {
        "merge_method": "model_stock",
        "base_model": "a",
        "slices": [
            sources(("a", 0, 2), ("b", 0, 2), ("c", 0, 2)),
            sources(("a", 1, 4), ("b", 1, 4), ("c", 0, 3)),
        ],
    },
    "bands": {
        "merge_method": "breadcrumbs",
        "base_model": "a",
        "slices": [
            sources(("a", 0, 2), ("b", 0, 2), ("c", 0, 2)),
            sources(("a", 1, 4), ("b", 1, 4)),
        ],
        "parameters": {"weight": 0.5, "density": 0.7, "gamma": 0.05},
    },
}


def placed(value: Any, folder: Path, family: str) -> Any:
    """Return a recipe in which ``a`` is the path of that model of a family."""
    if isinstance(value, dict):
        return {
            key: str(folder / f"{family}-{one}")
            if key in ("model", "base_model")
            else placed(one, folder, family)
            for key, one in value.items()
        }
    return [placed(one, folder, family) for one in value] if isinstance(value, list) else value


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize("family", ["llama", "tied", "gpt2", "qwen2"])
def test_a_stack_is_that_of_mergekit(models: Path, tmp_path: Path, family: str, name: str) -> None:
    recipe = {**placed(RECIPES[name], models, family), "dtype": "float32"}
    tallies.merge(recipe, tmp_path / "ours", semantics="mergekit")
    loaded, told = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path / "ours", output_loading_info=True
    )
    assert not any(told.values()), told
    assert loaded(torch.tensor([[1, 2, 3]])).logits.isfinite().all()
    n_layers = sum(
        one["sources"][0]["layer_range"][1] - one["sources"][0]["layer_range"][0]
        for one in recipe["slices"]
    )
    assert loaded.config.num_hidden_layers == n_layers
    if family == "qwen2" and n_layers != 4:
        assert len(loaded.config.layer_types) == n_layers  # mergekit keeps 4, and then fails
        return
    mergekit_host.merge(recipe, tmp_path / "theirs", write_model_card=False, copy_tokenizer=False)
    ours, theirs = (load_file(tmp_path / one / "model.safetensors") for one in ("ours", "theirs"))
    assert ours.keys() == theirs.keys()
    for tensor, expected in theirs.items():
        assert ours[tensor].dtype == expected.dtype
        assert (ours[tensor] - expected).norm() <= ROUNDING * expected.norm(), tensor


def test_tensors_outside_of_layers_are_on_the_side_where_mergekit_has_them() -> None:
    with mergekit_host.as_mergekit():
        from mergekit.architecture.json_definitions import JSON_ARCHITECTURES
    seen = 0
    for architecture in JSON_ARCHITECTURES:
        for name, module in architecture.modules.items():
            definition = module.architecture.definition
            # A module without layers is all of one slice, and nobody stacks those of a projector.
            if definition.layer_templates.weights and name != "multi_modal_projector":
                sides = ((definition.pre_weights, True), (definition.post_weights, False))
                for weight, is_first in ((one, first) for held, first in sides for one in held):
                    seen += 1
                    assert is_before_layers(weight.name) is is_first, weight.name
    assert seen > 100
