"""Requests to merge in memory that are refused, and warnings."""

from __future__ import annotations

import doctest
import warnings
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from tallies import InputError, merge_state_dicts
from tallies.merging import state_dicts
from tests.support.state_dicts import Dict, assert_same, f32


def f16(*values: float) -> npt.NDArray[np.float16]:
    return np.array(values, np.float16)


# Refusals.


W = {"w": f32(1, 2)}

REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"experts": [{}]}, "expert 0: lacks tensor 'w', which base has"),
    (
        {"base": {"v": f32(1), "w": f32(1), "x": f32(1)}, "experts": [{"x": f32(1)}]},
        "expert 0: lacks tensor 'v' and 1 more, which base has",
    ),
    ({"experts": [W, {**W, "v": f32(1)}]}, "expert 1: has tensor 'v', which base lacks"),
    ({"experts": [{"w": f32(1, 2, 3)}]}, r"expert 0: tensor 'w' has shape \[3\], base has \[2\]"),
    ({"experts": [{"w": np.array([1, 2])}]}, "expert 0: tensor 'w' is int64, base has F32"),
    ({"experts": [{"w": [1.0, 2.0]}]}, "tensor 'w': found list, expected a numpy array or torch"),
    ({"experts": [{"w": np.array([1, 2], ">f4")}]}, "tensor 'w': dtype >f4, expected a native one"),
    ({"experts": [{"w": np.array(["a", "b"])}]}, "tensor 'w': found dtype str32, expected an int"),
    ({"experts": [{"w": np.ones(2, complex)}]}, "tensor 'w': found dtype complex128, expected an"),
    ({"experts": []}, "experts: found none, expected at least one state dict"),
    ({"experts": [f32(1, 2)]}, "expert 0: found ndarray, expected a dict of tensors"),
    ({"experts": W}, "expert 0: found str, expected a dict of tensors"),
    ({"base": None}, "base: missing, and ties needs the model the experts were tuned from"),
    ({"method": "tise"}, "merge method 'tise' is not known; did you mean 'ties'"),
    ({"semantics": "merge-kit"}, "semantics 'merge-kit' .* did you mean 'mergekit'"),
    ({"nonfinite": "ignore"}, r"nonfinite 'ignore' is not known .*error, warn, propagate"),
    ({"desnity": 0.5}, "desnity: parameter of ties 'desnity' .* did you mean 'density'"),
    ({"density": 1.5}, "density: found 1.5, expected a finite number from 0 to 1"),
    ({"density": np.nan}, "density: found nan, expected a finite number from 0 to 1"),
    ({"density": [0.5]}, "density: found 1 values, expected one for each of the 2 experts"),
    ({"scale": np.inf}, "scale: found inf, expected a finite number"),
    ({"scope": "row"}, "scope: 'row' is not known .*model, tensor"),
    ({"equal": "fist"}, "equal: 'fist' .* did you mean 'first'"),
    ({"semantics": "mergekit", "scope": "model"}, "scope: ties has it only in paper semantics"),
    ({"weights": [1, np.nan]}, "expert 1: weight: found nan, expected a finite number"),
    ({"weights": [1, 2, 3]}, "weight: found 3 values, expected one for each of the 2 experts"),
    ({"weights": 0.5}, "weight: found 1 values, expected one for each of the 2 experts"),
    ({"weights": [1, 2], "weight": 2}, "weights: given as 'weight' as well; keep one"),
    ({"threads": 0}, "threads: found 0, expected a number from 1 to 1024"),
    ({"threads": 2.0}, "threads: found 2.0, expected a number from 1 to 1024"),
    ({"integers": "bsae"}, "integers: 'bsae' .* did you mean 'base'"),
    ({"experts": [W] * 257}, "at most 256 experts in one merge, found 257"),
]  # fmt: skip


@pytest.mark.parametrize(("call", "message"), REFUSED, ids=[text[:30] for _, text in REFUSED])
def test_requests_are_refused_on_one_line(call: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message) as refusal:
        merge_state_dicts(**{"base": W, "experts": [W, W], **call})
    assert "\n" not in str(refusal.value)


def test_weights_that_cancel_are_refused_where_they_divide() -> None:
    with pytest.raises(
        InputError, match=r"linear: tensor 'w': the weights \(1.0, -1.0\) sum to ze"
    ):
        merge_state_dicts(None, [W, W], method="linear", weights=[1, -1])
    merged = merge_state_dicts(None, [W, W], method="linear", weights=[1, -1], normalize=False)
    assert merged["w"].tolist() == [0, 0]


def with_nonfinite(*places: int, value: float = np.nan) -> tuple[Dict, list[Dict]]:
    base = {"a": f32(1, 2, 3), "b": np.zeros((300, 300), np.float32)}
    bad = np.ones(90_000, np.float32)
    bad[list(places)] = value
    return base, [
        {"a": f32(1, 2, 4), "b": base["b"]},
        {"a": f32(1, 2, 3), "b": bad.reshape(300, 300)},
    ]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize(
    "options", [{}, {"method": "task_arithmetic"}, {"scope": "tensor"}], ids=str
)
def test_a_value_that_is_not_finite_names_its_tensor_count_and_place(
    value: float, options: dict[str, Any]
) -> None:
    base, experts = with_nonfinite(70_001, 80_000, 123, value=value)
    message = "^expert 1: tensor 'b' has 3 NaN or infinite values, the first at element 123; "
    for n_threads in (1, 4):
        with pytest.raises(InputError, match=message):
            merge_state_dicts(base, experts, threads=n_threads, **options)
    with pytest.raises(InputError, match=r"^base: tensor 'b' has 3 NaN or infinite values"):
        merge_state_dicts(experts[1], [base], **options)
    free = merge_state_dicts(base, experts, nonfinite="propagate", **options)
    assert np.flatnonzero(~np.isfinite(free["b"])).tolist() == [123, 70_001, 80_000]
    with pytest.warns(UserWarning, match=message) as caught:
        warned = merge_state_dicts(base, experts, nonfinite="warn", **options)
    assert len(caught) == 1
    assert caught[0].filename == __file__
    assert_same(warned, free)


def test_an_overflow_of_finite_values_says_so() -> None:
    base, expert = {"w": f16(60000, 1)}, {"w": f16(65000, 1)}
    with pytest.raises(
        InputError, match="tensor 'w': the merged values overflow F16; lower the sc"
    ):
        merge_state_dicts(base, [expert], method="task_arithmetic", scale=2)
    merged = merge_state_dicts(base, [expert], method="task_arithmetic", scale=1.1)
    assert merged["w"].tolist() == [65504, 1]


def test_a_merge_of_finite_values_warns_of_nothing() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        merge_state_dicts(W, [W], nonfinite="warn")


def test_examples() -> None:
    failed, attempted = doctest.testmod(state_dicts)
    assert failed == 0
    assert attempted >= 4
