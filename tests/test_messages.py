"""Values in messages are one short line."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tallies.messages import show
from tests.support.odd_json import odd_json


@given(st.text() | odd_json)
def test_show_is_one_short_line(value: object) -> None:
    assert show(value).isprintable()
    assert len(show(value)) < 500
