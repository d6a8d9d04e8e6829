"""Every blend of entries that are drawn at random, by the plan itself."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tallies import _core
from tallies.engine.codes import KEEP_ALL, rule_codes
from tallies.engine.random_keys import chance
from tallies.spec.dtypes import DTYPE_CODES, DTYPE_OF_ARRAY
from tallies.spec.rules import Blend, Gate, Rule, Vote
from tests.reference import random
from tests.reference.blend import disjoint_merge
from tests.reference.dtype import Array
from tests.reference.elect import elect_signs
from tests.reference.sums import entries, in_order_sum
from tests.reference.task_arithmetic import add_to_base, task_vectors
from tests.support.everywhere import assert_same_bits, on_every_target

FACTORS = (1.0, 4 / 3, 0.5)
BLENDS = {
    Blend.SUM_OF_AGREEING: "sum",
    Blend.MEAN_OF_AGREEING: "mean",
    Blend.WEIGHTED_MEAN_OF_AGREEING: "weighted_mean",
    Blend.LARGEST_AGREEING: "max",
}
COMPILED = [
    *((Vote.NONE, blend) for blend in (Blend.SUM, Blend.MEAN)),
    *((vote, blend) for vote in (Vote.SUM, Vote.COUNT) for blend in BLENDS),
    *((vote, Blend.MEAN_OF_AGREEING) for vote in (Vote.UNWEIGHTED_SUM, Vote.UNWEIGHTED_COUNT)),
]
KEYS = (7, 1 << 63, 0xFFFF_FFFF_0000_0001)


def drawn(
    path: Path, first: int, arrays: list[Array], vote: Vote, blend: Blend, weights: list[float]
) -> Array:
    """Merge a tensor from ``first`` on, where the files hold only those elements."""
    plan = _core.Plan(True)
    places = []
    for i, array in enumerate(arrays):
        with open(path / str(i), "wb") as file:
            file.seek(first * array.itemsize)
            file.write(array.tobytes())
        code = DTYPE_CODES[DTYPE_OF_ARRAY[array.dtype.name]]
        places.append((plan.open_to_read(str(path / str(i))), 0, code))
    dtype, out = arrays[0].dtype, path / "out"
    out.unlink(missing_ok=True)
    place = (plan.open_to_write(str(out), 0), 0, places[0][2])
    n = arrays[0].size
    plan.add_job(first + n, places, [place])
    draws = [
        _core.Draw(key=key, chance=chance(0.7), factor=factor)
        for key, factor in zip(KEYS, FACTORS, strict=True)
    ]
    candidate = _core.Candidate(
        weights=weights,
        floors=[KEEP_ALL] * 3,
        cutoffs=[first + n] * 3,
        divisor=3.0,
        zero_sign=1,
    )
    whole = _core.Slice(job=0, first=first, n_elements=n)
    task = _core.CombineTask(job=whole, candidates=[candidate], draws=draws)
    gate, voting, blending = rule_codes(Rule(Gate.RANDOM, vote, blend))
    plan.combine(
        tasks=[task], gate=gate, vote=voting, blend=blending, limits=_core.Limits(2, 1 << 16)
    )
    with open(out, "rb") as file:
        file.seek(first * dtype.itemsize)
        return np.frombuffer(file.read(), dtype)


@pytest.mark.parametrize(
    "dtypes", [("float32",) * 4, ("bfloat16",) * 4, ("float16", "float64") * 2]
)
@pytest.mark.parametrize("weights", [[1.0, 0.5, 2.0], [1.0, 1.0, 1.0]])
@pytest.mark.parametrize(("vote", "blend"), COMPILED)
def test_every_blend_of_what_is_drawn(
    tmp_path: Path, vote: Vote, blend: Blend, weights: list[float], dtypes: tuple[str, ...]
) -> None:
    """Across element 2^32, where the random numbers begin anew with another key."""
    first, n = (1 << 32) - 512, 1211
    rng = np.random.default_rng(3)
    arrays = [(rng.integers(-8, 8, n) / 4).astype(dtype) for dtype in dtypes]
    arrays[2][5] = np.nan
    deltas = task_vectors(arrays[0], arrays[1:])
    for delta, key, factor in zip(deltas, KEYS, FACTORS, strict=True):
        stays = (random.numbers(key, n, first) < chance(0.7)) | np.isnan(delta)
        delta[:] = np.where(stays, delta * np.float32(factor), np.float32(0))
    if vote is Vote.NONE:
        merged = in_order_sum(entries(deltas, weights)) / np.float32(
            3 if blend is Blend.MEAN else 1
        )
    else:
        voices = None if vote.value.startswith("unweighted") else weights
        signs = elect_signs(deltas, voices, vote.value.removeprefix("unweighted_"), "positive")
        merged = disjoint_merge(deltas, signs, weights, BLENDS[blend])
    expected = add_to_base(arrays[0], 1.0, merged)
    assert np.isnan(expected[5].astype(np.float32))
    for found in on_every_target(
        lambda: drawn(tmp_path, first, arrays, vote, blend, weights)
    ).values():
        assert_same_bits(found, expected)
