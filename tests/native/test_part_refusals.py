"""Parts that do not belong together and bytes of no survey are refused."""

from __future__ import annotations

from typing import Any

import pytest

from tallies import _core
from tests.support.parts import CHUNK, LIMITS, Model, Part


def test_parts_that_do_not_belong_together() -> None:
    one, two = Model(1, [CHUNK]), Model(2, [CHUNK + 64])
    how: dict[str, Any] = {"deltas": True, "with_magnitudes": True, "limits": LIMITS}

    def gram(model: Model, row_length: int, piece: Any = 0) -> _core.GramRows:
        task = _core.GramTask(job=piece, row_length=row_length)
        return model.plan.gram(tasks=[task], **how)[0]

    rows = gram(one, CHUNK)
    with pytest.raises(ValueError, match="other rows or vectors, expected parts of one tensor"):
        rows += gram(two, 64)
    with pytest.raises(ValueError, match="row 0 are incomplete; add all parts"):
        gram(two, CHUNK + 64, _core.Slice(job=0, first=CHUNK, n_elements=64)).table()
    with pytest.raises(ValueError, match="row 0 are missing or there twice"):
        gram(two, 64, _core.Slice(job=0, first=CHUNK)).table()
    rows += gram(one, CHUNK)
    with pytest.raises(ValueError, match="row 1 are missing or there twice"):
        rows.table()


def examples() -> list[Part]:
    model = Model(1, [3 * CHUNK])
    slices = [_core.Slice(job=0, n_elements=CHUNK)]
    draws = [_core.Draw(key=1, chance=9), _core.Draw(key=2, chance=9)]
    selection = _core.Selection(n_elements=[3 * CHUNK], ranks=[[5, 0]])
    unit = _core.Unit(jobs=[0], ranks=[0, 0])
    sample = model.plan.survey_round(units=[unit], selection=selection, limits=LIMITS)
    return [
        model.plan.count_overlap(jobs=slices, floor=0, limits=LIMITS)[0],
        model.plan.sum_squares(
            tasks=[_core.VarianceTask(job=slices[0], floor=-1, cutoff=0)], limits=LIMITS
        )[0],
        model.plan.stage_sums(tasks=[_core.StageTask(job=slices[0], stages=draws)], limits=LIMITS)[
            0
        ],
        model.plan.gram(
            tasks=[_core.GramTask(job=slices[0], row_length=3 * CHUNK)],
            deltas=True,
            with_magnitudes=False,
            limits=LIMITS,
        )[0],
        selection,
        sample,
    ]


@pytest.mark.parametrize("index", range(6))
def test_bad_bytes(index: int) -> None:
    part: Any = examples()[index]
    good = part.to_bytes()
    read = type(part).from_bytes
    assert read(good).to_bytes() == good
    for bad in (b"", good[:-1], good + b"\0", b"x" + good, good.replace(b" 1\n", b" 2\n", 1)):
        with pytest.raises(ValueError, match=r"bytes of a survey: found .*, expected 'tallies "):
            read(bad)
    # A number of entries far beyond the bytes that are there.
    head = good.index(b"\n") + 1
    if isinstance(part, _core.GramRows):  # after the length of rows and the number of sums
        head += 16
    with pytest.raises(ValueError, match="bytes of a survey"):
        read(good[:head] + b"\xff" * 8 + good[head + 8 :])
