"""The pass that compares, against the reference to the bit, on all instruction sets."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tallies import _core
from tallies.kernels.arguments import place
from tests.reference import differences as reference
from tests.support import strategies
from tests.support.everywhere import assert_same_bits, on_every_target
from tests.support.parts import CHUNK, bits_of

Array = npt.NDArray[Any]

CODES = {1: 4, 2: 1, 4: 0, 8: 3}
"""A dtype of the engine of each size, which stands for whole numbers of that size."""
INTEGERS = [np.dtype(f"{kind}{size}") for kind in "iu" for size in CODES]


def compared(
    a: Array,
    b: Array,
    *,
    threads: int = 1,
    buffer: int = 1 << 14,
    first: int = 0,
    end: int | None = None,
) -> _core.Differences:
    """The native findings, of the elements from ``first`` to ``end``."""
    plan = _core.Plan(False)
    is_whole = a.dtype.kind in "iub"
    elements = 0 if not is_whole else 1 if a.dtype.kind == "i" else 2
    rows = [np.ascontiguousarray(one) for one in (a, b)]
    if is_whole:
        places = [(-1, row.ctypes.data, CODES[row.itemsize]) for row in rows]
    else:
        places = [place(row) for row in rows]
    plan.add_job(a.size, places, [])
    task = _core.CompareTask(
        job=_core.Slice(job=0, first=first, n_elements=(a.size if end is None else end) - first),
        elements=elements,
    )
    (found,) = plan.compare(tasks=[task], limits=_core.Limits(threads, buffer))
    return found


def numbers(found: _core.Differences) -> tuple[object, ...]:
    """All findings, floats by their bits."""
    counts = (found.n_different, found.n_nonfinite, found.n_flips)
    return (*counts, bits_of([found.largest, *found.sums]))


def expected(a: Array, b: Array) -> tuple[object, ...]:
    one = reference.differences(a, b)
    return (one.n_different, one.n_nonfinite, one.n_flips, bits_of([one.largest, *one.sums]))


def changed(draw: st.DrawFn, a: Array, other: Array) -> Array:
    """``a`` where a coin says so, else ``other``: most models change in few elements."""
    coins = np.frombuffer(draw(st.binary(min_size=a.size, max_size=a.size)), np.uint8)
    return np.where(coins % 4 > 0, a, other).astype(a.dtype)


@st.composite
def pairs(draw: st.DrawFn, dtype: np.dtype[Any]) -> tuple[Array, Array]:
    group = draw(strategies.groups(dtype, max_experts=1))
    return group.base, changed(draw, group.base, group.experts[0])


@given(pairs(np.dtype(np.float32)))
def test_the_kernel(pair: tuple[Array, Array]) -> None:
    a, b = pair
    wanted = reference.contrast(a, b)

    def compute() -> tuple[list[int], Array]:
        delta = np.full_like(a, np.nan)
        return _core.contrast(a.ctypes.data, b.ctypes.data, delta.ctypes.data, a.size), delta

    for counts, delta in on_every_target(compute).values():
        assert counts == [*wanted[:2], int(wanted.largest.view(np.uint32))]
        assert_same_bits(delta, wanted.delta)


@given(strategies.dtypes().flatmap(pairs))
def test_floats(pair: tuple[Array, Array]) -> None:
    for found in on_every_target(lambda: numbers(compared(*pair))).values():
        assert found == expected(*pair)


@given(strategies.dtypes().flatmap(pairs), strategies.dtypes())
def test_floats_of_two_types(pair: tuple[Array, Array], other: np.dtype[Any]) -> None:
    with np.errstate(all="ignore"):
        a, b = pair[0], pair[1].astype(other)
    assert numbers(compared(a, b)) == expected(a, b)


def test_a_signaling_nan_of_float16_becomes_quiet() -> None:
    a = np.array([0x7C01, 0xFD55, 0x7E01], np.uint16).view(np.float16)
    quiet = np.array([0x7FC0_2000, 0xFFEA_A000, 0x7FC0_2000], np.uint32).view(np.float32)
    for found in on_every_target(lambda: numbers(compared(a, quiet))).values():
        assert found == expected(a, quiet)
        assert found[0] == 0


@pytest.mark.parametrize("dtype", INTEGERS, ids=str)
@given(st.data())
@settings(max_examples=20)
def test_whole_numbers(dtype: np.dtype[Any], data: st.DataObject) -> None:
    size = data.draw(strategies.sizes())
    draw = st.binary(min_size=size * dtype.itemsize, max_size=size * dtype.itemsize)
    a, other = (np.frombuffer(data.draw(draw), dtype) for _ in range(2))
    coins = np.frombuffer(data.draw(st.binary(min_size=size, max_size=size)), np.uint8)
    b = np.where(coins % 4 > 0, a, other)
    assert numbers(compared(a, b)) == expected(a, b)


@pytest.mark.parametrize("name", ["float32", "bfloat16", "float8_e5m2", "int16", "uint8"])
def test_large_tensors_whatever_threads_and_buffers(name: str, target: str) -> None:
    dtype = np.dtype(getattr(ml_dtypes, name, name))
    rng = np.random.default_rng(5)
    n = 9 * CHUNK + 77
    sizes = np.exp2(rng.integers(-6, 6, n))
    a = (rng.standard_normal(n) * sizes).astype(dtype)
    b = np.where(rng.random(n) < 0.01, (rng.standard_normal(n) * sizes).astype(dtype), a)
    wanted = expected(a, b)
    for threads, buffer in ((1, 1 << 14), (3, 1 << 12), (2, 1 << 20)):
        assert numbers(compared(a, b, threads=threads, buffer=buffer)) == wanted


@given(st.integers(1, 9 * CHUNK), st.integers(0, 1 << 30))
@settings(max_examples=25, deadline=None)
def test_parts_add_up(n: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    a, b = (rng.standard_normal(n).astype(np.float32) for _ in range(2))
    b = np.where(rng.random(n) < 0.5, a, b)
    cut = int(rng.integers(0, n)) // CHUNK * CHUNK
    first, last = compared(a, b, end=cut), compared(a, b, first=cut)
    total = _core.Differences.from_bytes(last.to_bytes())
    total += _core.Differences.from_bytes(first.to_bytes())
    assert numbers(total) == numbers(compared(a, b))
    with pytest.raises(ValueError, match="bytes of a survey: found"):
        _core.Differences.from_bytes(total.to_bytes()[:-1])


def test_jobs_of_other_inputs_are_refused() -> None:
    x = np.zeros(8, np.float32)
    plan = _core.Plan(False)
    for n in (1, 3):
        plan.add_job(x.size, [place(x)] * n, [])
    plan.add_job(4, [place(x), (-1, x.ctypes.data, 1)], [])
    limits = _core.Limits(1, 1 << 14)
    for job in (0, 1):
        with pytest.raises(ValueError, match=r"inputs: found .*, expected 2"):
            plan.compare(tasks=[_core.CompareTask(job=job)], limits=limits)
    with pytest.raises(ValueError, match="elements: found whole numbers"):
        plan.compare(tasks=[_core.CompareTask(job=2, elements=1)], limits=limits)
    with pytest.raises(ValueError, match="elements: found 3"):
        _core.CompareTask(job=2, elements=3)
