"""Tied tensors are found by names, configuration, dtype and shape."""

from __future__ import annotations

from pathlib import Path

import pytest

from tallies.checkpoint.checkpoint import Checkpoint
from tallies.checkpoint.heads import arranged
from tallies.checkpoint.tied import tied_pairs
from tallies.spec.choices import Tied
from tests.support.entries import write_model

TIED = {"tie_word_embeddings": True}


@pytest.mark.parametrize(
    ("names", "pairs"),
    [
        (["lm_head.weight", "model.embed_tokens.weight"], [(0, 1)]),
        (["lm_head.weight", "transformer.wte.weight"], [(0, 1)]),
        (["lm_head.weight", "transformer.word_embeddings.weight"], [(0, 1)]),
        (["output.weight", "tok_embeddings.weight"], [(0, 1)]),
        (["embed_out.weight", "gpt_neox.embed_in.weight"], [(0, 1)]),
        (
            ["lm_head.weight", "encoder.embed_tokens.weight", "shared.weight"],
            [(0, 2)],
        ),
        (
            [
                "talker.lm_head.weight",
                "thinker.lm_head.weight",
                "talker.model.embed_tokens.weight",
                "thinker.model.embed_tokens.weight",
            ],
            [(0, 2), (1, 3)],
        ),
        (["h.0.output.weight", "wte.weight"], []),
        (["my_lm_head.weight", "wte.weight"], []),
        (["lm_head.weight", "other_wte.weight"], []),
        (["lm_head.weight"], []),
    ],
)
def test_tied_pairs(tmp_path: Path, names: list[str], pairs: list[tuple[int, int]]) -> None:
    checkpoint = write_model(tmp_path, [(name, "BF16", (4, 2)) for name in names], TIED)
    assert tied_pairs(checkpoint) == [(names[a], names[b]) for a, b in pairs]


@pytest.mark.parametrize(
    ("config", "tied"),
    [
        (TIED, True),
        ({"text_config": TIED}, True),
        ({"tie_word_embeddings": False, "llm_config": TIED}, True),
        ({"tie_word_embeddings": False}, False),
        ({"tie_word_embeddings": "yes"}, False),
        ({"vision_config": TIED}, False),
        ({"text_config": None}, False),
        ({}, False),
    ],
)
def test_tied_by_configuration_only(tmp_path: Path, config: object, tied: bool) -> None:
    tensors = [("lm_head.weight", "F32", (4, 2)), ("embed_tokens.weight", "F32", (4, 2))]
    assert bool(tied_pairs(write_model(tmp_path, tensors, config))) is tied


@pytest.mark.parametrize(("dtype", "shape"), [("F32", (2, 4)), ("F32", (5, 2)), ("F16", (4, 2))])
def test_tied_only_if_alike(tmp_path: Path, dtype: str, shape: tuple[int, ...]) -> None:
    tensors = [("lm_head.weight", "F32", (4, 2)), ("embed_tokens.weight", dtype, shape)]
    assert tied_pairs(write_model(tmp_path, tensors, TIED)) == []


def test_tied_by_the_configuration_of_the_part(tmp_path: Path) -> None:
    folders = ("a", "b")
    (tmp_path / "model_index.json").write_text('{"a": ["lib", "A"], "b": ["lib", "B"]}')
    tensors = [("lm_head.weight", "F32", (4, 2)), ("embed_tokens.weight", "F32", (4, 2))]
    for folder in folders:
        (tmp_path / folder).mkdir()
        write_model(tmp_path / folder, tensors, TIED if folder == "b" else {})
    pairs = tied_pairs(Checkpoint.open(tmp_path))
    assert pairs == [("b/lm_head.weight", "b/embed_tokens.weight")]


@pytest.mark.parametrize("family", [["llama"], {}, 7, None])
def test_a_family_that_is_no_text_ties_nothing(tmp_path: Path, family: object) -> None:
    model = write_model(tmp_path, [("embed_tokens.weight", "F32", (4, 2))], {"model_type": family})
    assert arranged(model, [model], Tied.AS_BASE) == (model, [model])
