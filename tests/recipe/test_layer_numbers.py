"""The number of a name that is the layer, and warnings where there is none."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import tallies
from tallies.recipe.layers import Layers
from tests.support.checkpoints import Model, read, write

FIVE = range(5)
STACKS = {
    "a decoder": [f"model.layers.{i}.w" for i in FIVE],
    "GPT-2": [f"h.{i}.attn.w" for i in FIVE],
    "a module's index before it": [f"0.auto_model.encoder.layer.{i}.w" for i in FIVE],
    "stages from 1 on": [f"layer{i + 1}.0.conv1.weight" for i in FIVE],
    "blocks": [f"blocks.{i}.w" for i in FIVE],
    "an underscore": [f"encoder.layer_{i}.w" for i in FIVE],
    "a sub-directory": [f"text_encoder_2/text_model.encoder.layers.{i}.w" for i in FIVE],
    "experts behind it": [f"model.layers.{i}.experts.7.w" for i in FIVE],
    "other tensors in each": [f"layers.{i}.{name}.w" for i, name in enumerate("abcde")],
    "numbers without a word": [f"features.{i}.weight" for i in FIVE],
}


@pytest.mark.parametrize("names", STACKS.values(), ids=STACKS)
def test_positions_go_from_the_first_to_the_last_layer(names: list[str]) -> None:
    layers = Layers([*names, "embed.weight"])
    assert [layers.position(name) for name in names] == [0, 0.25, 0.5, 0.75, 1]
    assert layers.label("embed.weight") is None


def test_a_number_that_never_changes_is_no_layer() -> None:
    names = [
        *(f"0.auto_model.encoder.layer.{i}.w" for i in range(3)),
        "0.auto_model.embeddings.w",
        "2.linear.weight",
        "2.linear.bias",
    ]
    layers = Layers(names)
    assert [layers.label(name) for name in names[:4]] == [
        "0.auto_model.encoder.layer.0",
        "0.auto_model.encoder.layer.1",
        "0.auto_model.encoder.layer.2",
        None,
    ]
    assert layers.label("2.linear.weight") is None


def test_each_stack_counts_by_itself() -> None:
    names = [*(f"down_blocks.{i}.w" for i in range(3)), *(f"mid.resnets.{i}.w" for i in range(2))]
    layers = Layers(names)
    assert [layers.position(name) for name in names] == [0, 0.5, 1, 0, 1]


def test_the_first_number_that_counts_is_the_layer() -> None:
    names = [f"model.layers.{i}.mlp.experts.{j}.w" for i in range(2) for j in range(3)]
    layers = Layers(names)
    assert {layers.label(name) for name in names} == {"model.layers.0", "model.layers.1"}


def test_a_layer_of_a_kind_of_its_own_stays_in_the_stack() -> None:
    names = [f"model.layers.{i}.w" for i in range(3)]
    names += [f"model.layers.1.experts.{j}.w" for j in range(2)]
    layers = Layers(names)
    assert layers.label("model.layers.1.experts.0.w") == "model.layers.1"


@pytest.mark.parametrize("names", STACKS.values(), ids=STACKS)
def test_a_gradient_follows_them(names: list[str], tmp_path: Path) -> None:
    base = {name: np.zeros(2, np.float32) for name in names}
    expert = {name: np.ones(2, np.float32) for name in names}
    recipe: dict[str, object] = {
        "merge_method": "task_arithmetic",
        "base_model": str(write(tmp_path / "base", base)),
        "models": [
            {"model": str(write(tmp_path / "a", expert)), "parameters": {"weight": [0.0, 1.0]}}
        ],
    }
    report = tallies.merge(recipe, tmp_path / "out")
    merged = read(tmp_path / "out")
    assert [float(merged[name][0]) for name in names] == [0, 0.25, 0.5, 0.75, 1]
    assert report.warnings == []


ONE_LAYER = {"embed.weight": np.ones(2, np.float32), "head.0.weight": np.ones(2, np.float32)}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"parameters": {"weight": [0.0, 1.0]}}, "gradient of 'weight' is the same"),
        (
            {"parameters": {"weight": [{"filter": "head", "value": [0.0, 1.0]}, {"value": 1.0}]}},
            "gradient of 'weight' is the same",
        ),
        ({"post_scale": [0.5, 1.0]}, "post_scale: the gradient is the same"),
        ({"layer_scaling": {"alpha": 0.5, "beta": 0.5}}, "layer_scaling: the factor is the same"),
    ],
)
def test_what_varies_by_layer_warns_without_layers(
    changes: dict[str, object], words: str, tmp_path: Path
) -> None:
    recipe: dict[str, object] = {
        "merge_method": "task_arithmetic",
        "base_model": str(write(tmp_path / "base", ONE_LAYER)),
        "models": [{"model": str(write(tmp_path / "a", ONE_LAYER))}],
        **changes,
    }
    (warning,) = (text for text in tallies.plan(recipe).warnings)
    assert words in warning


FLAT = {"head.weight": np.ones((2, 2), np.float32), "norm": np.ones(2, np.float32)}


@pytest.mark.parametrize("run", [tallies.plan, lambda recipe: tallies.merge(recipe, "out")])
@pytest.mark.parametrize("flat", [FLAT, ONE_LAYER])
def test_layers_cannot_be_dropped_where_there_are_none(
    run: Callable[[dict[str, object]], object], flat: Model, tmp_path: Path
) -> None:
    recipe: dict[str, object] = {
        "merge_method": "task_arithmetic",
        "base_model": str(write(tmp_path / "base", flat)),
        "models": [{"model": str(write(tmp_path / "a", flat))}],
        "drop_layers": {"score": "size", "ratio": 0.5},
    }
    found = r"base: drop_layers: found no two layers in the names of 2 tensors \('\S+', '\S+'\)"
    with pytest.raises(tallies.InputError, match=rf"{found}, expected .*: 'unit: tensor'"):
        run(recipe)
    options = {"score": "size", "ratio": 0.5}
    with pytest.raises(tallies.InputError, match=found):
        tallies.merge_state_dicts(flat, [flat], method="task_arithmetic", drop_layers=options)
    recipe["drop_layers"] = {**options, "unit": "tensor"}
    report = tallies.merge(recipe, tmp_path / "out")
    assert isinstance(report, tallies.MergeReport)
    assert len(report.experts[0].dropped_layers) == 1
