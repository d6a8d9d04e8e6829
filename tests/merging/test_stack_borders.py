"""Borders of stacks: tensors before and behind the layers, ranges, and bases without a part."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tallies
from tallies.errors import InputError
from tests.support.checkpoints import Model, assert_holds, write
from tests.support.recipes import assert_words

EMBED, NORM, HEAD = "model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"
LAYER = "model.layers.{}.mlp.up_proj.weight"
CONFIG = {"model_type": "llama", "num_hidden_layers": 2, "hidden_size": 3, "vocab_size": 5}


def model(seed: int, rows: int = 5) -> Model:
    rng = np.random.default_rng(seed)
    shapes = {EMBED: (rows, 3), HEAD: (rows, 3), NORM: (3,)}
    shapes |= {LAYER.format(layer): (4, 3) for layer in range(2)}
    return {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


@pytest.fixture
def pair(tmp_path: Path) -> Path:
    """Two models of two layers, and ``wide``: one with more tokens."""
    for seed, name in enumerate("ab"):
        write(tmp_path / name, model(seed), config=CONFIG)
    write(tmp_path / "wide", model(2, rows=7), config={**CONFIG, "vocab_size": 7})
    return tmp_path


def recipe(folder: Path, *slices: tuple[str, int, int], **keys: Any) -> dict[str, Any]:
    rows = [
        {"sources": [{"model": str(folder / name), "layer_range": [first, end]}]}
        for name, first, end in slices
    ]
    return {"merge_method": "passthrough", "slices": rows, **keys}


def test_embedding_and_head_of_other_vocabularies_are_refused(pair: Path) -> None:
    made = recipe(pair, ("a", 0, 1), ("wide", 0, 2))
    with pytest.raises(InputError) as caught:
        tallies.merge(made, pair / "out")
    assert_words(str(caught.value), HEAD, "[7, 3]", EMBED, "[5, 3]", "tokenizer_source: union")
    assert not (pair / "out").exists()


def test_rows_that_all_have_are_the_way_out(pair: Path) -> None:
    made = recipe(pair, ("a", 0, 1), ("wide", 0, 2), embeddings="truncate")
    tallies.merge(made, pair / "out")
    a, wide = model(0), model(2, rows=7)
    expected = {
        EMBED: a[EMBED],
        LAYER.format(0): a[LAYER.format(0)],
        LAYER.format(1): wide[LAYER.format(0)],
        LAYER.format(2): wide[LAYER.format(1)],
        NORM: wide[NORM],
        HEAD: wide[HEAD][:5],
    }
    assert_holds(pair / "out", expected)


@pytest.mark.parametrize("end", [99_999_999_999, 10**30])
def test_a_range_far_beyond_the_model_is_refused_at_once(pair: Path, end: int) -> None:
    with pytest.raises(InputError, match="has no layer 2, and"):
        tallies.plan(recipe(pair, ("a", 0, end)))


def test_a_base_that_takes_no_part_gives_no_bytes(pair: Path) -> None:
    made = {
        "merge_method": "passthrough",
        "models": [str(pair / "a")],
        "base_model": str(pair / "b"),
    }
    tallies.merge(made, pair / "out")
    assert_holds(pair / "out", model(0))


def test_the_data_of_a_plan_looks_up_its_models_once(
    pair: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tallies.recipe.config import MergeConfig

    made = tallies.plan(recipe(pair, *[("a", 0, 2), ("b", 0, 2)] * 20))
    calls: list[None] = []
    own = MergeConfig.experts

    def counted(self: MergeConfig) -> Any:
        calls.append(None)
        return own(self)

    monkeypatch.setattr(MergeConfig, "experts", counted)
    made.to_json_dict()
    assert 0 < len(calls) < 10
