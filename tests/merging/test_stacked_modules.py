"""Modules with stacks of their own: encoder and decoder, text and vision."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tallies
from tallies import MergeReport
from tallies.errors import InputError
from tallies.recipe.config import MergeConfig
from tests.support.bits import assert_same_bits
from tests.support.checkpoints import Model, data_bytes, read, write
from tests.support.recipes import assert_words

ENCODER, DECODER = "encoder.block.{}.layer.0.wi.weight", "decoder.block.{}.layer.0.wi.weight"
OUTSIDE = ("shared.weight", "encoder.final_layer_norm.weight", "decoder.final_layer_norm.weight")
T5 = {"model_type": "t5", "num_layers": 3, "num_decoder_layers": 4, "vocab_size": 5}


def model(seed: int) -> Model:
    rng = np.random.default_rng(seed)
    names = [*OUTSIDE, *map(ENCODER.format, range(3)), *map(DECODER.format, range(4))]
    return {
        name: rng.normal(size=(5, 3) if name == "shared.weight" else (3,)).astype(np.float32)
        for name in names
    }


@pytest.fixture
def pair(tmp_path: Path) -> Path:
    for seed, name in enumerate("ab"):
        write(tmp_path / name, model(seed), config=T5)
    return tmp_path


def sliced(folder: Path, *taken: tuple[str, int, int]) -> dict[str, Any]:
    return {
        "slices": [
            {"sources": [{"model": str(folder / name), "layer_range": [first, end]}]}
            for name, first, end in taken
        ]
    }


def whole(folder: Path, name: str) -> dict[str, Any]:
    return {"models": [{"model": str(folder / name)}]}


def recipe(folder: Path, **modules: Any) -> dict[str, Any]:
    return {"merge_method": "passthrough", "modules": modules}


def test_encoder_and_decoder_have_slices_of_their_own(pair: Path) -> None:
    made = recipe(
        pair,
        encoder=sliced(pair, ("a", 0, 2), ("b", 0, 3)),
        decoder=sliced(pair, ("b", 3, 4), ("a", 1, 2)),
        shared=whole(pair, "b"),
    )
    report = tallies.merge(made, pair / "out")
    found, (a, b) = read(pair / "out"), (model(seed) for seed in range(2))
    expected = {
        **{ENCODER.format(i): a[ENCODER.format(i)] for i in range(2)},
        **{ENCODER.format(i + 2): b[ENCODER.format(i)] for i in range(3)},
        DECODER.format(0): b[DECODER.format(3)],
        DECODER.format(1): a[DECODER.format(1)],
        "shared.weight": b["shared.weight"],
        "encoder.final_layer_norm.weight": b["encoder.final_layer_norm.weight"],
        "decoder.final_layer_norm.weight": a["decoder.final_layer_norm.weight"],
    }
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        assert_same_bits(found[name], array)
    config = json.loads((pair / "out" / "config.json").read_text())
    assert config == {**T5, "num_layers": 5, "num_decoder_layers": 2}
    for file in ("tallies.json", "mergekit_config.yml"):
        again = tallies.merge(pair / "out" / file, pair / "again", overwrite=True)
        assert isinstance(again, MergeReport) and isinstance(report, MergeReport)
        assert again.output.fingerprint == report.output.fingerprint
        assert data_bytes(pair / "again") == data_bytes(pair / "out")


def test_modules_of_the_same_whole_models_are_models(pair: Path) -> None:
    modules = {name: whole(pair, "a") for name in ("encoder", "decoder", "shared")}
    made = MergeConfig.load(recipe(pair, **modules))
    assert made.modules is None and [one.model for one in made.models] == [str(pair / "a")]


@pytest.mark.parametrize(
    ("modules", "words"),
    [
        (
            lambda pair: {"encoder": sliced(pair, ("a", 0, 4)), "decoder": whole(pair, "a")},
            ["modules: encoder: slices[0]", "has no layer 3", "3 layers"],
        ),
        (
            lambda pair: {"encoder": whole(pair, "a"), "decodr": sliced(pair, ("b", 0, 4))},
            ["modules: decodr: slices[0]", "'decoder.block.'", "encoder or decoder"],
        ),
        (lambda pair: {"encoder": {}}, ["modules: encoder", "'models' or 'slices'"]),
        (
            lambda pair: {"encoder": {**whole(pair, "a"), "sllices": []}, "decoder": {}},
            ["did you mean 'slices'?"],
        ),
    ],
)
def test_wrong_modules_are_refused(pair: Path, modules: Any, words: list[str]) -> None:
    with pytest.raises(InputError) as caught:
        tallies.plan(recipe(pair, **modules(pair)))
    assert_words(str(caught.value), *words)


def test_slices_of_a_model_with_two_stacks_ask_for_modules(pair: Path) -> None:
    made = {"merge_method": "passthrough", **sliced(pair, ("a", 0, 2), ("b", 1, 3))}
    with pytest.raises(InputError, match="several stacks of layers"):
        tallies.plan(made)


BIAS = "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight"


@pytest.mark.parametrize("taken", [[("a", 1, 3)], [("b", 0, 1), ("a", 0, 2)]])
def test_positions_of_the_first_layer_stay_with_the_first_layer(
    tmp_path: Path, taken: list[tuple[str, int, int]]
) -> None:
    held: dict[str, Model] = {}
    for seed, name in enumerate("ab"):
        bias = np.full((4, 2), seed + 1, dtype=np.float32)
        held[name] = {**model(seed), BIAS: bias}
        write(tmp_path / name, held[name], config=T5)
    made = recipe(tmp_path, encoder=sliced(tmp_path, *taken), decoder=whole(tmp_path, "a"))
    tallies.merge(made, tmp_path / "out")
    found = read(tmp_path / "out")
    assert [name for name in found if "relative_attention_bias" in name] == [BIAS]
    assert_same_bits(found[BIAS], held[taken[0][0]][BIAS])
    rows = [held[name][ENCODER.format(n)] for name, first, end in taken for n in range(first, end)]
    for number, row in enumerate(rows):
        assert_same_bits(found[ENCODER.format(number)], row)
    assert any(BIAS in one and "first layer" in one for one in tallies.plan(made).warnings)
