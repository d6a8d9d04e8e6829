"""The survey of inner products against the reference, bit for bit."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tallies import _core, cpu
from tallies.kernels.arguments import place
from tests.reference.survey import survey
from tests.reference.task_arithmetic import task_vectors
from tests.support import strategies

Array = npt.NDArray[Any]


def found(
    rows: list[Array], *, row_length: int, deltas: bool = False, threads: int = 1
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return the native survey's sums, laid out as the reference lays them out."""
    plan = _core.Plan(deltas)
    plan.add_job(rows[0].size, [place(row) for row in rows], [])
    limits = _core.Limits(threads, 1 << 14)
    (sums,) = plan.gram(
        tasks=[_core.GramTask(job=0, row_length=row_length)],
        deltas=deltas,
        with_magnitudes=True,
        limits=limits,
    )
    n = len(rows) - deltas
    n_products = n * (n + 1) // 2
    table = np.frombuffer(sums.table()).reshape(-1, n_products + n)
    products = np.empty((len(table), n, n))
    for k, (i, j) in enumerate(zip(*np.tril_indices(n), strict=True)):
        products[:, i, j] = products[:, j, i] = table[:, k]
    return products, table[:, n_products:]


def assert_same_numbers(one: npt.NDArray[np.float64], other: npt.NDArray[np.float64]) -> None:
    """Equal bits, whatever the sign of a NaN."""
    assert np.array_equal(np.isnan(one), np.isnan(other))
    assert (
        np.where(np.isnan(one), 0, one).tobytes() == np.where(np.isnan(other), 0, other).tobytes()
    )


@pytest.mark.parametrize("deltas", [False, True])
@given(strategies.groups(max_size=300), st.sampled_from([1, 3, 7, 64]))
@settings(max_examples=40)
def test_rows(deltas: bool, group: strategies.Group, row_length: int) -> None:
    n = group.base.size // row_length * row_length
    rows = [np.ascontiguousarray(row[:n]) for row in (group.base, *group.experts)]
    wide = task_vectors(rows[0], rows[1:]) if deltas else np.stack(rows)
    products, magnitudes = survey(wide, row_length)
    for target in cpu.targets():
        before = cpu.target()
        cpu.set_target(target)
        try:
            got = found(rows, row_length=row_length, deltas=deltas)
        finally:
            cpu.set_target(before)
        assert_same_numbers(got[0], products)
        assert_same_numbers(got[1], magnitudes)


@pytest.mark.parametrize("row_length", [9 * 2048 + 5, 2048, 4099, 5])
@pytest.mark.parametrize("n_vectors", [1, 2, 3, 4, 6])
def test_rows_longer_than_a_stretch(row_length: int, n_vectors: int, target: str) -> None:
    rng = np.random.default_rng(row_length)
    n = row_length * max(1, 10_000 // row_length)
    # Sizes from 1e-18 to 1e18: sums of float64 alone would depend on their order.
    sizes = np.exp2(rng.integers(-60, 60, (n_vectors, n)))
    rows = (rng.standard_normal((n_vectors, n)) * sizes).astype(np.float32)
    products, magnitudes = survey(rows, row_length)
    for threads in (1, 3):
        got = found(list(rows), row_length=row_length, threads=threads)
        assert_same_numbers(got[0], products)
        assert_same_numbers(got[1], magnitudes)


def test_sums_cancel_exactly() -> None:
    big, small = np.float32(2**60), np.float32(2**-60)
    x = np.zeros(3 * 2048, np.float32)
    x[0], x[2048], x[4096] = big, small, big
    y = np.zeros_like(x)
    y[0], y[2048], y[4096] = 1, 1, -1
    products, _ = found([x, y], row_length=x.size)
    assert products[0, 0, 1] == small


def test_all_signs_and_scales_of_sums() -> None:
    x = np.float32([-1e-45, 3e38, 0, -0.0])
    ones = np.ones_like(x)
    products, magnitudes = found([x, ones], row_length=1)
    assert products[:, 0, 1].tolist() == x.astype(np.float64).tolist()
    assert magnitudes[:, 0].tolist() == np.abs(x).astype(np.float64).tolist()


def test_empty_arrays_have_no_rows() -> None:
    products, magnitudes = found([np.zeros(0, np.float32)] * 2, row_length=1)
    assert products.size == magnitudes.size == 0
