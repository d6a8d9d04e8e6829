"""Values in messages are one short line."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tallies.messages import show
from tests.support.odd_json import odd_json


@given(st.text() | odd_json)
def test_show_is_one_short_line(value: object) -> None:
    assert show(value).isprintable()
    assert len(show(value)) < 500


@pytest.mark.parametrize("value", ["x" * 500, 10**300, Fraction(1, 3**400)])
def test_text_of_strangers_is_shown_on_one_bounded_line(value: object) -> None:
    assert len(show(value)) <= 120
    assert "\n" not in show("a\nb")
