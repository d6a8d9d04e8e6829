"""The small files of a result whose vocabulary is joined."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tallies.vocabulary.files import config_text, template_texts, tokenizer_texts
from tallies.vocabulary.tokenizer import Tokenizer, cut, plain, read, with_tokens
from tests.support.tokens import tokenizer, write_tokenizer


def stored(folder: Path, plain_tokens: str, config: dict[str, Any] | None = None) -> Tokenizer:
    folder.mkdir(exist_ok=True)
    write_tokenizer(folder, tokenizer(plain_tokens, {"<s>": True}), config)
    found = read({one.name: one for one in folder.iterdir()}, "tokenizer")
    assert found is not None
    return found


def test_a_tokenizer_as_it_is_stored_changes_no_file(tmp_path: Path) -> None:
    assert tokenizer_texts(stored(tmp_path, "abc")) == {}


def test_files_name_new_tokens_and_forget_those_that_are_gone(tmp_path: Path) -> None:
    config = {
        "added_tokens_decoder": {"3": {"content": "<s>"}},
        "bos_token": "<s>",
        "pad_token": {"content": "c"},
        "extra_special_tokens": ["c", "<s>"],
        "model_max_length": 8,
    }
    (tmp_path / "added_tokens.json").write_text('{"<s>": 3}')
    (tmp_path / "special_tokens_map.json").write_text('{"bos_token": "<s>", "pad_token": "c"}')
    found = stored(tmp_path, "abc", config)
    assert "c" in found.tokens
    two = with_tokens(cut(found, 2, "tokenizer"), {"<new>": plain()}, "tokenizer")
    texts = {name: json.loads(text) for name, text in tokenizer_texts(two).items()}
    assert texts["tokenizer_config.json"] == {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "added_tokens_decoder": {"2": {"content": "<new>", **plain()}},
        "extra_special_tokens": [],
        "model_max_length": 8,
    }
    assert texts["special_tokens_map.json"] == {}
    assert texts["added_tokens.json"] == {"<new>": 2}
    assert texts["tokenizer.json"]["added_tokens"] == [{"id": 2, "content": "<new>", **plain()}]


CONFIG = {
    "bos_token_id": 3,
    "eos_token_id": [0, 2],
    "pad_token_id": 2,
    "image_token_index": 1,
    "unk_token_id": 99,
    "sep_token_id": -1,
    "begin_suppress_tokens": [0, 99],
    "text_config": {"model_type": "x", "vocab_size": 4, "bos_token_id": 3},
    "vocab_size": 4,
    "hidden_size": 3,
}


def test_ids_follow_their_tokens(tmp_path: Path) -> None:
    old = stored(tmp_path / "old", "abc")
    new = stored(tmp_path / "new", "ba", {"pad_token": "b"})
    text = json.dumps(CONFIG, indent=1).encode() + b"\n"
    made = config_text(tmp_path / "config.json", text, old, new, 5)
    assert made.endswith(b"\n}\n") and b'\n "bos_token_id": 2' in made
    assert json.loads(made) == {
        "bos_token_id": 2,
        "eos_token_id": [1],
        "pad_token_id": 0,
        "image_token_index": 0,
        "unk_token_id": None,
        "sep_token_id": -1,
        "begin_suppress_tokens": [1],
        "text_config": {"model_type": "x", "vocab_size": 5, "bos_token_id": 2},
        "vocab_size": 5,
        "hidden_size": 3,
    }


def test_a_true_configuration_keeps_its_bytes(tmp_path: Path) -> None:
    old = stored(tmp_path, "abc")
    text = b'{"bos_token_id":3,\t"vocab_size": 4, "eos_token_id": null}'
    assert config_text(tmp_path / "config.json", text, old, old, 4) == text
    assert config_text(tmp_path / "config.json", text, None, old, 4) == text


@pytest.mark.parametrize(
    ("stated", "expected"),
    [
        ("old", "new"),
        (
            [{"name": "tools", "template": "t"}, {"name": "default", "template": "old"}],
            [{"name": "default", "template": "new"}, {"name": "tools", "template": "t"}],
        ),
        (None, None),
    ],
)
def test_a_template_is_stated_wherever_one_was(
    tmp_path: Path, stated: object, expected: object
) -> None:
    config = {} if stated is None else {"chat_template": stated}
    found = stored(tmp_path, "abc", config)
    texts = template_texts(found.files, {}, "new")
    assert texts.pop("chat_template.jinja") == b"new"
    if expected is None:
        assert texts == {}
    else:
        assert json.loads(texts["tokenizer_config.json"])["chat_template"] == expected


def test_a_template_is_put_into_a_text_that_changed_before(tmp_path: Path) -> None:
    found = stored(tmp_path, "abc", {"chat_template": "old"})
    before = {"tokenizer_config.json": b'{"chat_template": "old", "more": 1}'}
    texts = template_texts(found.files, before, "new")
    assert texts["tokenizer_config.json"] == b'{"chat_template": "new", "more": 1}'
