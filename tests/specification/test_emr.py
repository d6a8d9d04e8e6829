"""EMR's unified vector, masks and scales."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from tests.reference import emr, tall
from tests.support import strategies
from tests.support.bits import NAN, f32
from tests.support.task_masks import FEWER, is_set, trained


def test_emr_elects_the_negative_sign_when_a_sum_is_zero() -> None:
    tasks: list[tall.Vector] = [{"w": f32(1, 2, 0, 3, 5, NAN)}, {"w": f32(-1, 1, -0.0, 5, -2, 1)}]
    unified = emr.unified_vector(tasks)
    assert unified["w"][:5].tolist() == [-1, 2, 0, 5, 5]
    assert not np.signbit(unified["w"][2])
    assert np.isnan(unified["w"][5])
    (first, second) = emr.masks(tasks, unified)
    assert is_set(first, "w", 6) == [False, True, False, True, True, False]
    assert is_set(second, "w", 6) == [True, True, False, True, False, False]


def test_emr_rescales_by_means_or_by_the_whole() -> None:
    """In the code b weighs as much as the 200 elements of w, in the paper as one of them."""
    tasks: list[tall.Vector] = [
        {"b": f32(4), "w": np.tile(f32(1, -1, 2, 0.5), 50)},
        {"b": f32(1), "w": np.tile(f32(2, 1, -1, 0.5), 50)},
    ]
    unified = emr.unified_vector(tasks)
    code, paper = emr.scales(tasks, unified), emr.scales(tasks, unified, "paper")
    assert [round(scale, 4) for scale in code] == [0.9535, 0.4595]
    assert [round(scale, 4) for scale in paper] == [0.8208, 1.7519]
    assert code == [float(np.float32(5.125 / 5.375)), float(np.float32(2.125 / 4.625))]
    assert paper == [float(np.float32(229 / 279)), float(np.float32(226 / 129))]


@pytest.mark.parametrize("rescale", ["code", "paper"])
def test_emr_of_a_task_without_a_bit_is_the_base(rescale: str) -> None:
    """Its x is zero, or outvoted everywhere; the scale then multiplies nothing."""
    base = {"w": f32(1, 2)}
    tasks = tall.vectors(base, [{"w": f32(4, 5)}, base, {"w": f32(0, 1)}], ["w"])
    unified = emr.unified_vector(tasks)
    assert emr.scales(tasks, unified, rescale) == [1, 1, 1]
    for masks in emr.masks(tasks, unified)[1:]:
        assert tall.unpack(base, unified, masks)["w"].tolist() == [1, 2]


@FEWER
@given(strategies.models(nonfinite=False), st.sampled_from(["code", "paper"]))
def test_emr_element_by_element(models: strategies.Models, rescale: str) -> None:
    names, tasks = trained(models)
    assume(all(np.isfinite(x[name]).all() for x in tasks for name in names))
    unified = emr.unified_vector(tasks)
    masks = emr.masks(tasks, unified)
    own, marked = [Fraction(0)] * len(tasks), [Fraction(0)] * len(tasks)
    for name in names:
        u = unified[name].ravel()
        share = Fraction(1, u.size if rescale == "code" else 1)
        bits = [is_set(each, name, u.size) for each in masks]
        for i, xs in enumerate(zip(*(x[name].ravel() for x in tasks), strict=True)):
            total = np.float32(0)
            with np.errstate(over="ignore"):
                for x in xs:
                    total = np.float32(total + x)
            assert u[i] == max((x for x in xs if (x > 0) == (total > 0)), key=abs, default=0)
            for t, x in enumerate(xs):
                assert bits[t][i] == (np.sign(x) * np.sign(u[i]) == 1)
                own[t] += share * Fraction(abs(float(x)))
                marked[t] += share * Fraction(abs(float(u[i]))) * bits[t][i]
    with np.errstate(over="ignore"):
        expected = [
            float(np.float32(a / b)) if b else 1.0 for a, b in zip(own, marked, strict=True)
        ]
    # Within one unit: the float64 ratio may lie on the other side of a midpoint of float32.
    assert emr.scales(tasks, unified, rescale) == pytest.approx(expected, rel=2**-23, abs=2**-149)
