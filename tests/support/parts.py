"""Models in memory whose surveys are taken in parts, and the parts added up."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeVar

import numpy as np
import numpy.typing as npt
from hypothesis import strategies as st

from tallies import _core
from tallies.spec.dtypes import DTYPE_CODES, DTYPE_OF_ARRAY

Array = npt.NDArray[Any]
LIMITS = _core.Limits(2, 1 << 14)
CHUNK = 2048


class Part(Protocol):
    """Lists the methods that the parts of all surveys have."""

    def to_bytes(self) -> bytes: ...


P = TypeVar("P", bound=Part)


class Model:
    """Some tensors of a base and two experts in memory, and the plan that reads them."""

    def __init__(self, seed: int, sizes: Sequence[int], dtype: Any = np.float32) -> None:
        rng = np.random.default_rng(seed)
        self.sizes = sizes
        self.plan = _core.Plan(True)
        self._memory: list[Array] = []
        for n in sizes:
            arrays = [_values(rng, n).astype(dtype) for _ in range(3)]
            self._memory += arrays
            self.plan.add_job(n, [_place(x) for x in arrays], [])

    def whole(self) -> list[_core.Slice]:
        """Every job."""
        return [_core.Slice(job=job) for job in range(len(self.sizes))]

    def cut(self, chooser: random.Random, grain: int = CHUNK) -> list[tuple[int, _core.Slice]]:
        """Every job in slices at random multiples of the grain, in random order."""
        found = []
        for job, n in enumerate(self.sizes):
            inner = range(grain, n, grain)
            ends = sorted(chooser.sample(inner, min(len(inner), chooser.randrange(4))))
            for first, last in zip([0, *ends], [*ends, n], strict=True):
                found.append((job, _core.Slice(job=job, first=first, n_elements=last - first)))
        chooser.shuffle(found)
        return found


def _values(rng: np.random.Generator, n: int) -> Array:
    """Return values of sizes from 2^-10 to 2^10, many of them equal or zero."""
    values = rng.standard_normal(n) * np.exp2(rng.integers(-10, 10, n))
    few = rng.choice(np.array([0.0, -0.0, 0.25, -0.25, 1.0]), n)
    return np.where(rng.random(n) < 0.5, few, values)


def _place(x: Array) -> tuple[int, int, int]:
    return (-1, x.ctypes.data, DTYPE_CODES[DTYPE_OF_ARRAY[x.dtype.name]])


def added(model: Model, seed: int, survey: Callable[[_core.Slice], P], kind: Any) -> list[P]:
    """The survey of each job from its parts, each on its way through bytes."""
    totals: dict[int, Any] = {}
    for job, piece in model.cut(random.Random(seed)):
        part = kind.from_bytes(survey(piece).to_bytes())
        if job in totals:
            totals[job] += part
        else:
            totals[job] = part
    return [totals[job] for job in range(len(model.sizes))]


MODELS = st.builds(
    Model,
    st.integers(0, 1 << 30),
    st.lists(st.integers(1, 9 * CHUNK), min_size=1, max_size=3),
    st.sampled_from([np.float32, np.float16]),
)


def job_alone(model: Model, job: int) -> Model:
    """Return a view of one job of a model."""
    view = Model.__new__(Model)
    view.__dict__ = {**model.__dict__, "sizes": [model.sizes[job]]}
    cut = model.cut
    view.cut = lambda chooser, grain=CHUNK: [  # type: ignore[method-assign]
        (0, piece) for of, piece in cut(chooser, grain) if of == job
    ]
    return view


def bits_of(values: Sequence[float]) -> bytes:
    return np.array(values).tobytes()
