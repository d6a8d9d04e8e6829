"""Operands of jobs: their float32 values, in memory and tile by tile, against the reference."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tallies import _core
from tallies.engine.codes import PACKED_BITS
from tallies.kernels.arguments import place
from tests.reference import weighted
from tests.reference.dtype import narrow, widen
from tests.reference.scaled import scaled
from tests.support import strategies
from tests.support.everywhere import assert_everywhere, assert_same_bits

Array = npt.NDArray[Any]


class Blocks(NamedTuple):
    """A matrix of values, and a scale for each block of it."""

    values: Array
    scales: Array
    rows: int
    """The rows of a block."""
    columns: int

    @property
    def dense(self) -> npt.NDArray[np.float32]:
        return scaled(self.values, self.scales, self.rows, self.columns)

    def source(self, place_of: Callable[[Array], tuple[int, int, int]] = place) -> _core.Source:
        """State the blocks, of one row or column as of the whole, in the fewest words."""
        height, width = self.values.shape
        if self.rows >= height and self.columns >= width:
            return _core.Source.scaled(values=place_of(self.values), scales=place_of(self.scales))
        return _core.Source.scaled(
            values=place_of(self.values),
            scales=place_of(self.scales),
            row_length=width,
            block_rows=None if self.rows >= height else self.rows,
            block_columns=None if self.columns >= width else self.columns,
        )


@st.composite
def blocks(draw: st.DrawFn) -> Blocks:
    """Small and long rows; blocks that do not divide them; scales that are odd values as well."""
    height = draw(st.integers(1, 12) | st.sampled_from([40, 300]))
    width = draw(st.integers(1, 12) | st.sampled_from([63, 130, 257, 2049]))
    rows = draw(st.sampled_from([1, 2, 3, 128, height]))
    columns = draw(st.sampled_from([1, 2, 5, 128, width]))
    few = draw(strategies.arrays(draw(strategies.dtypes()), 1, 100))
    n_scales = (-(-height // rows), -(-width // columns))
    dtype = draw(st.sampled_from(strategies.KERNEL_DTYPES))
    scales = draw(strategies.arrays(dtype, 1, 30))
    return Blocks(
        np.resize(few, (height, width)), np.resize(scales, n_scales), min(rows, height), columns
    )


def decoded(source: _core.Source, n: int) -> npt.NDArray[np.float32]:
    out = np.empty(n, np.float32)
    source.decode(n_elements=n, threads=2, out=out.__array_interface__["data"][0])
    return out


@given(blocks())
@settings(max_examples=60)
def test_scaled_in_memory(one: Blocks) -> None:
    source, n = one.source(), one.values.size
    expected = narrow(one.dense, np.float32).ravel()
    assert_everywhere(lambda: decoded(source, n), expected, one.values, one.scales)


class Files:
    """Arrays in files of a plan: each in a file of its own, some bytes in."""

    def __init__(self, folder: Path, plan: _core.Plan) -> None:
        self._folder, self._plan, self._n = folder, plan, 0

    def place(self, array: Array) -> tuple[int, int, int]:
        path = self._folder / f"{self._n}"
        self._n += 1
        path.write_bytes(b"abc" + array.tobytes())
        code = place(array)[2] if array.dtype != np.uint8 else PACKED_BITS
        return self._plan.open_to_read(str(path)), 3, code


@pytest.mark.parametrize("dtype", [ml_dtypes.float8_e4m3fn, ml_dtypes.float8_e5m2, np.float16])
@pytest.mark.parametrize(
    ("shape", "block"),
    [
        ((300, 200), (128, 128)),
        ((257, 129), (128, 128)),
        ((100, 77), (1, 77)),
        ((100, 77), (100, 77)),
        ((3, 5000), (2, 64)),
        ((4000, 3), (128, 128)),
    ],
)
@pytest.mark.parametrize("n_threads", [1, 2])
def test_scaled_tile_by_tile(
    tmp_path: Path,
    target: str,
    dtype: npt.DTypeLike,
    shape: tuple[int, int],
    block: tuple[int, int],
    n_threads: int,
) -> None:
    """Tiles of 64 elements begin anywhere in a block; the last blocks are ragged."""
    rng = np.random.default_rng(shape[1])
    models = []
    for scale_dtype in (np.float32, ml_dtypes.bfloat16):
        values = rng.standard_normal(shape).astype(dtype)
        values.flat[::97] = np.nan
        values.flat[::31] = ml_dtypes.finfo(dtype).smallest_subnormal
        scales = rng.standard_normal([-(-n // size) for n, size in zip(shape, block, strict=True)])
        scales.flat[0], scales.flat[-1] = 1e-40, np.nan if scales.size > 2 else 3.0
        models.append(Blocks(values, scales.astype(scale_dtype), *block))
    base, expert = models
    for buffer_bytes in (1, 1 << 12, 1 << 20):
        plan = _core.Plan(True)
        files = Files(tmp_path, plan)
        out = np.empty(shape, np.float32)
        plan.add_job(out.size, [base.source(files.place), expert.source(files.place)], [])
        address = out.__array_interface__["data"][0]
        prints, nonfinite = _core.read_delta(
            plan, 0, 0, address, _core.Limits(n_threads, buffer_bytes)
        )
        assert nonfinite
        with np.errstate(all="ignore"):
            expected = narrow(expert.dense - base.dense, np.float32)
        assert_same_bits(narrow(out, np.float32), expected)
        for one, lanes in zip(models, prints, strict=True):
            address = one.values.__array_interface__["data"][0]
            assert lanes == _core.fingerprint(address, one.values.nbytes, 0)


@given(blocks(), st.sampled_from(strategies.KERNEL_DTYPES), st.integers(0, 2**32 - 1))
@settings(max_examples=20)
def test_a_delta_added_to_a_scaled_base(one: Blocks, dtype: Any, seed: int) -> None:
    n = one.values.size
    rng = np.random.default_rng(seed)
    delta = rng.standard_normal(n).astype(np.float32)
    mask = rng.random(n) < 0.4
    packed = np.packbits(mask, bitorder="little")
    stored = delta[mask].astype(dtype)
    address = packed.__array_interface__["data"][0]
    sources = {
        "plain": (_core.Source.plain(values=place(delta)), delta),
        "signs": (
            _core.Source.signs(mask=(-1, address, PACKED_BITS), scale=0.3),
            weighted.signs(packed, 0.3, n),
        ),
        "sparse": (
            _core.Source.sparse(
                values=place(stored),
                mask=(-1, address, PACKED_BITS),
                starts=_core.count_mask(mask=address, n_elements=n),
            ),
            weighted.sparse(packed, stored, n),
        ),
    }
    for source, values in sources.values():
        with np.errstate(all="ignore"):
            expected = narrow(one.dense.ravel() + widen(values), dtype)

        def restored(source: _core.Source = source) -> Array:
            out = np.empty(n, dtype)
            plan = _core.Plan(True)
            plan.add_job(n, [one.source(), source], [place(out)])
            _core.restore(plan, _core.Limits(2, 1 << 12))
            return out

        assert_everywhere(restored, expected, one.values, one.scales)


def test_a_source_that_replaces_the_base(tmp_path: Path) -> None:
    """Bits are copied, those of NaN and of -0 as well."""
    rng = np.random.default_rng(4)
    n = 200_000
    base, expert = rng.integers(0, 2**16, (2, n), np.uint16).view(np.float16)
    mask = rng.random(n) < 0.2
    packed = np.packbits(mask, bitorder="little")
    plan = _core.Plan(True)
    files = Files(tmp_path, plan)
    bits = files.place(packed)
    limits = _core.Limits(2, 1 << 16)
    (starts,) = _core.count_masks(plan, [(n, bits)], limits)
    assert starts.n_set == mask.sum()
    whole, part, copy = np.empty((3, n), np.float16)
    stored = files.place(expert[mask])
    sparse = _core.Source.sparse(values=stored, mask=bits, starts=starts, replaces=True)
    plain = _core.Source.plain(values=files.place(expert), replaces=True)
    place_of_base = files.place(base)
    plan.add_job(n, [place_of_base, plain], [place(whole)])
    plan.add_job(n, [place_of_base, sparse], [place(part)])
    plan.add_job(n, [place_of_base], [place(copy)])
    results = _core.restore(plan, limits)
    assert_same_bits(whole, expert)
    assert_same_bits(part, np.where(mask, expert.view(np.uint16), base.view(np.uint16)).view("f2"))
    assert_same_bits(copy, base)
    arrays = [(base, expert), (base, expert[mask], packed), (base,)]
    for result, inputs in zip(results, arrays, strict=True):
        assert not result.overflow
        for lanes, array in zip(result.inputs, inputs, strict=True):
            address = array.__array_interface__["data"][0]
            assert lanes == _core.fingerprint(address, array.nbytes, 0)


def test_bad_sources_are_refused() -> None:
    here, bits = (-1, 64, 0), (-1, 64, PACKED_BITS)
    scaled_source = _core.Source.scaled
    with pytest.raises(ValueError, match="found scales of dtype 4, expected float32"):
        scaled_source(values=here, scales=(-1, 64, 4))
    with pytest.raises(ValueError, match="found blocks without a row_length"):
        scaled_source(values=here, scales=here, block_rows=128)
    for name in ("row_length", "block_rows", "block_columns"):
        with pytest.raises(ValueError, match=f"found {name} 0, expected at least 1"):
            scaled_source(values=here, scales=here, **{"row_length": 8, name: 0})
    for code in (-1, 6):
        with pytest.raises(ValueError, match=f"found dtype {code}, expected 0 to 5"):
            _core.Source.plain(values=(-1, 64, code))
    with pytest.raises(ValueError, match="found dtype 0, expected -1, packed bits"):
        _core.Source.signs(mask=here, scale=1.0)
    plan = _core.Plan(True)
    rows = scaled_source(values=here, scales=here, row_length=8, block_rows=1)
    with pytest.raises(ValueError, match="found 20 elements in rows of 8, expected whole rows"):
        plan.add_job(20, [here, rows], [])
    with pytest.raises(ValueError, match="found file 0, expected one of the 0 that the plan has"):
        plan.add_job(16, [(0, 64, 0)], [])
    for grain in (0, 65):
        with pytest.raises(ValueError, match=f"found grain {grain}, expected a multiple of 64"):
            plan.add_job(16, [here], [], grain=grain)
    mask = np.zeros(2, np.uint8)
    address = mask.__array_interface__["data"][0]
    starts = _core.count_mask(mask=address, n_elements=16)
    few = _core.Source.sparse(values=here, mask=bits, starts=starts)
    with pytest.raises(ValueError, match="found counts of 1 groups of elements, expected 3"):
        plan.add_job(5000, [here, few], [])
    with pytest.raises(ValueError, match="found counts of 1 groups of elements, expected 3"):
        few.decode(n_elements=5000, threads=1, out=address)
    plan.add_job(16, [here, here, here], [here])
    with pytest.raises(ValueError, match="job 0: found 3 inputs and 1 outputs"):
        _core.restore(plan, _core.Limits(1, 1 << 12))
