"""Every pass takes every source: it finds what it finds of the same values as float32."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
import pytest

from tallies import _core
from tallies._core import Candidate, CombineTask, PackTask, Slice, Source, StageTask, Unit
from tallies.engine.codes import rule_codes
from tallies.engine.fingerprints import content_of
from tallies.kernels.arguments import place
from tallies.spec.rules import Blend, Gate, Rule, Vote
from tests.reference import weighted
from tests.reference.dtype import narrow
from tests.support.everywhere import assert_same_bits

from .test_sources import Blocks, Files

Array = npt.NDArray[Any]

HEIGHT, WIDTH = 300, 77
"""Rows of a length that is no multiple of 8 begin anywhere in a byte of a mask."""
N = HEIGHT * WIDTH
TIES = rule_codes(Rule(Gate.MAGNITUDE, Vote.SUM, Blend.MEAN_OF_AGREEING))
SUM = rule_codes(Rule(Gate.ALL, Vote.NONE, Blend.SUM))


class Model:
    """A base and experts in as many forms, in files, and their values as float32."""

    def __init__(self, folder: Path, *, nonfinite: bool) -> None:
        self.folder = folder
        rng = np.random.default_rng(11)
        self.base = self._blocks(rng, ml_dtypes.float8_e4m3fn, (128, 128), nonfinite)
        self.expert = self._blocks(rng, ml_dtypes.float8_e5m2, (1, WIDTH), nonfinite)
        self.whole = self._blocks(rng, ml_dtypes.float8_e4m3fn, (HEIGHT, WIDTH), False)
        self.values = rng.standard_normal(N).astype(ml_dtypes.bfloat16)
        self.mask = rng.random(N) < 0.3
        self.packed = np.packbits(self.mask, bitorder="little")
        self.stored = rng.standard_normal(int(self.mask.sum())).astype(np.float16)
        self.int8 = rng.integers(-127, 128, int(self.mask.sum())).astype(np.int8)
        self.scales = rng.random(HEIGHT).astype(np.float32)

    @staticmethod
    def _blocks(rng: Any, dtype: Any, block: tuple[int, int], nonfinite: bool) -> Blocks:
        # Few values, so that magnitudes of task vectors are often equal.
        values = (rng.integers(-12, 13, (HEIGHT, WIDTH)) / 4).astype(dtype)
        if nonfinite:
            values.flat[[5, 12_345]] = np.nan
        shape = [-(-n // size) for n, size in zip((HEIGHT, WIDTH), block, strict=True)]
        scales = (2.0 ** rng.integers(-2, 2, shape)).astype(ml_dtypes.bfloat16)
        return Blocks(values, scales, *block)

    def dense(self) -> list[Array]:
        rows = [self.base.dense, self.expert.dense, self.whole.dense]
        scales = np.repeat(self.scales, WIDTH)[self.mask]
        quantized = np.zeros(N, np.float32)
        quantized[self.mask] = self.int8.astype(np.float32) * scales
        return [
            *(row.ravel() for row in rows),
            weighted.masked(self.values, self.packed, 0.5),
            weighted.signs(self.packed, 0.25, N),
            weighted.sparse(self.packed, self.stored, N),
            quantized,
        ]

    def sources(self, plan: _core.Plan, limits: _core.Limits) -> list[Source]:
        files = Files(self.folder, plan)
        mask = files.place(self.packed)
        (starts,) = _core.count_masks(plan, [(N, mask)], limits)
        return [
            *(one.source(files.place) for one in (self.base, self.expert, self.whole)),
            Source.masked(values=files.place(self.values), mask=mask, scale=0.5),
            Source.signs(mask=mask, scale=0.25),
            Source.sparse(values=files.place(self.stored), mask=mask, starts=starts),
            Source.quantized(
                values=files.place(self.int8.view(ml_dtypes.float8_e4m3fn)),
                mask=mask,
                scales=files.place(self.scales),
                starts=starts,
                row_length=WIDTH,
            ),
        ]


def plan_of(
    model: Model, outputs: list[Array], limits: _core.Limits, *, dense: bool, apart: bool = False
) -> tuple[_core.Plan, list[Array]]:
    """Return a plan of one job, and the arrays that must stay alive."""
    plan = _core.Plan(True)
    rows = model.dense() if dense else []
    inputs = [place(row) for row in rows] if dense else model.sources(plan, limits)
    places = [(-1, out.ctypes.data, -1) if out.dtype == np.uint8 else place(out) for out in outputs]
    plan.add_job(N, inputs, places, apart)
    return plan, rows


def surveys(plan: _core.Plan, limits: _core.Limits, part: Slice, n_experts: int) -> list[object]:
    (thresholds,) = plan.select(
        units=[Unit(jobs=[0], ranks=[N // 5] * n_experts)], locate=True, limits=limits
    )
    band = _core.RowBand(n_outliers=3, n_kept=20)
    draw = _core.Draw(key=7, chance=1 << 29, factor=2.0)
    sums = plan.stage_sums(
        tasks=[
            StageTask(job=0, stages=[band] * n_experts, row_length=WIDTH),
            StageTask(job=part, stages=[draw] * n_experts),
        ],
        limits=limits,
    )
    tasks = [_core.GramTask(job=0, row_length=n) for n in (WIDTH, N)]
    grams = [
        plan.gram(tasks=tasks, deltas=deltas, with_magnitudes=True, limits=limits)
        for deltas in (False, True)
    ]
    overlaps = plan.count_overlap(jobs=[0, part], floor=0x3F000000, limits=limits)
    squares = plan.sum_squares(
        tasks=[_core.VarianceTask(job=0, floor=0x3F000000, cutoff=N)], limits=limits
    )
    return [
        [(one.bits, one.n_above, one.n_equal, one.last_count) for one in thresholds],
        [one.to_bytes() for one in sums],
        [[one.table() for one in row] for row in grams],
        [(one.alone, one.shared) for one in overlaps],
        [one.to_bytes() for one in squares],
        [plan.find_nonfinite(job=0, input=i, limits=limits) for i in range(n_experts + 1)],
    ]


@pytest.mark.parametrize("limits", [(1, 1 << 20), (2, 1 << 12), (2, 1)])
def test_surveys(tmp_path: Path, target: str, limits: tuple[int, int]) -> None:
    model, how = Model(tmp_path, nonfinite=False), _core.Limits(*limits)
    part = Slice(job=0, n_elements=64 * 100)
    plan, kept = plan_of(model, [], how, dense=True)
    expected = surveys(plan, how, part, 6)
    del kept
    plan, _ = plan_of(model, [], how, dense=False)
    assert surveys(plan, how, part, 6) == expected
    # Values of a sparse tensor are found by its strips of 65536 elements.
    with pytest.raises(ValueError, match="first: found 2048, expected a multiple of 65536"):
        plan.count_overlap(jobs=[Slice(job=0, first=2048)], floor=0, limits=how)


def test_slices_of_scaled_tensors(tmp_path: Path, target: str) -> None:
    """A slice begins within a block; what it finds is that of the same elements as float32."""
    model, how = Model(tmp_path, nonfinite=False), _core.Limits(2, 1 << 12)
    part = Slice(job=0, first=2 * 2048, n_elements=64 * 100)
    found = []
    for dense in (True, False):
        plan = _core.Plan(True)
        files = Files(tmp_path, plan)
        rows = [model.base, model.expert, model.whole]
        kept = [row.dense.ravel() for row in rows]
        places = [place(row) for row in kept]
        plan.add_job(N, places if dense else [row.source(files.place) for row in rows], [])
        found.append(surveys(plan, how, part, 2))
        del kept
    assert found[0] == found[1]


def test_what_is_not_finite_is_found(tmp_path: Path) -> None:
    model, how = Model(tmp_path, nonfinite=True), _core.Limits(2, 1 << 12)
    plan, _ = plan_of(model, [], how, dense=False)
    found = [plan.find_nonfinite(job=0, input=i, limits=how) for i in range(7)]
    assert found == [(2, 5), (2, 5), *[(0, 0)] * 5]


@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn])
@pytest.mark.parametrize("rule", [TIES, SUM])
@pytest.mark.parametrize("n_threads", [1, 2])
def test_combine(tmp_path: Path, target: str, dtype: Any, rule: Any, n_threads: int) -> None:
    model, how = Model(tmp_path, nonfinite=True), _core.Limits(n_threads, 1 << 13)
    candidate = Candidate(
        weights=[1.0, 0.5, 2.0, 1.0, 0.25, 1.0],
        floors=[0x3F000000] * 6,
        cutoffs=[1000, N, N, N, 0, N],
        divisor=5.75,
        zero_sign=1,
    )
    band = _core.RowBand(n_outliers=3, n_kept=20)
    staged = {"stages": [band] * 6, "row_length": WIDTH}
    for extra in ({}, staged, {"lambdas": [0.3] * 6, "at_least": 2}):
        outs, counts = [], []
        for dense in (True, False):
            out = np.zeros(N, dtype)
            plan, rows = plan_of(model, [out], how, dense=dense)
            task = CombineTask(job=0, candidates=[candidate], **extra)  # type: ignore[arg-type]
            (result,) = plan.combine(
                tasks=[task],
                gate=rule[0],
                vote=rule[1],
                blend=rule[2],
                fingerprints=True,
                limits=how,
            )
            (one,) = result.candidates
            outs.append(out)
            counts.append((one.sign_sum, one.conflicts, one.cancellations, one.overflow))
            if not dense:
                for blocks, lanes in zip((model.base, model.expert), result.inputs, strict=False):
                    address = blocks.values.ctypes.data
                    assert lanes == _core.fingerprint(address, blocks.values.nbytes, 0)
            del rows
        assert counts[0] == counts[1]
        assert_same_bits(outs[1], outs[0])


@pytest.mark.parametrize("n_threads", [1, 2])
def test_pack(tmp_path: Path, target: str, n_threads: int) -> None:
    model, how = Model(tmp_path, nonfinite=True), _core.Limits(n_threads, 1 << 14)
    found = []
    for dense in (True, False):
        shared = np.zeros(N, ml_dtypes.bfloat16)
        masks = [np.zeros((N + 7) // 8, np.uint8) for _ in range(6)]
        plan, rows = plan_of(model, [shared, *masks], how, dense=dense, apart=True)
        candidate = Candidate(weights=[1.0] * 6, floors=[-1] * 6, cutoffs=[N] * 6)
        task = PackTask(job=0, shared=candidate, lambdas=[0.4] * 6)
        (result,) = _core.pack(
            plan=plan,
            tasks=[task],
            shared=SUM,
            mask=0,
            with_sums=False,
            stop_at_overflow=False,
            limits=how,
        )
        del rows
        found.append([shared.tobytes(), [mask.tobytes() for mask in masks], result.n_set])
    assert found[0] == found[1]


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16], ids=str)
@pytest.mark.parametrize("limits", [(1, 1 << 20), (2, 1 << 12), (2, 1)])
def test_a_source_restored_alone_is_rounded(
    tmp_path: Path, target: str, limits: tuple[int, int], dtype: Any
) -> None:
    model, how = Model(tmp_path, nonfinite=True), _core.Limits(*limits)
    plan = _core.Plan(True)
    sources = model.sources(plan, how)
    outputs = [np.empty(N, dtype) for _ in sources]
    for source, out in zip(sources, outputs, strict=True):
        plan.add_job(N, [source], [place(out)])
    results = _core.restore(plan, how)
    for row, out, result in zip(model.dense(), outputs, results, strict=True):
        assert_same_bits(out, narrow(row, dtype))
        assert result.output == content_of(out.tobytes())
