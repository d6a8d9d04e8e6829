"""Changes of sources: their float32 values, in memory and tile by tile, against the reference."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tallies import _core
from tallies._core import Change, Limits, Source
from tallies.kernels.arguments import place
from tests.reference.dtype import narrow, widen
from tests.support import changed_matrices as make
from tests.support.changed_matrices import Changed, changed
from tests.support.everywhere import assert_everywhere, assert_same_bits

from .test_sources import Files, decoded

Array = npt.NDArray[Any]


@given(changed())
@settings(max_examples=150)
def test_changes_in_memory(one: Changed) -> None:
    source = Source.changed(source=place(one.values), changes=one.changes(place))
    expected = narrow(one.dense, np.float32).ravel()
    assert_everywhere(lambda: decoded(source, one.values.size), expected, one.values)


@given(changed(), st.sampled_from([1, 1 << 12, 1 << 20]), st.integers(1, 2))
@settings(max_examples=100)
def test_changes_tile_by_tile(one: Changed, buffer_bytes: int, n_threads: int) -> None:
    """The changes of zeros are a task vector; tiles of 64 elements begin anywhere in a row."""
    with tempfile.TemporaryDirectory() as folder:
        plan = _core.Plan(True)
        files = Files(Path(folder), plan)
        zeros = Changed(np.zeros_like(one.values), one.steps)
        changes = one.changes(files.place)
        base = files.place(one.values)
        for source, of in ((base, one), (Source.zero(), zeros)):
            expert = Source.changed(source=source, changes=changes)
            plan.add_job(one.values.size, [base, expert], [])
            out = np.empty(one.values.shape, np.float32)
            job = 0 if of is one else 1
            prints, _ = _core.read_delta(
                plan, job, 0, out.ctypes.data, Limits(n_threads, buffer_bytes)
            )
            with np.errstate(all="ignore"):
                expected = narrow(of.dense - widen(one.values), np.float32)
            assert_same_bits(narrow(out, np.float32), expected)
            stored = _core.fingerprint(one.values.ctypes.data, one.values.nbytes, 0)
            assert prints == [stored, stored if of is one else [0] * 8]


@given(changed(), st.data())
@settings(max_examples=60)
def test_a_job_of_the_rest_of_a_changed_tensor(one: Changed, data: st.DataObject) -> None:
    first = data.draw(st.integers(0, one.values.size - 1))
    n = data.draw(st.integers(1, one.values.size - first))
    rest = one.values.ravel()[first:]
    source = Source.changed(source=place(rest), changes=one.changes(place), first=first)
    expected = narrow(one.dense.ravel()[first : first + n], np.float32)
    assert_same_bits(decoded(source, n), expected)


@pytest.mark.parametrize("n_columns", [1, 2, 3, 64])
@pytest.mark.parametrize("indices", [[0, 7], [3, 7], [7], [1, 2]])
@pytest.mark.parametrize("added", [False, True])
def test_a_job_that_begins_behind_changed_rows(
    n_columns: int, indices: list[int], added: bool
) -> None:
    """Rows of one element too: their records are found by the rows that have one, not by number."""
    values = np.arange(1, len(indices) * n_columns + 1, dtype=np.float32).reshape(-1, n_columns)
    zeros = np.zeros((8, n_columns), np.float32)
    one = Changed(zeros, [make.rows(indices, values, added=added)])
    dense = one.dense.ravel()
    for first in range(zeros.size):
        rest = zeros.ravel()[first:]
        source = Source.changed(source=place(rest), changes=one.changes(place), first=first)
        for n in {1, min(n_columns, rest.size), rest.size}:
            assert_same_bits(decoded(source, n), dense[first : first + n])


@pytest.mark.parametrize("shape", [(700, 300), (9, 70_000), (3, 200_000), (5000, 8)])
@pytest.mark.parametrize("limits", [(1, 1 << 24), (2, 1 << 18), (2, 1)])
def test_large_matrices(
    tmp_path: Path, target: str, shape: tuple[int, int], limits: tuple[int, int]
) -> None:
    """Windows end within tiles; rows are longer than windows and shorter than chunks."""
    rng = np.random.default_rng(shape[0])

    def normal(*size: int) -> Array:
        return rng.standard_normal(size).astype(np.float32)

    rows, columns = shape
    steps = [
        make.product(normal(rows, 5), normal(5, columns), 0.3),
        make.product(normal(rows - 2, 3), normal(3, columns), 2.0, 1),
        make.added(normal(rows, columns), 0.5),
        make.row_factors(normal(rows), columns),
    ]
    base, expert = Changed(normal(*shape), steps[:1]), Changed(normal(*shape), steps)
    plan = _core.Plan(True)
    files = Files(tmp_path, plan)
    sources = [
        Source.changed(source=files.place(one.values), changes=one.changes(files.place))
        for one in (base, expert)
    ]
    plan.add_job(base.values.size, sources, [])
    out = np.empty(shape, np.float32)
    _core.read_delta(plan, 0, 0, out.ctypes.data, Limits(*limits))
    assert_same_bits(out, expert.dense - base.dense)


def test_a_delta_added_to_a_changed_base() -> None:
    rng = np.random.default_rng(2)
    base = Changed(
        rng.standard_normal((30, 70)).astype(np.float16),
        [
            make.product(
                rng.standard_normal((30, 4)).astype(np.float32),
                rng.standard_normal((4, 70)).astype(np.float32),
                0.25,
            )
        ],
    )
    delta = rng.standard_normal((30, 70)).astype(np.float32)
    out = np.empty((30, 70), np.float16)
    plan = _core.Plan(True)
    source = Source.changed(source=place(base.values), changes=base.changes(place))
    plan.add_job(2100, [source, place(delta)], [place(out)])
    _core.restore(plan, Limits(2, 1 << 9))
    assert_same_bits(out, narrow(base.dense + delta, np.float16))
    plan = _core.Plan(True)
    plan.add_job(2100, [source], [place(out)])
    _core.restore(plan, Limits(1, 1 << 12))
    assert_same_bits(out, narrow(base.dense, np.float16))


def test_bad_changes_are_refused() -> None:
    here = (-1, 64, 0)
    product = Change.product(left=here, right=here, rank=2, columns=4)
    with pytest.raises(ValueError, match="found no changes, expected one or more"):
        Source.changed(source=here, changes=[])
    once = Source.changed(source=here, changes=[product])
    with pytest.raises(ValueError, match="found a source with changes, expected all changes toge"):
        Source.changed(source=once, changes=[product])
    for words in ({"rank": 0}, {"columns": 0}, {"matrix_rows": 0}, {"n_rows": 0}):
        with pytest.raises(ValueError, match=f"found {next(iter(words))} 0, expected"):
            Change.product(**{"left": here, "right": here, "rank": 2, "columns": 4, **words})  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="found matrix_rows and a first_row, expected one of them"):
        Change.product(left=here, right=here, rank=2, columns=4, matrix_rows=2, first_row=1)
    wide = Change.product(left=here, right=here, rank=2, columns=5)
    with pytest.raises(ValueError, match="found products of different rows or columns"):
        Change.hadamard(a=product, b=wide)
    with pytest.raises(ValueError, match="found b of another form, expected Change"):
        Change.hadamard(a=product, b=Change.added(values=here))
    with pytest.raises(ValueError, match="found a product of 5 columns, expected 4"):
        Change.kronecker(left=wide, right=here, left_shape=(2, 4), right_shape=(2, 2))
    for indices in ([], [2, 1], [1, 1]):
        with pytest.raises(
            ValueError, match="found indices, expected ascending ones, at least one"
        ):
            Change.rows(indices=indices, values=here, columns=4)
    with pytest.raises(ValueError, match="found dtype -1, expected 0 to 5"):
        Change.added(values=(-1, 64, -1))
