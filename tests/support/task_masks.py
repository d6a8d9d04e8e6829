"""Masks and task vectors of whole models, for the tests of the stores' reference."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import numpy.typing as npt
from hypothesis import settings

from tests.reference import tall
from tests.reference.masks import unpack_bits
from tests.support import strategies
from tests.support.bits import assert_same_bits

Floats = npt.NDArray[np.float32]

BF16 = np.dtype(ml_dtypes.bfloat16)
LAMBDAS = (0.0, 0.4, 1.0, 6.0)

FEWER = settings(max_examples=50)
"""For whole models, which are slow to draw and hold several tensors each."""


def assert_same_model(actual: tall.Model, expected: tall.Model) -> None:
    assert list(actual) == list(expected)
    for name in expected:
        assert_same_bits(actual[name], expected[name])


def is_set(masks: tall.Masks, name: str, n: int) -> list[bool]:
    """The first `n` bits of one mask; the padding after them is clear."""
    assert masks[name].size == (n + 7) // 8
    assert not unpack_bits(masks[name], 8 * masks[name].size)[n:].any()
    return [bool(bit) for bit in unpack_bits(masks[name], n)]


def trained(models: strategies.Models) -> tuple[list[str], list[tall.Vector]]:
    """The trained names of a model drawn by hypothesis, and the task vectors."""
    names = tall.trained_names(models.base, models.experts)
    return names, tall.vectors(models.base, models.experts, names)
