"""Sizes are written as numbers of bytes or with a unit."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tallies.errors import InputError
from tallies.sizes import budget, parse_size


@pytest.mark.parametrize(
    ("size", "n_bytes"),
    [
        (1, 1),
        ("1", 1),
        ("123456", 123456),
        ("5GB", 5 * 10**9),
        ("1GiB", 2**30),
        ("256MiB", 2**28),
        ("1 TiB", 2**40),
        (" 2 tb ", 2 * 10**12),
        ("7kB", 7000),
        ("7KiB", 7168),
        ("1.5GiB", 3 * 2**29),
        ("0.3GB", 300_000_000),
        ("0.0015KB", 1),
    ],
)
def test_parse_size(size: str | int, n_bytes: int) -> None:
    assert parse_size(size) == n_bytes


@pytest.mark.parametrize(
    "size",
    [
        *(0, -1, 2**63, True, 1.5, None, b"1GB", "", "GB", "-1GB", "0GB", "0.1", "5G", "5B", "1e9"),
        *("1,5GB", "5 G B", "1GBs", "٣GB", "1GB\n1GB", "9" * 5000, "9999999999TB", "auto"),
    ],
)
def test_parse_size_refuses(size: Any) -> None:
    with pytest.raises(InputError, match="expected such as '5GB', '1GiB', '256MiB' or 1000000"):
        parse_size(size)


@given(st.integers(1, 2**62))
def test_a_budget_is_told_as_it_is_read(n_bytes: int) -> None:
    assert parse_size(budget(n_bytes)) <= n_bytes <= parse_size(budget(n_bytes, at_least=True))


@given(st.integers(1, 1023), st.sampled_from(["KiB", "MiB", "GiB", "TiB"]))
def test_a_round_budget_is_told_as_it_was_given(number: int, unit: str) -> None:
    text = f"{number}{unit}"
    assert budget(parse_size(text)) == budget(parse_size(text), at_least=True) == text
