"""Sources in other rows: each pass finds and writes what it does of the same rows in a file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
import pytest

from tallies import _core
from tallies._core import Candidate, CombineTask, Limits, Plan, Slice, Source, StoredRows
from tallies.kernels.arguments import place
from tests.support.everywhere import assert_same_bits

from .test_source_passes import TIES, surveys
from .test_sources import Blocks, Files

HEIGHT, WIDTH = 300, 77
N = HEIGHT * WIDTH
BF16 = np.dtype(ml_dtypes.bfloat16)
Array = npt.NDArray[Any]


class Rows:
    """Models in other rows, in files or in memory, and those rows as arrays of their own."""

    def __init__(self) -> None:
        rng = np.random.default_rng(3)
        self.numbers = [rng.integers(-1, n, HEIGHT).tolist() for n in (200, 400, 90)]
        self.numbers[0][:100] = range(100)  # neighbours are read together
        values = [(rng.integers(-12, 13, (n, WIDTH)) / 4) for n in (200, 400, 90)]
        self.plain = [values[0].astype(BF16), values[1].astype(BF16)]
        scales = (2.0 ** rng.integers(-2, 2, (6, 5))).astype(np.float32)
        self.scaled = Blocks(values[2].astype(ml_dtypes.float8_e4m3fn), scales, 16, 16)

    def dense(self) -> list[Array]:
        wide = [*self.plain, self.scaled.dense]
        return [
            np.concatenate([one, np.zeros((1, WIDTH), one.dtype)])[numbers]
            for one, numbers in zip(wide, self.numbers, strict=True)
        ]

    def sources(self, place_of: Any) -> list[Source]:
        rows = [StoredRows(numbers) for numbers in self.numbers]
        stated = [*map(place_of, self.plain), self.scaled.source(place_of)]
        return [
            Source.gathered(source=one, rows=its, columns=WIDTH)
            for one, its in zip(stated, rows, strict=True)
        ]


@pytest.mark.parametrize("limits", [(1, 1 << 20), (2, 1 << 12), (2, 1)])
@pytest.mark.parametrize("in_files", [True, False])
def test_surveys(tmp_path: Path, limits: tuple[int, int], in_files: bool) -> None:
    model, how, found = Rows(), Limits(*limits), []
    part, dense = Slice(job=0, first=2 * 2048, n_elements=64 * 100), model.dense()
    for gathered in (False, True):
        plan = Plan(True)
        place_of = Files(tmp_path, plan).place if in_files else place
        plan.add_job(N, model.sources(place_of) if gathered else [*map(place, dense)], [])
        found.append(surveys(plan, how, part, 2))
    assert found[0] == found[1]


@pytest.mark.parametrize("n_experts", [1, 2])
@pytest.mark.parametrize("n_threads", [1, 2])
def test_combine(tmp_path: Path, target: str, n_experts: int, n_threads: int) -> None:
    """One expert and the base are of one dtype, and the kernels read them as they are stored."""
    model, found = Rows(), []
    dense = model.dense()
    candidate = Candidate(
        weights=[0.5] * n_experts, floors=[0x3F000000] * n_experts, cutoffs=[N] * n_experts
    )
    for gathered in (False, True):
        plan, out = Plan(True), np.zeros(N, BF16)
        sources = model.sources(Files(tmp_path, plan).place) if gathered else [*map(place, dense)]
        plan.add_job(N, sources[: 1 + n_experts], [place(out)])
        (result,) = plan.combine(
            tasks=[CombineTask(job=0, candidates=[candidate])],
            gate=TIES[0],
            vote=TIES[1],
            blend=TIES[2],
            fingerprints=True,
            limits=Limits(n_threads, 1 << 13),
        )
        (one,) = result.candidates
        counts = (one.sign_sum, one.conflicts, one.cancellations, one.overflow)
        found.append((out, result.inputs[:2], counts))
    assert_same_bits(found[1][0], found[0][0])
    assert found[1][1:] == found[0][1:]


def test_bad_rows_are_refused() -> None:
    here, rows = (-1, 64, 0), StoredRows([0, -1, 3])
    with pytest.raises(ValueError, match="found row 281474976710656, expected less than"):
        StoredRows([1 << 48])
    with pytest.raises(ValueError, match="found columns 0, expected 1 or more"):
        Source.gathered(source=here, rows=rows, columns=0)
    with pytest.raises(ValueError, match="found first_row 4, expected 0 to 3"):
        Source.gathered(source=here, rows=rows, columns=5, first_row=4)
    with pytest.raises(ValueError, match="found a source of another form, expected plain or"):
        Source.gathered(source=Source.zero(), rows=rows, columns=5)
    blocks = Source.scaled(values=here, scales=here, row_length=8)
    with pytest.raises(ValueError, match="found scaled rows of 8, expected 5"):
        Source.gathered(source=blocks, rows=rows, columns=5)
    one = Source.gathered(source=here, rows=rows, columns=5, first_row=1)
    with pytest.raises(ValueError, match="found 11 elements, expected at most 10, those of all"):
        Plan(True).add_job(11, [here, one], [])
    with pytest.raises(ValueError, match="expected -1, memory, without rows"):
        one.decode(n_elements=10, threads=1, out=64)
    with pytest.raises(ValueError, match="found 3 rows taken, expected 2, one for each index"):
        _core.Change.rows(indices=[1, 2], values=here, columns=5, taken=rows)
