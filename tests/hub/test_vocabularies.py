"""Vocabularies of models of the hub: their tokenizers are read before any weight is."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tokenizers import Tokenizer

from tallies import merge, plan
from tests.support.checkpoints import read
from tests.support.hub import Hub
from tests.support.tokens import EMBEDDING, rows_model, tokenizer, write_model

RECIPE = {
    "merge_method": "linear",
    "models": [{"model": "org/first"}, {"model": "org/chat"}],
    "tokenizer": {"source": "union", "tokens": {"<new>": {"source": {"kind": "zero"}}}},
}


@pytest.fixture
def published(hub: Hub, tmp_path: Path) -> Hub:
    added = {"<|im_start|>": True}
    for name, model, made in (
        ("first", rows_model(0, 4), tokenizer("abcd")),
        ("chat", rows_model(1, 5), tokenizer("dcba", added)),
    ):
        path = write_model(tmp_path / "published" / name, model, made)
        (path / "generation_config.json").write_text('{"eos_token_id": 0}')
        (path / "chat_template.jinja").write_text(f"of {name}")
        hub.directory(f"org/{name}", path, "v1")
    return hub


def test_a_plan_reads_tokenizers_and_a_merge_joins_them(published: Hub) -> None:
    made = plan(RECIPE)
    assert made.vocabulary is not None
    assert made.vocabulary.added == ("<|im_start|>", "<new>")
    assert made.bytes_downloaded > 0
    report = merge(RECIPE, "out")
    assert read(Path("out"))[EMBEDDING].shape == (6, 4)
    tokens = Tokenizer.from_file("out/tokenizer.json").get_vocab()
    assert tokens == {"a": 0, "b": 1, "c": 2, "d": 3, "<|im_start|>": 4, "<new>": 5}
    again = merge("out/tallies.json", "again")
    assert again.output.fingerprint == report.output.fingerprint


def test_the_tokenizer_of_a_model_of_the_hub(published: Hub) -> None:
    recipe = RECIPE | {"tokenizer": {"source": "org/chat"}, "chat_template": "auto"}
    merge(recipe, "out")
    said = json.loads(Path("out/tallies.json").read_text())
    commit = published.models["org/chat"].refs["v1"]
    assert said["recipe"]["tokenizer"]["source"] == f"org/chat@{commit}"
    assert Path("out/chat_template.jinja").read_text() == "of first"
    assert json.loads(Path("out/generation_config.json").read_text()) == {"eos_token_id": 3}
    assert json.loads(Path("out/config.json").read_text())["vocab_size"] == 5
