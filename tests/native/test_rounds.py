"""A selection in rounds over parts finds the thresholds of the whole."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tallies import _core
from tallies.engine.codes import Measure
from tests.support.parts import CHUNK, LIMITS, Model

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
    what: dict[str, Any] = {"measure": Measure[measure.upper()], "limits": LIMITS}
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
    assert thresholds(selection.thresholds()) == thresholds(expected)


def thresholds(rows: Sequence[Sequence[_core.Threshold]]) -> list[list[tuple[int, ...]]]:
    return [[(one.bits, one.rank, one.n_above, one.n_equal) for one in row] for row in rows]


def test_selection_of_a_large_unit_by_share() -> None:
    """A share of what is not zero; brackets come from a sample, lists and bins from parts."""
    model = Model(5, [40 * CHUNK, 30 * CHUNK + 5])
    unit = _core.Unit(jobs=[0, 1], ranks=[1], share=0.3)
    how: dict[str, Any] = {"measure": Measure.VARIANCE}
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
    assert thresholds(selection.thresholds()) == thresholds([[expected]])


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
