"""Models in memory, merged and compared."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from hypothesis import strategies as st

from tests.support import strategies
from tests.support.everywhere import assert_same_bits
from tests.support.strategies import Models

Array = npt.NDArray[Any]

Dict = dict[str, Array]


def f32(*values: float) -> npt.NDArray[np.float32]:
    return np.array(values, np.float32)


def assert_same(actual: Mapping[str, Any], expected: Mapping[str, Array]) -> None:
    assert list(actual) == list(expected)
    for name, tensor in expected.items():
        assert_same_bits(actual[name], tensor)


def snapshot(*models: Mapping[str, Array]) -> list[bytes]:
    return [tensor.tobytes() for model in models for tensor in model.values()]


@st.composite
def mixed_models(draw: st.DrawFn) -> Models:
    """A base and experts in which every tensor has a dtype of its own."""
    models = draw(strategies.models())
    if draw(st.booleans()):
        return models
    with np.errstate(all="ignore"):
        experts = [
            {name: x.astype(draw(strategies.dtypes())) for name, x in expert.items()}
            for expert in models.experts
        ]
    return Models(models.base, experts)


def threads() -> st.SearchStrategy[int | None]:
    return st.sampled_from([None, 1, 2, 5])
