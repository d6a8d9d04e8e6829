"""Tokenizers of models that are to become one are compared."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tallies.checkpoint.belonging import differences
from tallies.checkpoint.checkpoint import Checkpoint
from tests.support.checkpoints import write


def compared(folder: Path, *files: Mapping[str, Any]) -> list[str]:
    models = []
    for i, its in enumerate(files):
        path = write(folder / f"m{i}", {"w": np.zeros(2, np.float32)})
        for name, content in its.items():
            (path / name).parent.mkdir(exist_ok=True)
            (path / name).write_text(content if isinstance(content, str) else json.dumps(content))
        models.append(Checkpoint.open(path))
    return differences(models)


def fast(tokens: str, added: Mapping[str, int] | None = None, **more: Any) -> dict[str, Any]:
    return {
        "model": {"type": "BPE", "vocab": {token: i for i, token in enumerate(tokens)}},
        "added_tokens": [{"id": i, "content": token} for token, i in (added or {}).items()],
        **more,
    }


UNIGRAM = {"model": {"type": "Unigram", "vocab": [["a", 0.0], ["b", -1.0]]}}


@pytest.mark.parametrize(
    ("first", "other", "words"),
    [
        (
            {"tokenizer.json": fast("abc")},
            {"tokenizer.json": fast("acb")},
            "tokenizer.json: token 1 is 'c', and 'b' in that of .* [(]2 tokens differ[)]",
        ),
        (
            {"tokenizer.json": fast("abc")},
            {"tokenizer.json": fast("abc", {"<pad>": 3})},
            "token 3 is '<pad>', and none in that of .* [(]1 token differ",
        ),
        (
            {"tokenizer.json": UNIGRAM},
            {"tokenizer.json": {"model": {"vocab": [["a", 0.0], ["c", -1.0]]}}},
            "token 1 is 'c', and 'b' in",
        ),
        (
            {"vocab.json": {"a": 0, "b": 1}},
            {"vocab.json": {"a": 0, "b": 1}, "added_tokens.json": {"<x>": 2}},
            None,  # the files of the vocabulary are equal
        ),
        ({"vocab.json": {"a": 0, "b": 1}}, {"vocab.json": {"b": 0, "a": 1}}, "token 0 is 'b', and"),
        ({"vocab.txt": "a\nb\n"}, {"vocab.txt": "a\nc\n"}, "vocab.txt: token 1 is 'c', and 'b'"),
        ({"tokenizer.model": "one"}, {"tokenizer.model": "two"}, "tokenizer.model: is not that of"),
        ({"tokenizer.json": fast("ab")}, {"tokenizer.json": fast("ab", version="1.0")}, None),
        ({"tokenizer.json": fast("ab")}, {"tokenizer.model": "two"}, None),
        ({"tokenizer.json": fast("ab")}, {}, None),
        (
            {"tokenizer.json": fast("ab"), "tokenizer.model": "one"},
            {"tokenizer.json": fast("ab"), "tokenizer.model": "two"},
            None,
        ),
        (
            {"tokenizer_config.json": {"chat_template": "{{ bos }}[INST]"}},
            {"tokenizer_config.json": {"chat_template": "{{ bos }}<|im_start|>"}},
            "its chat template has '{{ bos }}<|im_start|>' where that of .* has '{{ bos }}.INST.'",
        ),
        (
            {"tokenizer_config.json": {"chat_template": "x"}},
            {"chat_template.jinja": "x\n", "tokenizer_config.json": {"chat_template": "y"}},
            None,
        ),
        (
            {"tokenizer_config.json": {"chat_template": [{"name": "default", "template": "x"}]}},
            {"chat_template.json": {"chat_template": "y"}},
            "chat template has 'y' where",
        ),
        ({"tokenizer_config.json": {}}, {"tokenizer_config.json": {"chat_template": "x"}}, None),
        (
            {"tokenizer_config.json": {"eos_token": "a", "model_max_length": 1}},
            {"tokenizer_config.json": {"eos_token": "b", "model_max_length": 2}},
            None,
        ),
        ({"tokenizer.json": "{"}, {"tokenizer.json": fast("ab")}, "tokenizer.json: is not that of"),
        (
            {"tokenizer/vocab.json": {"a": 0}},
            {"tokenizer/vocab.json": {"b": 0}},
            "tokenizer/vocab.json: token 0 is 'b', and 'a' in",
        ),
    ],
    ids=str,
)
def test_differences(
    tmp_path: Path, first: dict[str, Any], other: dict[str, Any], words: str | None
) -> None:
    found = compared(tmp_path, first, other)
    if words is None:
        assert found == []
        return
    (warning,) = found
    assert re.search(words, warning), warning
    assert "\n" not in warning


def test_the_first_model_that_has_a_template_is_the_measure(tmp_path: Path) -> None:
    chatml, inst = ({"chat_template.jinja": text} for text in ("<|im_start|>", "[INST]"))
    (warning,) = compared(tmp_path, {}, chatml, inst, chatml)
    assert str(tmp_path / "m2") in warning and str(tmp_path / "m1") in warning


def test_added_tokens_beside_equal_vocabularies(tmp_path: Path) -> None:
    models = [{"vocab.json": {"a": 0}, "added_tokens.json": {one: 1}} for one in ("<x>", "<y>")]
    (warning,) = compared(tmp_path, *models)
    assert "added_tokens.json: token 1 is '<y>', and '<x>' in that of" in warning
    assert compared(tmp_path / "same", models[0], models[0]) == []


def test_equal_files_are_not_parsed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tallies.checkpoint.tokenizers._by_number", None)
    assert compared(tmp_path, *({"tokenizer.json": fast("abc")},) * 3) == []
