"""Records: checks, defaults, problems by their places, copies and plain data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from tallies.recipe.fields import (
    by_key,
    each,
    entry,
    flag,
    mapping,
    optional,
    parameters,
    size_text,
    text,
    whole_number,
    word,
)
from tallies.recipe.record import Problems, Record, checked_by
from tallies.spec.choices import Semantics


class Part(Record):
    """A record within others."""

    name: str = checked_by(text)
    options: dict[str, Any] = checked_by(parameters, {})


def _below_seed(value: int, known: Mapping[str, Any]) -> int:
    if value >= known.get("seed", 10):
        raise ValueError(f"found {value}, expected less than the seed")
    return value


class Base(Record):
    """Keys that another class adds to."""

    last: bool = checked_by(flag, True)


class Whole(Base):
    """A record of every kind of key."""

    seed: int = checked_by(whole_number(0, 1 << 64), 7)
    below: int = checked_by(whole_number(0), 1, _below_seed)
    parts: tuple[Part, ...] = checked_by(each(entry(Part)), ())
    named: dict[str, Part] | None = checked_by(optional(by_key(entry(Part))), None)
    kind: Semantics = checked_by(word(Semantics), Semantics.PAPER)
    size: str | int = checked_by(size_text, "5GB")


def test_keys_of_bases_come_first() -> None:
    assert list(Whole.model_fields) == ["last", "seed", "below", "parts", "named", "kind", "size"]


def test_values_are_checked_and_defaults_are_not_shared() -> None:
    made = Whole(parts=[{"name": "a"}, Part(name="b")], kind="mergekit", last="no")
    assert [one.name for one in made.parts] == ["a", "b"]
    assert (made.kind, made.last, made.seed) == (Semantics.MERGEKIT, False, 7)
    made.parts[0].options["x"] = 1
    assert made.parts[1].options == {}
    assert made.model_fields_set == {"parts", "kind", "last"}


def test_all_problems_are_told_with_their_places() -> None:
    given = {
        "last": "perhaps",
        "seed": -1,
        "below": 12,
        "parts": [{"name": 3}, {}, "a"],
        "named": {"x": {"name": "y", "options": {1: 2}, "other": 0}},
        "size": True,
        "stray": 1,
    }
    with pytest.raises(Problems) as caught:
        Whole(**given)
    assert str(caught.value).split("; ") == [
        "last: found 'perhaps', expected true or false",
        "seed: found -1, expected 0 or more",
        "below: found 12, expected less than the seed",
        "parts[0].name: found 3, expected text",
        "parts[1].name: missing",
        "add it to the recipe",
        "parts[2]: found 'a', expected {model: DIR, parameters: ...}",
        "named.x.options: found 1, expected text as a key",
        "named.x.other: is no key",
        "remove it",
        "size: found True, expected a size such as 5GB",
        "stray: is no key",
        "remove it",
    ]


@pytest.mark.parametrize(
    ("check", "value", "words"),
    [
        (whole_number(0, 1 << 64), 1 << 64, "expected less than 2**64"),
        (whole_number(0), True, "expected an integer"),
        (whole_number(1), 1.0, "expected an integer"),
        (each(text), "ab", "expected a list"),
        (mapping, [], "expected a mapping"),
        (flag, 2, "expected true or false"),
        (flag, [], "expected true or false"),
        (word(Semantics), "papr", "did you mean 'paper'"),
    ],
)
def test_wrong_values_are_refused(check: Any, value: object, words: str) -> None:
    with pytest.raises(ValueError) as caught:
        check(value)
    assert words in str(caught.value)


def test_records_never_change_and_compare_by_their_values() -> None:
    one, other = Part(name="a"), Part(name="a", options={})
    assert one == other and one != Part(name="b") and one != Base()
    assert hash(Base()) == hash(Base(last=True)) and repr(Base()) == "Base(last=True)"
    with pytest.raises(AttributeError, match="never changes"):
        one.name = "b"
    assert one.name == "a"


def test_a_copy_has_other_values_and_names_them() -> None:
    made = Whole(seed=3)
    changed = made.model_copy(update={"kind": Semantics.PEFT})
    assert (made.kind, changed.kind, changed.seed) == (Semantics.PAPER, Semantics.PEFT, 3)
    assert changed.model_fields_set == {"seed", "kind"}


def test_plain_data() -> None:
    made = Whole(parts=[{"name": "a"}], kind="peft")
    assert made.model_dump(exclude_unset=True) == {
        "parts": ({"name": "a"},),
        "kind": Semantics.PEFT,
    }
    plain = made.model_dump(mode="json", exclude_none=True, exclude={"size"})
    assert plain == {
        "last": True,
        "seed": 7,
        "below": 1,
        "parts": [{"name": "a", "options": {}}],
        "kind": "peft",
    }
    assert type(plain["kind"]) is str
