"""The rows that a joined vocabulary has in each model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tallies import InputError
from tallies.vocabulary.joining import Known, joined
from tallies.vocabulary.rows import find_rows, is_identity, padding, row_map, rule
from tallies.vocabulary.tokenizer import Tokenizer, read
from tests.reference.vocabulary import aligned, joined_tokens, mean
from tests.support.tokens import tokenizer, write_tokenizer

LETTERS = "abcdefgh"
ADDED = ("<x>", "<y>", "<z>")


def known(folder: Path, label: str, plain: str, added: dict[str, bool], n_rows: int) -> Known:
    at = folder / label
    at.mkdir(exist_ok=True)
    write_tokenizer(at, tokenizer(plain, added))
    found = read({one.name: one for one in at.iterdir()}, "tokenizer")
    assert found is not None
    return Known(label, found, n_rows)


@st.composite
def several(draw: st.DrawFn) -> list[tuple[str, dict[str, bool], int]]:
    models = []
    for _ in range(draw(st.integers(1, 4))):
        plain = "".join(draw(st.lists(st.sampled_from(LETTERS), min_size=1, unique=True)))
        names = draw(st.lists(st.sampled_from(ADDED), unique=True))
        added = {name: draw(st.booleans()) for name in names}
        n_tokens = len(plain) + len(added)
        models.append((plain, added, draw(st.integers(1, n_tokens + 2))))
    return models


def by_rows(maps: list[Any], embeddings: list[Any]) -> list[Any]:
    """The embeddings that row maps describe, in float32."""
    made = []
    for one, its in zip(embeddings, maps, strict=True):
        rows = [
            one[row].astype(np.float32)
            if row >= 0
            else mean([embeddings[m][r] for m, r in its.means.get(place, ())], one[0])
            for place, row in enumerate(its.own)
        ]
        behind = [np.mean(rows, 0, dtype=np.float64).astype(np.float32)] * its.n_padding
        made.append(np.stack(rows + behind))
    return made


@given(several(), st.booleans(), st.sampled_from([None, 4]))
def test_rows_are_those_of_the_specification(
    tmp_path_factory: pytest.TempPathFactory,
    models: list[tuple[str, dict[str, bool], int]],
    has_base: bool,
    multiple: int | None,
) -> None:
    folder = tmp_path_factory.mktemp("models")
    # The first model has a row for every token: what is cut has tests of its own.
    models[0] = (*models[0][:2], max(models[0][2], len(models[0][0]) + len(models[0][1])))
    members = [known(folder, f"m{i}", *one) for i, one in enumerate(models)]
    made, _ = joined("union", members[0].tokenizer, members, (), "tokenizer")
    own = [(dict(one.tokenizer.tokens), set(one.tokenizer.added), one.n_rows) for one in members]
    assert list(made.tokens) == [*members[0].tokenizer.tokens, *joined_tokens(own)]
    base = 0 if has_base else None
    rows = find_rows(made, members, {}, base)
    n_padding = padding(made.n_rows, multiple)
    every = range(len(members))
    maps = [row_map(rows, i, every, n_padding, "w", members[i].label) for i in every]
    rng = np.random.default_rng(len(models))
    embeddings = [rng.standard_normal((n, 3)).astype(np.float32) for _, _, n in own]
    expected = aligned(
        made.tokens, embeddings, [tokens for tokens, _, _ in own], base=base, n_padding=n_padding
    )
    for found, right in zip(by_rows(maps, embeddings), expected, strict=True):
        np.testing.assert_array_equal(found, right)


@pytest.fixture
def pair(tmp_path: Path) -> list[Known]:
    """A base of three tokens, and a model with one more in another order."""
    return [known(tmp_path, "base", "abc", {}, 3), known(tmp_path, "chat", "cba", {"<x>": True}, 4)]


def union(members: list[Known], *tokens: str) -> Tokenizer:
    return joined("union", members[0].tokenizer, members, tokens, "tokenizer")[0]


def test_a_rule_gives_a_token_another_row(pair: list[Known]) -> None:
    made = union(pair, "<new>")
    number = {"base": 0, "chat": 1}
    rules = {
        token: rule(token, source, pair, number, is_forced=forced)
        for token, source, forced in (
            ("<new>", {"kind": "model_token", "model": "chat", "token": "a"}, False),
            ("<x>", {"kind": "zero"}, False),
            ("a", {"kind": "model_token", "model": "base", "token_id": 1}, True),
            ("b", "chat", False),
        )
    }
    rows = find_rows(made, pair, rules, 0)
    assert made.tokens == {"a": 0, "b": 1, "c": 2, "<x>": 3, "<new>": 4}
    assert [list(one) for one in rows.own] == [[-1, 1, 2, -1, -1], [-1, 1, 0, 3, -1]]
    assert rows.others == {0: ((0, 1),), 3: (), 4: ((1, 2),)}
    assert (rows.lacking, rows.averaged) == ((), ())


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("chat", ["'<new>' has no row in model 'chat', which has 4", "kind: zero"]),
        ("other", ["found model 'other'", "one of the merge: base, chat"]),
        ({"kind": "model_token", "model": "base", "token": "z"}, ["'z' has no row", "'base'"]),
        ({"kind": "model_token", "model": "base", "token_id": 3}, ["token_id 3", "which has 3"]),
    ],
)
def test_a_rule_for_a_row_that_is_not_there_is_refused(
    pair: list[Known], source: object, words: list[str]
) -> None:
    with pytest.raises(InputError) as refused:
        rule("<new>", source, pair, {"base": 0, "chat": 1}, is_forced=False)
    for word in ["tokens: '<new>'", *words]:
        assert word in str(refused.value)


@pytest.mark.parametrize("token", ["<new>", "a"])
def test_a_rule_without_a_source_is_refused_where_one_is_needed(
    pair: list[Known], token: str
) -> None:
    made = union(pair, "<new>")
    rules = {token: rule(token, None, pair, {}, is_forced=token == "a")}
    with pytest.raises(InputError, match=f"tokens: '{token}': has no source.*add 'source: MODEL'"):
        find_rows(made, pair, rules, 0)
    assert (
        find_rows(made, pair, {"a": rule("a", None, pair, {}, is_forced=False)}, 0).own[0][0] == 0
    )


def test_a_row_of_a_model_without_the_tensor_is_refused(pair: list[Known]) -> None:
    rows = find_rows(union(pair), pair, {}, 0)
    assert row_map(rows, 0, [0, 1], 0, "w", "base").means == {3: ((1, 3),)}
    with pytest.raises(InputError, match="tensor 'w': base needs row 3 of another model"):
        row_map(rows, 0, [0], 0, "w", "base")


def test_a_token_of_no_model_is_zeros(pair: list[Known]) -> None:
    rows = find_rows(union(pair, "<new>"), pair, {}, 0)
    assert rows.lacking == ("<new>",)
    assert row_map(rows, 1, [0, 1], 0, "w", "chat").means == {}


def test_maps_that_change_nothing_are_told(pair: list[Known]) -> None:
    made, _ = joined("base", pair[0].tokenizer, pair, (), "tokenizer")
    rows = find_rows(made, pair, {}, 0)
    assert is_identity(row_map(rows, 0, [0, 1], 0, "w", "base"), 3)
    assert not is_identity(row_map(rows, 0, [0, 1], 0, "w", "base"), 4)
    assert not is_identity(row_map(rows, 0, [0, 1], 1, "w", "base"), 3)
    assert not is_identity(row_map(rows, 1, [0, 1], 0, "w", "chat"), 3)
