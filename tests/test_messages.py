"""Values in messages are one short line."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tallies.messages import show, unknown, unknown_of_many
from tests.support.odd_json import odd_json


@given(st.text() | odd_json)
def test_show_is_one_short_line(value: object) -> None:
    assert show(value).isprintable()
    assert len(show(value)) < 500


@pytest.mark.parametrize("value", ["x" * 500, 10**300, Fraction(1, 3**400)])
def test_text_of_strangers_is_shown_on_one_bounded_line(value: object) -> None:
    assert len(show(value)) <= 120
    assert "\n" not in show("a\nb")


def test_a_name_among_none_few_and_many() -> None:
    assert unknown("density", []) == "'density' is not known (there are none)"
    few = ["bias", "weight"]
    assert unknown_of_many("wieght", few) == unknown("wieght", few)
    many = [f"layers.{i}.{part}.weight" for i in range(100) for part in ("up", "down")]
    said = unknown_of_many("layers.7.upp.weight", many)
    assert said.startswith("'layers.7.upp.weight' is not known (200 tensors; the nearest: ")
    assert "nearest: layers.7.up.weight, " in said
    assert len(unknown_of_many("x", many)) < 200
