"""Guesses that do not belong to what is asked of them are refused."""

from __future__ import annotations

from typing import Any

import pytest

from tallies import InputError, _core
from tests.support.guessing import TIES
from tests.support.parts import LIMITS, Model

SIZES = (100_000, 70_000)


def units(*ranks: int) -> list[_core.Unit]:
    return [_core.Unit(jobs=[0, 1], ranks=ranks)]


def task(job: Any, searches: tuple[int, ...] = (0, 1), unit: int = 0) -> _core.CombineTask:
    candidate = _core.Candidate(weights=[1, 1], floors=[-1, -1], cutoffs=[0, 0], searches=searches)
    return _core.CombineTask(job=job, candidates=[candidate], unit=unit)


def combine(model: Model, tasks: list[_core.CombineTask], guesses: _core.Guesses | None) -> None:
    model.plan.combine(tasks=tasks, limits=LIMITS, guesses=guesses, **TIES)


def test_guesses() -> None:
    model = Model(1, SIZES)
    guesses = model.plan.guess(units=units(5000, 90_000), locate=False, limits=LIMITS)
    for bad, message in (
        (task(0, (0, 1), 1), "unit: found 1, expected -1 to 0"),
        (task(0, (0,)), "searches: found 1, expected 2, one for each expert"),
        (task(0, (1, 0)), "for expert 0 a search of this expert's magnitudes"),
        (task(0, (0, 2)), "searches: found 2, expected -1 to 1"),
    ):
        with pytest.raises(ValueError, match=message):
            combine(model, [bad], guesses)
    with pytest.raises(ValueError, match="unit: found 0, expected -1 to -1"):
        combine(model, [task(0)], None)
    combine(model, [task(1)], guesses)
    with pytest.raises(InputError, match="170000 elements, but 70000 were combined"):
        model.plan.settle(guesses=guesses, limits=LIMITS)
    for first, n in ((0, 64_000), (64_000, 36_000)):
        combine(model, [task(_core.Slice(job=0, first=first, n_elements=n))], guesses)
    model.plan.settle(guesses=guesses, limits=LIMITS)
    with pytest.raises(InputError, match="these guesses are settled"):
        model.plan.settle(guesses=guesses, limits=LIMITS)
    with pytest.raises(ValueError, match="some that are settled, expected others"):
        combine(model, [task(0)], guesses)


def test_slices_of_no_unit() -> None:
    model = Model(1, SIZES)
    half = _core.Unit(jobs=[_core.Slice(job=0, n_elements=99_200)], ranks=[5, 6])
    guesses = model.plan.guess(units=[half], locate=False, limits=LIMITS)
    for job in (0, 1):
        with pytest.raises(InputError, match=f"job {job}: this slice is in none"):
            combine(model, [task(job)], guesses)


def test_bytes() -> None:
    model = Model(1, SIZES)
    data = model.plan.guess(units=units(5, 6), locate=True, limits=LIMITS).to_bytes()
    with pytest.raises(ValueError, match="units: found 0"):
        _core.Guesses.from_bytes(data, units=[])
    with pytest.raises(ValueError, match="ranks: found 1, expected 2"):
        _core.Guesses.from_bytes(data, units=units(5))
    for bad in (data[:-1], data + b"0", b"", data[:20] + data[40:]):
        with pytest.raises(ValueError, match="bytes of a survey"):
            _core.Guesses.from_bytes(bad, units=units(5, 6))
