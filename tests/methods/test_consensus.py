"""Consensus merging against the reference, on disk and in memory."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tallies import InputError, merge, merge_state_dicts
from tests.reference.consensus import consensus_merge
from tests.reference.model import float_names
from tests.support.checkpoints import assert_holds, write
from tests.support.everywhere import on_every_target
from tests.support.strategies import Models, models

METHODS = st.sampled_from(["ta", "ties"])
NUMBERS_OF_CLAIMS = st.sampled_from([0, 1, 2, 3, 5])
LAMBDAS = st.sampled_from([0.0, 0.2, 0.4, 1.0, 3.0])
SCALES = st.sampled_from([1.0, 0.3, -0.5])


@settings(max_examples=60)
@given(models(), METHODS, NUMBERS_OF_CLAIMS, LAMBDAS, SCALES)
def test_in_memory(group: Models, shared: str, k: int, mask_lambda: float, scale: float) -> None:
    base, experts = group
    expected = consensus_merge(base, experts, float_names(base), shared, mask_lambda, k, scale)
    found = on_every_target(
        lambda: merge_state_dicts(
            base,
            experts,
            method=f"consensus_{shared}",
            k=k,
            mask_lambda=mask_lambda,
            scale=scale,
            nonfinite="propagate",
        )
    )
    for target, result in found.items():
        for name, tensor in expected.items():
            assert result[name].tobytes() == tensor.tobytes(), (target, name)


@settings(max_examples=15)
@given(group=models(), shared=METHODS, k=NUMBERS_OF_CLAIMS)
def test_on_disk(
    tmp_path_factory: pytest.TempPathFactory, group: Models, shared: str, k: int
) -> None:
    root: Path = tmp_path_factory.mktemp("consensus")
    base, experts = group
    recipe = {
        "merge_method": f"consensus_{shared}",
        "base_model": str(write(root / "base", base)),
        "models": [
            {
                "model": str(write(root / f"{i}", expert)),
                "parameters": {"mask_lambda": 0.2 + 0.2 * i},
            }
            for i, expert in enumerate(experts)
        ],
        "parameters": {"k": k, "lambda": 0.7},
    }
    lambdas = [0.2 + 0.2 * i for i in range(len(experts))]
    expected = consensus_merge(base, experts, float_names(base), shared, lambdas, k, 0.7)
    for threads, memory in ((1, "1GiB"), (3, "1KiB")):
        out = root / f"out-{threads}"
        merge(recipe, out, threads=threads, max_memory=memory, nonfinite="propagate")
        assert_holds(out, {**base, **expected})


def test_what_too_few_claim_is_left_out() -> None:
    base = {"w": np.zeros(4, np.float32)}
    # Claimed by both, by the first alone, by none (they cancel within rounding), by the second.
    a, b = np.float32([1, 1, 1, 0]), np.float32([1, 0, -0.9, 2])
    for k, kept in ((0, [2, 1, 0.1, 2]), (1, [2, 1, 0.1, 2]), (2, [2, 0, 0.1, 0]), (3, [0] * 4)):
        found = merge_state_dicts(
            base, [{"w": a}, {"w": b}], method="consensus_ta", k=k, mask_lambda=0.4
        )
        assert found["w"] == pytest.approx(kept), k


@pytest.mark.parametrize("k", [1.5, -1, "two"])
def test_k_is_a_whole_number(k: object) -> None:
    base = {"w": np.zeros(2, np.float32)}
    with pytest.raises(InputError, match=r"k: found .* expected a whole number from 0 to 256"):
        merge_state_dicts(base, [base], method="consensus_ta", k=k)
