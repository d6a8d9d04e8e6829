"""Surveys add up: parts of a model, surveyed apart and added, are the survey of the whole."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from tallies import _core
from tests.support.parts import CHUNK, LIMITS, MODELS, Model, added, bits_of, job_alone


@given(MODELS, st.integers(0, 1 << 30), st.sampled_from([1, 3, 64, CHUNK + 6]), st.booleans())
@settings(max_examples=25, deadline=None)
def test_gram(model: Model, seed: int, length: int, deltas: bool) -> None:
    for job, n in enumerate(model.sizes):
        row_length = length if n % length == 0 else n

        def survey(piece: _core.Slice, row_length: int = row_length) -> _core.GramRows:
            (rows,) = model.plan.gram(
                tasks=[_core.GramTask(job=piece, row_length=row_length)],
                deltas=deltas,
                with_magnitudes=True,
                limits=LIMITS,
            )
            return rows

        alone = job_alone(model, job)
        (total,) = added(alone, seed, survey, _core.GramRows)
        assert total.table() == survey(_core.Slice(job=job)).table()


@given(MODELS, st.integers(0, 1 << 30))
@settings(max_examples=25, deadline=None)
def test_overlap(model: Model, seed: int) -> None:
    def survey(piece: _core.Slice) -> _core.Overlap:
        return model.plan.count_overlap(jobs=[piece], floor=0, limits=LIMITS)[0]

    for found, piece in zip(added(model, seed, survey, _core.Overlap), model.whole(), strict=True):
        whole = survey(piece)
        assert (found.alone, found.shared) == (whole.alone, whole.shared)


@given(MODELS, st.integers(0, 1 << 30), st.sampled_from([-1, 0, 0x3D000000]))
@settings(max_examples=25, deadline=None)
def test_square_sums(model: Model, seed: int, floor: int) -> None:
    def survey(piece: _core.Slice) -> _core.SquareSums:
        task = _core.VarianceTask(job=piece, floor=floor, cutoff=CHUNK + 7)
        return model.plan.sum_squares(tasks=[task], limits=LIMITS)[0]

    found = added(model, seed, survey, _core.SquareSums)
    for one, piece in zip(found, model.whole(), strict=True):
        assert bits_of(one.values) == bits_of(survey(piece).values)


@given(MODELS, st.integers(0, 1 << 30))
@settings(max_examples=25, deadline=None)
def test_stage_sums(model: Model, seed: int) -> None:
    draws = [_core.Draw(key=7 + e, chance=1 << 29, factor=2.0) for e in range(2)]

    def survey(piece: _core.Slice) -> _core.StageSums:
        task = _core.StageTask(job=piece, stages=draws)
        return model.plan.stage_sums(tasks=[task], limits=LIMITS)[0]

    found = added(model, seed, survey, _core.StageSums)
    for one, piece in zip(found, model.whole(), strict=True):
        whole = survey(piece)
        assert bits_of(one.before) == bits_of(whole.before)
        assert bits_of(one.after) == bits_of(whole.after)
