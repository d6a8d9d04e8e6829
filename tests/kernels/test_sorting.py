"""The choice among equal magnitudes of an unstable sort, against the reference and torch."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tallies.errors import InputError
from tallies.kernels.sorting import keep_sorted_range
from tests.reference import introsort

Array = npt.NDArray[np.float32]
KINDS = {
    "few values": lambda rng, n: rng.integers(-3, 4, n),
    "rounded": lambda rng, n: np.round(rng.standard_normal(n) * 50),
    "normal": lambda rng, n: rng.standard_normal(n),
    "mostly zero": lambda rng, n: np.where(np.arange(n) % 7 == 0, -1.5, 0),
    "saw": lambda rng, n: np.arange(n) % max(n // 5, 1),
    "one value": lambda rng, n: np.full(n, 2.0),
}


def sorted_by_torch(x: Array, first: int, last: int, *, descending: bool) -> Array:
    magnitudes = torch.from_numpy(x).abs()
    order = torch.argsort(magnitudes, descending=descending)[first:last].numpy()
    out = np.zeros_like(x)
    out[order] = x[order]
    return out


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    n=st.one_of(st.integers(0, 40), st.integers(250, 1200)),
    places=st.tuples(st.floats(0, 1), st.floats(0, 1)),
    descending=st.booleans(),
)
def test_the_entries_kept_are_those_of_the_reference_and_of_torch(
    kind: str, seed: int, n: int, places: tuple[float, float], descending: bool
) -> None:
    x = np.asarray(KINDS[kind](np.random.default_rng(seed), n), np.float32)
    first, last = sorted(int(one * n) for one in places)
    out = np.full(n, 7, np.float32)
    n_left_out = keep_sorted_range(x, first, last, descending=descending, out=out)
    expected = introsort.kept(x, first, last, descending=descending)
    np.testing.assert_array_equal(out, expected)
    np.testing.assert_array_equal(out, sorted_by_torch(x, first, last, descending=descending))
    keys = np.sort(np.abs(x))[:: -1 if descending else 1]
    borders = {keys[first], keys[last - 1]} if first < last else set()
    assert n_left_out == sum(key in borders and not first <= i < last for i, key in enumerate(keys))


@pytest.mark.parametrize("descending", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_blocks_of_large_arrays_swap_as_one_entry_after_the_other(
    kind: str, descending: bool
) -> None:
    x = np.asarray(KINDS[kind](np.random.default_rng(5), 200_001), np.float32)
    expected = sorted_by_torch(x, 20_000, 90_000, descending=descending)
    keep_sorted_range(x, 20_000, 90_000, descending=descending)
    np.testing.assert_array_equal(x, expected)


def test_a_recursion_that_goes_too_deep_ends_as_in_torch() -> None:
    n = 4096
    half = n // 2
    killer = np.empty(n, np.float32)  # Musser's sequence, quadratic for a median of three
    for i in range(1, half + 1):
        killer[i - 1] = i if i % 2 else half + i - 1
        killer[half + i - 1] = 2 * i
    x = np.floor(killer / 3).astype(np.float32)
    expected = sorted_by_torch(x, 100, 2000, descending=False)
    keep_sorted_range(x, 100, 2000, descending=False)
    np.testing.assert_array_equal(x, expected)


def test_wrong_arrays_and_places_are_refused() -> None:
    x = np.zeros(4, np.float32)
    with pytest.raises(InputError, match="x: found float64 of 4 elements"):
        keep_sorted_range(np.zeros(4), 0, 1)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="out: found float32 of 3 elements"):
        keep_sorted_range(x, 0, 1, out=np.zeros(3, np.float32))
    with pytest.raises(InputError, match="x: found float32 of 2 elements"):
        keep_sorted_range(x[::2], 0, 1)
    with pytest.raises(InputError, match="places: found 3 to 2 of 4"):
        keep_sorted_range(x, 3, 2)
