"""Borders of stacks: tensors before and behind the layers, ranges, and bases without a part."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tallies
from tallies.errors import InputError
from tests.support.checkpoints import Model, assert_holds, read, write
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


@pytest.mark.parametrize(("kinds", "found"), [("aa", "aaa"), ("ab", None)])
def test_kinds_of_layers_from_the_files_of_another_model(
    pair: Path, kinds: str, found: str | None
) -> None:
    write(pair / "files", model(3), config={**CONFIG, "layer_types": list(kinds)})
    made = recipe(pair, ("a", 0, 2), ("b", 1, 2), files_from=str(pair / "files"))
    if found is None:
        with pytest.raises(InputError, match=r"layer_types: .* a model of the slices states none"):
            tallies.plan(made)
        return
    tallies.merge(made, pair / "out")
    config = json.loads((pair / "out" / "config.json").read_text())
    assert config["layer_types"] == list(found)


def test_files_of_another_type_of_model_are_told(pair: Path) -> None:
    write(pair / "files", model(3), config={**CONFIG, "model_type": "qwen2"})
    made = {"merge_method": "linear", "models": [str(pair / "a")], "parameters": {"weight": 1.0}}
    (warning,) = tallies.plan({**made, "files_from": str(pair / "files")}).warnings
    assert_words(warning, "files_from", "model_type is 'qwen2', and 'llama'")


def test_a_model_without_a_head_is_told_how_to_get_one(pair: Path) -> None:
    tied = model(4)
    del tied[HEAD]
    write(pair / "tied", tied, config={**CONFIG, "tie_word_embeddings": True})
    sources = [{"model": str(pair / name), "layer_range": [0, 2]} for name in ("tied", "a")]
    made = {
        "merge_method": "linear",
        "slices": [{"sources": sources}, {"sources": sources[::-1]}],
        "parameters": {"weight": 0.5},
    }
    with pytest.raises(InputError) as caught:
        tallies.plan(made)
    assert_words(str(caught.value), HEAD, "'tied: untie' (--tied untie)")
    tallies.merge({**made, "tied": "untie"}, pair / "out")
    expected = (tied[EMBED].astype(np.float64) + model(0)[HEAD]) / 2
    np.testing.assert_allclose(read(pair / "out")[HEAD], expected, rtol=1e-6, atol=1e-7)


def test_mergekit_slerp_needs_a_base_in_each_slice(pair: Path) -> None:
    sources = [{"model": str(pair / name), "layer_range": [0, 1]} for name in "ab"]
    made = {"merge_method": "slerp", "parameters": {"t": 0.5}, "semantics": "mergekit"}
    based = {"base_model": str(pair / "a"), "sources": sources}
    with pytest.raises(InputError, match=r"slices\[1\]: slerp .* needs a base_model"):
        tallies.plan({**made, "slices": [based, {"sources": sources}]})
    tallies.plan({**made, "slices": [based, based]})


def test_a_model_twice_in_a_slice_is_told_be_it_the_base(pair: Path) -> None:
    ranges = (("a", 0), ("a", 1), ("b", 1))
    sources = [{"model": str(pair / name), "layer_range": [n, n + 1]} for name, n in ranges]
    made = {"merge_method": "task_arithmetic", "base_model": str(pair / "a")}
    told = tallies.plan({**made, "slices": [{"sources": sources}]}).warnings
    assert any("is twice in a slice and counts twice" in one for one in told)


def test_a_plan_shows_layers_and_bytes_that_are_copied(pair: Path) -> None:
    made = tallies.plan(recipe(pair, ("a", 0, 2), ("b", 0, 2)))
    said = " ".join(str(made).split())
    assert "layers 4 of model.layers" in said
    # Embedding and head of 5 rows, 4 layers of 4, and the norm, all of 3 float32.
    assert f"reads 0 bytes, and copies {(10 + 16 + 1) * 3 * 4} bytes as they are" in said


def test_a_plan_shows_the_layers_of_the_base(pair: Path) -> None:
    sources = [{"model": str(pair / "a"), "layer_range": [1, 2]}]
    sources.append({"model": str(pair / "b"), "layer_range": [0, 1]})
    made = {"merge_method": "task_arithmetic", "base_model": str(pair / "a")}
    said = str(tallies.plan({**made, "slices": [{"sources": sources}] * 2}))
    assert f"{pair / 'a'}: model.layers 1, model.layers 1" in " ".join(said.split())
