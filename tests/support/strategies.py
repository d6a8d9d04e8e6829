"""Hypothesis strategies: inputs rich in equal magnitudes, cancellations, zeros and odd values."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
import numpy.typing as npt
from hypothesis import strategies as st

from tallies import _core
from tallies.spec import dtypes

Array = npt.NDArray[Any]

DTYPES = tuple(np.dtype(getattr(ml_dtypes, name, name)) for name in dtypes.DTYPE_OF_ARRAY)
"""Every format a checkpoint may hold."""

KERNEL_DTYPES = tuple(dtype for dtype in DTYPES if dtype.name in dtypes.KERNEL_DTYPES)
"""The formats of the kernels on arrays: float32, bfloat16, float16."""

FINITE_ATOMS = (0.0, -0.0, 1.0, -1.0, 0.5, -0.5, 1.5, -2.0, 0.0625, -0.3, 3e-3)
NONFINITE_ATOMS = (np.inf, -np.inf, np.nan, -np.nan)


class Group(NamedTuple):
    """A base and its experts, arrays of one shape and dtype."""

    base: Array
    experts: list[Array]


class Models(NamedTuple):
    """A base model and its experts: the same names, shapes and dtypes."""

    base: dict[str, Array]
    experts: list[dict[str, Array]]


def dtypes() -> st.SearchStrategy[np.dtype[Any]]:
    """One of `DTYPES`."""
    return st.sampled_from(DTYPES)


def sizes(min_size: int = 0, max_size: int = 200) -> st.SearchStrategy[int]:
    """Numbers of elements, mostly next to a multiple of 16 or 64, where vector loops end."""
    edges = [0, 1, 2, 3, 7, 8, 9]
    edges += [n + d for n in range(16, max_size + 2, 16) for d in (-1, 0, 1)]
    near = [n for n in edges if min_size <= n <= max_size] or [min_size]
    return st.sampled_from(near) | st.integers(min_size, max_size)


@st.composite
def arrays(
    draw: st.DrawFn,
    dtype: npt.DTypeLike = np.float32,
    min_size: int = 0,
    max_size: int = 200,
    nonfinite: bool = True,
) -> Array:
    """One-dimensional arrays: few values often repeated, any bit pattern, or a smooth spread.

    With `nonfinite=False` all are finite as float32; subnormals and -0 are always possible.
    """
    size = draw(sizes(min_size, max_size))
    return draw(_values(np.dtype(dtype), size, nonfinite))


@st.composite
def _values(draw: st.DrawFn, dtype: np.dtype[Any], size: int, nonfinite: bool) -> Array:
    kind = draw(st.sampled_from(["atoms", "atoms", "bits", "spread"]))
    if kind == "bits":
        return draw(_bit_patterns(dtype, size, nonfinite))
    if kind == "spread":
        return (_bytes(draw, size, np.int16) / 5000).astype(dtype)
    atoms = draw(_atoms(dtype, nonfinite))
    return atoms.take(_bytes(draw, size, np.uint8) % atoms.size)


@st.composite
def _atoms(draw: st.DrawFn, dtype: np.dtype[Any], nonfinite: bool) -> Array:
    """A small pool of values, so that an array drawn from it is full of equal magnitudes."""
    # Beyond float32's range a float64 is not finite to the library, which computes in float32.
    limited = np.float32 if dtype == np.float64 else dtype
    limits = ml_dtypes.finfo(limited)  # type: ignore[no-untyped-call]
    magnitudes = (limits.max, limits.tiny, limits.smallest_subnormal)
    extremes = [float(sign * value) for value in magnitudes for sign in (1, -1)]
    named = [*FINITE_ATOMS, *extremes, *(NONFINITE_ATOMS if nonfinite else ())]
    pool = draw(st.lists(st.sampled_from(named), min_size=1, max_size=6))
    odd = draw(_bit_patterns(dtype, draw(st.integers(0, 2)), nonfinite))
    with np.errstate(all="ignore"):
        return np.concatenate([np.array(pool).astype(dtype), odd])


@st.composite
def _bit_patterns(draw: st.DrawFn, dtype: np.dtype[Any], size: int, nonfinite: bool) -> Array:
    values = _bytes(draw, size, f"u{dtype.itemsize}").view(dtype)
    if not nonfinite:
        with np.errstate(all="ignore"):
            values[~np.isfinite(values.astype(np.float32))] = 0
    return values


def _bytes(draw: st.DrawFn, size: int, dtype: npt.DTypeLike) -> npt.NDArray[Any]:
    """`size` integers of any value; one draw of bytes is far quicker than a draw for each."""
    n_bytes = size * np.dtype(dtype).itemsize
    return np.frombuffer(draw(st.binary(min_size=n_bytes, max_size=n_bytes)), dtype).copy()


@st.composite
def groups(
    draw: st.DrawFn,
    dtype: npt.DTypeLike = np.float32,
    min_experts: int = 1,
    max_experts: int = 4,
    min_size: int = 0,
    max_size: int = 200,
    nonfinite: bool = True,
) -> Group:
    """A base and experts near it, one-dimensional.

    Most experts add -2 to 2 times one step to each element, so that task vectors repeat each
    other's magnitudes and cancel exactly. Some add noise with a full mantissa, so that every
    operation rounds, and some are unrelated to the base.
    """
    kind = np.dtype(dtype)
    base = draw(arrays(kind, min_size, max_size, nonfinite))
    n_experts = draw(st.integers(min_experts, max_experts))
    step = draw(st.sampled_from([0.5, 0.25, 0.0625, 1.0, 0.3]))
    experts = [draw(_expert(base, step, nonfinite)) for _ in range(n_experts)]
    return Group(base, experts)


@st.composite
def _expert(draw: st.DrawFn, base: Array, step: float, nonfinite: bool) -> Array:
    kind = draw(st.sampled_from(["steps", "steps", "noise", "unrelated"]))
    if kind == "unrelated":
        return draw(_values(base.dtype, base.size, nonfinite))
    if kind == "steps":
        delta = step * (_bytes(draw, base.size, np.uint8) % 5 - 2.0)
    else:
        delta = step * _bytes(draw, base.size, np.int16) / 30000
    with np.errstate(all="ignore"):
        expert = (base.astype(np.float64) + delta).astype(base.dtype)
        finite = np.isfinite(expert.astype(np.float32))
    return expert if nonfinite else np.where(finite, expert, base)


SHAPES = ((), (0,), (1,), (5,), (17,), (64,), (3, 5), (8, 16), (0, 4), (2, 3, 7))
NAMES = ("a.weight", "a.bias", "B", "layer.9.w", "layer.10.w", "z", "\N{GREEK SMALL LETTER OMEGA}")


@st.composite
def models(
    draw: st.DrawFn,
    among: Sequence[np.dtype[Any]] = DTYPES,
    min_experts: int = 1,
    max_experts: int = 4,
    nonfinite: bool = True,
) -> Models:
    """A base model of up to five tensors and its experts, tensor by tensor as `groups`.

    Shapes include scalars, empty tensors and several dimensions; each tensor has its own dtype.
    """
    n_experts = draw(st.integers(min_experts, max_experts))
    base: dict[str, Array] = {}
    experts: list[dict[str, Array]] = [{} for _ in range(n_experts)]
    for name in draw(st.lists(st.sampled_from(NAMES), max_size=5, unique=True)):
        shape = draw(st.sampled_from(SHAPES))
        size = int(np.prod(shape))
        group = draw(
            groups(draw(st.sampled_from(among)), n_experts, n_experts, size, size, nonfinite)
        )
        base[name] = group.base.reshape(shape)
        for expert, tensor in zip(experts, group.experts, strict=True):
            expert[name] = tensor.reshape(shape)
    return Models(base, experts)


def weights(n_experts: int) -> st.SearchStrategy[list[float] | None]:
    """One finite weight per expert, some zero, negative or cancelling each other, or None."""
    one = st.sampled_from([1.0, 0.5, 2.0, 0.3, -1.0, 0.0]) | st.floats(-4, 4, width=32)
    return st.none() | st.lists(one, min_size=n_experts, max_size=n_experts)


def densities() -> st.SearchStrategy[float]:
    """Shares to keep, from none to everything."""
    return st.sampled_from([0.0, 0.001, 0.2, 0.29, 0.5, 0.999, 1.0]) | st.floats(0, 1)


def scales() -> st.SearchStrategy[float]:
    """Multipliers of the merged task vector."""
    return st.sampled_from([1.0, 0.3, 0.0, -1.0, 1.5]) | st.floats(-3, 3, width=32)


@st.composite
def rules(draw: st.DrawFn, n_experts: int) -> dict[str, Any]:
    """Options of `combine`: a rule that is compiled, and what its parts leave to choose."""
    gate, vote, blend = draw(st.sampled_from(_core.rules()))
    options: dict[str, Any] = {
        "gate": gate,
        "vote": vote,
        "blend": blend,
        "weights": draw(weights(n_experts)),
        "scale": draw(scales()),
        "zero": draw(st.sampled_from(["majority", "positive", "negative", "drop"])),
    }
    if gate != "all":
        share = densities()
        options["density"] = draw(share | st.lists(share, min_size=n_experts, max_size=n_experts))
        options["equal"] = draw(st.sampled_from(["keep", "first"]))
    return options
