"""The exact selection of large arrays: the k-th magnitude, trims and masks."""

from __future__ import annotations

import numpy as np
import pytest

from tallies import kernels
from tests.reference import select
from tests.support.everywhere import assert_everywhere
from tests.support.hard_arrays import KINDS, N, array, descending, ranks


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
@pytest.mark.filterwarnings("ignore:overflow:RuntimeWarning")
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("kind", KINDS)
def test_kth_magnitude_of_a_large_array(kind: str, dtype: str) -> None:
    x = array(kind).astype(dtype)
    patterns = descending(kind, dtype)
    chosen = ranks(patterns)
    expected = patterns.view(np.float32)[[k - 1 for k in chosen]]
    assert_everywhere(
        lambda: np.array([kernels.kth_magnitude(x, k) for k in chosen], np.float32), expected, x
    )


@pytest.mark.parametrize("kind", KINDS)
def test_kth_magnitude_is_that_of_numpy(kind: str) -> None:
    x = array(kind)
    for k in (1, N // 3, N):
        expected = np.partition(np.abs(x), N - k)[N - k]  # NaN last
        assert np.array_equal(kernels.kth_magnitude(x, k), expected, equal_nan=True)


@pytest.mark.parametrize("kind", KINDS)
def test_trim_of_a_large_array_keeps_exactly_k_or_all_equal_ones(kind: str) -> None:
    x = array(kind)
    for density in (0.0001, 0.2, 0.5, 0.98):
        for equal in ("keep", "first"):
            expected = select.trim(x, density, equal)
            assert_everywhere(lambda d=density, e=equal: kernels.trim(x, d, equal=e), expected)  # type: ignore[misc]


@pytest.mark.parametrize("size", [65_535, 65_536, 65_537, 65_536 + 1024])
def test_selection_on_both_sides_of_the_size_that_is_read_whole(size: int) -> None:
    x = array("smooth")[:size]
    ordered = np.sort(np.abs(x))[::-1]
    chosen = [1, size // 4, size]
    assert_everywhere(
        lambda: np.array([kernels.kth_magnitude(x, k) for k in chosen], np.float32),
        ordered[[k - 1 for k in chosen]],
    )


def test_a_mask_of_the_kth_magnitude_has_k_bits_where_none_are_equal() -> None:
    x = np.random.default_rng(3).permutation(N).astype(np.float32)
    for k in (1, N // 5, N):
        mask = kernels.magnitude_mask(x, kernels.kth_magnitude(x, k))
        assert kernels.unpack_bits(mask, N).sum() == k
