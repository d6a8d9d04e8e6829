"""Surveys add up: parts of a model, surveyed apart and added, are the survey of the whole."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeVar

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tallies import _core
from tallies.engine.codes import MEASURE_CODES
from tallies.spec.dtypes import DTYPE_CODES, DTYPE_OF_ARRAY

Array = npt.NDArray[Any]
LIMITS = _core.Limits(2, 1 << 14)
CHUNK = 2048


class Part(Protocol):
    """What the parts of all surveys can do."""

    def to_bytes(self) -> bytes: ...


P = TypeVar("P", bound=Part)


class Model:
    """Some tensors of a base and two experts in memory, and the plan that reads them."""

    def __init__(self, seed: int, sizes: Sequence[int], dtype: Any = np.float32) -> None:
        rng = np.random.default_rng(seed)
        self.sizes = sizes
        self.plan = _core.Plan(True)
        self._memory: list[Array] = []
        for n in sizes:
            arrays = [_values(rng, n).astype(dtype) for _ in range(3)]
            self._memory += arrays
            self.plan.add_job(n, [_place(x) for x in arrays], [])

    def whole(self) -> list[_core.Slice]:
        """Every job."""
        return [_core.Slice(job=job) for job in range(len(self.sizes))]

    def cut(self, chooser: random.Random, grain: int = CHUNK) -> list[tuple[int, _core.Slice]]:
        """Every job in slices at random multiples of the grain, in random order."""
        found = []
        for job, n in enumerate(self.sizes):
            inner = range(grain, n, grain)
            ends = sorted(chooser.sample(inner, min(len(inner), chooser.randrange(4))))
            for first, last in zip([0, *ends], [*ends, n], strict=True):
                found.append((job, _core.Slice(job=job, first=first, n_elements=last - first)))
        chooser.shuffle(found)
        return found


def _values(rng: np.random.Generator, n: int) -> Array:
    """Return values of sizes from 2^-10 to 2^10, many of them equal or zero."""
    values = rng.standard_normal(n) * np.exp2(rng.integers(-10, 10, n))
    few = rng.choice(np.array([0.0, -0.0, 0.25, -0.25, 1.0]), n)
    return np.where(rng.random(n) < 0.5, few, values)


def _place(x: Array) -> tuple[int, int, int]:
    return (-1, x.ctypes.data, DTYPE_CODES[DTYPE_OF_ARRAY[x.dtype.name]])


def added(model: Model, seed: int, survey: Callable[[_core.Slice], P], kind: Any) -> list[P]:
    """The survey of each job from its parts, each on its way through bytes."""
    totals: dict[int, Any] = {}
    for job, piece in model.cut(random.Random(seed)):
        part = kind.from_bytes(survey(piece).to_bytes())
        if job in totals:
            totals[job] += part
        else:
            totals[job] = part
    return [totals[job] for job in range(len(model.sizes))]


MODELS = st.builds(
    Model,
    st.integers(0, 1 << 30),
    st.lists(st.integers(1, 9 * CHUNK), min_size=1, max_size=3),
    st.sampled_from([np.float32, np.float16]),
)


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

        only = _only(model, job)
        (total,) = added(only, seed, survey, _core.GramRows)
        assert total.table() == survey(_core.Slice(job=job)).table()


def _only(model: Model, job: int) -> Model:
    """A view of one job of a model."""
    view = Model.__new__(Model)
    view.__dict__ = {**model.__dict__, "sizes": [model.sizes[job]]}
    cut = model.cut
    view.cut = lambda chooser, grain=CHUNK: [  # type: ignore[method-assign]
        (0, piece) for of, piece in cut(chooser, grain) if of == job
    ]
    return view


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
        assert _bits(one.values) == _bits(survey(piece).values)


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
        assert _bits(one.before) == _bits(whole.before)
        assert _bits(one.after) == _bits(whole.after)


def _bits(values: Sequence[float]) -> bytes:
    return np.array(values).tobytes()


# Units of up to 65536 elements are read at once, larger ones in rounds.
LARGE_MODELS = st.builds(
    Model,
    st.integers(0, 1 << 30),
    st.lists(st.integers(1, 50 * CHUNK), min_size=1, max_size=3),
    st.sampled_from([np.float32, np.float16]),
)


@given(
    LARGE_MODELS,
    st.integers(0, 1 << 30),
    st.floats(0, 1),
    st.sampled_from(["magnitude", "variance", "drawn"]),
    st.booleans(),
)
@settings(max_examples=30, deadline=None)
def test_selection(model: Model, seed: int, density: float, measure: str, by_tensor: bool) -> None:
    """In rounds over parts, with a state that goes through bytes as well."""
    chooser = random.Random(seed)
    jobs = range(len(model.sizes))
    groups = [[job] for job in jobs] if by_tensor else [list(jobs)]
    n_elements = [sum(model.sizes[job] for job in group) for group in groups]
    n_numbers = 1 if measure == "variance" else 2
    ranks = [
        [chooser.randint(1, n) for _ in range(n_numbers - 1)] + [max(1, int(n * density))]
        for n in n_elements
    ]
    what: dict[str, Any] = {"measure": MEASURE_CODES[measure], "limits": LIMITS}
    if measure == "drawn":
        row = [_core.Draw(key=3 + e, chance=1 << 29, factor=2.0) for e in range(2)]
        what["draws"] = [row for _ in jobs]
    units = [_core.Unit(jobs=group, ranks=row) for group, row in zip(groups, ranks, strict=True)]
    expected = model.plan.select(units=units, locate=False, **what)

    selection = _core.Selection(n_elements=n_elements, ranks=ranks)
    for _ in range(9):
        if selection.is_done:
            break
        selection = _core.Selection.from_bytes(selection.to_bytes())
        pieces = model.cut(chooser, 64)
        workers = [pieces[i::3] for i in range(3)]
        total = None
        for mine in workers:
            parts = [
                _core.Unit(
                    jobs=[piece for job, piece in mine if job in group], ranks=[0] * n_numbers
                )
                for group in groups
            ]
            found = model.plan.survey_round(units=parts, selection=selection, **what)
            part = _core.Round.from_bytes(found.to_bytes())
            if total is None:
                total = part
            else:
                total += part
        assert total is not None
        selection.learn(round=total)
    assert selection.is_done
    assert _thresholds(selection.thresholds()) == _thresholds(expected)


def _thresholds(rows: Sequence[Sequence[_core.Threshold]]) -> list[list[tuple[int, ...]]]:
    return [[(one.bits, one.rank, one.n_above, one.n_equal) for one in row] for row in rows]


def test_selection_of_a_large_unit_by_share() -> None:
    """A share of what is not zero; brackets come from a sample, lists and bins from parts."""
    model = Model(5, [40 * CHUNK, 30 * CHUNK + 5])
    unit = _core.Unit(jobs=[0, 1], ranks=[1], share=0.3)
    how: dict[str, Any] = {"measure": MEASURE_CODES["variance"]}
    ((expected,),) = model.plan.select(units=[unit], locate=False, limits=LIMITS, **how)
    selection = _core.Selection(n_elements=[sum(model.sizes)], ranks=[[1]], shares=[0.3])
    n_rounds = 0
    while not selection.is_done:
        total = None
        # Parts with room for all that is inside a bracket, and with little.
        for job, piece in model.cut(random.Random(n_rounds), 64):
            limits = _core.Limits(1, (1 << 24) >> (9 * job))
            part = model.plan.survey_round(
                units=[_core.Unit(jobs=[piece], ranks=[0])],
                selection=selection,
                limits=limits,
                **how,
            )
            if total is None:
                total = part
            else:
                total += part
        assert total is not None
        selection.learn(round=total)
        n_rounds += 1
    assert 2 <= n_rounds <= 4
    assert _thresholds(selection.thresholds()) == _thresholds([[expected]])


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


def _examples() -> list[Part]:
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
    part: Any = _examples()[index]
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


def test_a_round_of_other_brackets() -> None:
    model = Model(3, [40 * CHUNK])
    selection = _core.Selection(n_elements=[40 * CHUNK], ranks=[[100, 2000]])
    unit = _core.Unit(jobs=[0], ranks=[0, 0])
    sample = model.plan.survey_round(units=[unit], selection=selection, limits=LIMITS)
    with pytest.raises(ValueError, match="has 0 searches, expected 2"):
        selection.learn(round=_core.Round.from_bytes(b"tallies round 1\n" + b"\0" * 16))
    selection.learn(round=sample)
    with pytest.raises(ValueError, match="has 0 searches, expected 2"):
        selection.learn(round=sample)
    counts = model.plan.survey_round(units=[unit], selection=selection, limits=LIMITS)
    with pytest.raises(ValueError, match="have 2 and 0 searches"):
        sample += counts
    other = _core.Selection(n_elements=[40 * CHUNK], ranks=[[100, 3000]])
    other.learn(round=sample)
    with pytest.raises(ValueError, match="other brackets than the selection asks for"):
        other.learn(round=counts)
    with pytest.raises(ValueError, match="ranks: found 7, expected 0 to 6"):
        _core.Selection(n_elements=[6], ranks=[[7]])


def test_part_missing_from_a_round() -> None:
    """A rank beyond the numbers of the parts that came is refused, not searched for forever."""
    model = Model(3, [40 * CHUNK])
    n = 40 * CHUNK
    selection = _core.Selection(n_elements=[n], ranks=[[n]])
    piece = _core.Slice(job=0, n_elements=64)

    def survey(jobs: Sequence[int | _core.Slice]) -> _core.Round:
        unit = _core.Unit(jobs=jobs, ranks=[0])
        return model.plan.survey_round(units=[unit], selection=selection, limits=LIMITS)

    selection.learn(round=survey([0]))
    with pytest.raises(ValueError, match="too few numbers for the rank"):
        for _ in range(9):
            selection.learn(round=survey([piece]))
