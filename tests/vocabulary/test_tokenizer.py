"""Tokenizers as libraries load them, without tokens that have no row, and with new ones."""

from __future__ import annotations

import builtins
import json
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer
from tokenizers.models import BPE

from tallies import InputError
from tallies.vocabulary import tokenizer as tokenizers
from tests.support.tokens import tokenizer, write_tokenizer

MOST = tokenizers.MOST_FREE + 1
"""The largest number beside 0 of a tokenizer of two tokens that is no more sparse than allowed."""


def read(folder: Path) -> tokenizers.Tokenizer:
    found = tokenizers.read({one.name: one for one in folder.iterdir()}, "tokenizer")
    assert found is not None
    return found


def test_a_stored_tokenizer_is_read_as_it_is(tmp_path: Path) -> None:
    write_tokenizer(tmp_path, tokenizer("abc", {"<s>": True, "<x>": False}), {"bos_token": "<s>"})
    found = read(tmp_path)
    assert found.tokens == {"a": 0, "b": 1, "c": 2, "<s>": 3, "<x>": 4}
    assert {token: flags["special"] for token, flags in found.added.items()} == {
        "<s>": True,
        "<x>": False,
    }
    assert (found.n_rows, found.changed, found.folder) == (5, None, tmp_path)


def test_tokens_of_the_configuration_are_added_as_libraries_do(tmp_path: Path) -> None:
    config = {
        "added_tokens_decoder": {
            "4": {"content": "<y>", "special": True},
            "3": {"content": "<x>", "lstrip": True},
            "0": {"content": "a"},
        },
        "bos_token": {"content": "<s>"},
        "pad_token": "b",
        "extra_special_tokens": ["<e>"],
        "additional_special_tokens": {"image": "<i>"},
    }
    write_tokenizer(tmp_path, tokenizer("abc"), config)
    found = read(tmp_path)
    assert list(found.tokens) == ["a", "b", "c", "<x>", "<y>", "<s>", "<e>", "<i>"]
    assert list(found.added) == ["b", "<x>", "<y>", "<s>", "<e>", "<i>"]
    assert found.added["<x>"] == tokenizers.plain() | {"lstrip": True}
    assert found.added["b"]["special"] and found.changed is not None
    assert Tokenizer.from_str(found.text).get_vocab() == found.tokens


def test_special_tokens_of_a_file_of_their_own_count_where_nothing_else_lists_them(
    tmp_path: Path,
) -> None:
    write_tokenizer(tmp_path, tokenizer("abc"))
    (tmp_path / "special_tokens_map.json").write_text('{"eos_token": "</s>"}')
    assert list(read(tmp_path).tokens) == ["a", "b", "c", "</s>"]
    write_tokenizer(tmp_path, tokenizer("abc"), {"added_tokens_decoder": {}})
    assert list(read(tmp_path).tokens) == ["a", "b", "c"]


@pytest.mark.parametrize("pieces", [False, True])
def test_tokens_without_a_row_are_cut(tmp_path: Path, pieces: bool) -> None:
    made = tokenizer(["a", "b", "ab", "[UNK]"], {"<x>": True, "<y>": False}, pieces=pieces)
    data = json.loads(made.to_str())
    if not pieces:
        data["model"]["merges"] = [["a", "b"]]
    write_tokenizer(tmp_path, Tokenizer.from_str(json.dumps(data)))
    found = read(tmp_path)
    assert tokenizers.cut(found, 6, "tokenizer") is found
    five, two = (tokenizers.cut(found, n, "tokenizer") for n in (5, 2))
    assert list(five.tokens) == ["a", "b", "ab", "[UNK]", "<x>"]
    assert list(five.added) == ["<x>"]
    assert list(two.tokens) == ["a", "b"] and two.changed is not None
    assert json.loads(two.text)["model"].get("merges", []) == []


def test_new_tokens_stand_behind_the_others(tmp_path: Path) -> None:
    write_tokenizer(tmp_path, tokenizer("abc", {"<x>": True}))
    found = read(tmp_path)
    same = tokenizers.with_tokens(found, {"a": tokenizers.plain()}, "tokenizer")
    assert same is found
    flags = tokenizers.plain() | {"rstrip": True}
    more = tokenizers.with_tokens(found, {"<y>": flags, "d": tokenizers.plain()}, "tokenizer")
    assert list(more.tokens)[3:] == ["<x>", "<y>", "d"]
    (added,) = (one for one in json.loads(more.text)["added_tokens"] if one["content"] == "<y>")
    assert added == {"id": 4, "content": "<y>", **flags}


@pytest.mark.parametrize("name", ["tokenizer.model", "spiece.model", "vocab.txt", "vocab.json"])
def test_other_formats_are_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"\x0a")
    with pytest.raises(InputError, match=rf"tokenizer: found .*{name} and no tokenizer.json"):
        tokenizers.read({name: tmp_path / name}, "tokenizer")


def test_no_files_are_no_tokenizer(tmp_path: Path) -> None:
    assert tokenizers.read({}, "tokenizer") is None


@pytest.mark.parametrize("text", ["", "{}", '{"model": 3}', "\xff"])
def test_damaged_files_are_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "tokenizer.json").write_text(text)
    with pytest.raises(InputError, match=r"tokenizer\.json: is no tokenizer that the library"):
        read(tmp_path)


def test_a_missing_library_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_tokenizer(tmp_path, tokenizer("abc"))
    importing = builtins.__import__

    def without(name: str, *rest: Any) -> Any:
        if name == "tokenizers":
            raise ImportError(name)
        return importing(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(InputError, match=r"pip install 'tallies\[tokenizers\]'"):
        read(tmp_path)


@pytest.mark.parametrize(("number", "is_refused"), [(MOST, False), (MOST + 1, True)])
def test_a_number_far_beyond_the_others_is_refused(
    tmp_path: Path, number: int, is_refused: bool
) -> None:
    write_tokenizer(tmp_path, Tokenizer(BPE({"a": 0, "b": number}, [])))
    found = read(tmp_path)
    if is_refused:
        words = rf"tokenizer\.json: token 'b' has the number {number}, and there are 2 tokens"
        with pytest.raises(InputError, match=words):
            tokenizers.refuse_sparse(found, "tokenizer")
    else:
        tokenizers.refuse_sparse(found, "tokenizer")
        assert found.n_rows == number + 1


def test_numbers_of_thousands_of_digits_are_passed_over(tmp_path: Path) -> None:
    config = {"added_tokens_decoder": {"9" * 5000: {"content": "<x>"}, "1": {"content": "<y>"}}}
    write_tokenizer(tmp_path, tokenizer("a"), config)
    assert list(read(tmp_path).tokens) == ["a", "<y>"]


def test_a_text_without_added_tokens_is_cut(tmp_path: Path) -> None:
    write_tokenizer(tmp_path, tokenizer("abc"))
    data = json.loads((tmp_path / "tokenizer.json").read_text())
    del data["added_tokens"]
    (tmp_path / "tokenizer.json").write_text(json.dumps(data))
    assert list(tokenizers.cut(read(tmp_path), 2, "tokenizer").tokens) == ["a", "b"]
