"""Random numbers and the kernels of stages against the reference."""

from __future__ import annotations

import doctest
from types import ModuleType

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tallies import _core
from tallies.engine import random_keys as chances
from tallies.engine import stages
from tests.reference import dare, random
from tests.reference.dtype import Array, Floats
from tests.support import strategies
from tests.support.everywhere import assert_everywhere

KEYS = st.integers(0, (1 << 64) - 1)
PERIOD = 1 << 32
FIRSTS = st.sampled_from([0, 1, 63, PERIOD - 300, PERIOD, 5 * PERIOD + 77])


@pytest.mark.parametrize("module", [chances, stages])
def test_doctests(module: ModuleType) -> None:
    failed, attempted = doctest.testmod(module)
    assert attempted and not failed


# The random numbers.


@given(KEYS, st.integers(0, 1000), st.text())
def test_keys_and_chances(seed: int, expert: int, tensor: str) -> None:
    assert chances.key(seed, expert, tensor) == random.key(seed, expert, tensor)
    assert 0 <= random.key(seed, expert, tensor) < 1 << 64


@given(strategies.densities())
def test_chances(probability: float) -> None:
    assert chances.chance(probability) == random.threshold(probability)


def test_the_numbers_are_uniform() -> None:
    """Chi-squared of 1024 bins is within six deviations of its mean, for every run of bits."""
    found = random.numbers(random.key(0, 0, "w"), 1 << 22)
    for shift in (0, 10, 20):
        counts = np.bincount((found >> np.uint32(shift)) & np.uint32(1023), minlength=1024)
        expected = found.size / 1024
        chi = float(((counts - expected) ** 2 / expected).sum())
        assert abs(chi - 1023) < 6 * (2 * 1023) ** 0.5, shift


def bits(seed: int, expert: int, n: int = 1 << 20, first: int = 0) -> Floats:
    """Fair coins as -1 and +1."""
    drawn = random.numbers(random.key(seed, expert, "w"), n, first) < random.threshold(0.5)
    return np.where(drawn, 1, -1).astype(np.float32)


@pytest.mark.parametrize("lag", [1, 2, 3, 8, 16, 64, 1024, 4096])
def test_neighbours_are_independent(lag: int) -> None:
    x = bits(0, 0)
    assert abs(float((x[lag:] * x[:-lag]).mean())) < 6 / (x.size - lag) ** 0.5


def test_experts_seeds_and_far_elements_are_independent() -> None:
    streams = [bits(0, 0), bits(0, 1), bits(0, 2), bits(1, 0), bits(0, 0, first=PERIOD)]
    n = streams[0].size
    for i, x in enumerate(streams):
        for y in streams[:i]:
            assert abs(float((x * y).mean())) < 6 / n**0.5


def test_a_bit_of_the_element_or_of_the_keys_low_half_changes_half_of_the_bits() -> None:
    key, n = random.key(0, 0, "w"), 1 << 14
    found = random.numbers(key, n)
    others = [random.numbers(key ^ (1 << bit), n) for bit in range(32)]
    others += [random.numbers(key, 2 * n)[np.arange(n) ^ (1 << bit)] for bit in range(14)]
    for other in others:
        changed = np.unpackbits((found ^ other).view(np.uint8)).mean() * 32 / 30
        assert 0.49 < changed < 0.51


# The kernel.


@given(strategies.arrays(), KEYS, FIRSTS, strategies.densities(), st.sampled_from([1.0, 3.0, 0.7]))
def test_the_kernel(x: Array, key: int, first: int, density: float, factor: float) -> None:
    if first < PERIOD <= first + x.size:
        first -= x.size
    expected = dare.dropped(x, dare.random_mask(x, density, key, first), factor)

    def compute() -> Array:
        found = x.copy()
        chance = chances.chance(density)
        _core.drop(found.ctypes.data, x.size, key, first, chance, factor)
        found[np.isnan(found)] = np.nan
        return found

    expected[np.isnan(expected)] = np.nan
    assert_everywhere(compute, expected, x)
