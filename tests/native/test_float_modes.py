"""The caller's floating-point modes change no byte of a result."""

from __future__ import annotations

import ctypes
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

import tallies
import tallies.torch as functions
from tallies import _core, kernels
from tests.support.compiled import compiled
from tests.support.conversions import code, every_pattern, native_narrow, native_widen
from tests.support.float_modes import MODES, REGISTER, mode_set
from tests.support.strategies import DTYPES


@pytest.fixture(scope="module")
def register(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    """The control register of floating-point operations, to read and to write."""
    return ctypes.CDLL(str(compiled(tmp_path_factory.mktemp("register"), REGISTER)))


def digits(x: Any) -> bytes:
    """The bits of a result."""
    if isinstance(x, torch.Tensor):
        return (
            bytes(x.contiguous().view(torch.uint8).flatten().tolist())
            if x.dim()
            else digits(x[None])
        )
    return np.asarray(x).tobytes()


def numbers(n: int, seed: int) -> npt.NDArray[np.float32]:
    """Numbers of all exponents, many of them subnormal, which no sum or product has exactly."""
    draw = np.random.default_rng(seed)
    exponents = draw.choice([-148, -140, -127, -126, -100, -12, -3, 0, 2], n)
    found: npt.NDArray[np.float32] = np.ldexp(draw.uniform(-2, 2, n), exponents).astype(np.float32)
    return found


BASE, X, Y, Z = (numbers(5003, seed) for seed in range(4))
MASK = np.packbits(X > Y, bitorder="little")
T_BASE, T_X, T_Y, T_Z = (torch.from_numpy(x) for x in (BASE, X, Y, Z))
T_MASK = torch.from_numpy(MASK)
CHANGED = np.where(X > Y, X, Z)
T_LARGER = T_X > T_Y
HALF = T_X.to(torch.bfloat16)
LARGE = [numbers(70001, seed) for seed in (4, 5)]
T_LARGE = [torch.from_numpy(x) for x in LARGE]
WEIGHTS = [0.1, 0.7]
T_WEIGHTS = torch.tensor(WEIGHTS)

ON_ARRAYS: dict[str, Callable[[], Any]] = {
    "kth_magnitude": lambda: kernels.kth_magnitude(X, 4000),
    "trim": lambda: kernels.trim(X, 0.7),
    "elect_signs": lambda: kernels.elect_signs([X, Y, Z], [0.1, 0.7, 0.3]),
    "disjoint_merge": lambda: kernels.disjoint_merge(
        [X, Y], kernels.elect_signs([X, Y]), WEIGHTS, blend="weighted_mean"
    ),
    "ties": lambda: kernels.ties(BASE, [X, Y], density=0.7, scale=0.3, weights=WEIGHTS),
    "large ties": lambda: kernels.ties(LARGE[0], LARGE[1:], density=0.7, scale=0.3),
    "combine": lambda: kernels.combine(
        BASE, [X, Y], gate="all", vote="none", blend="sum", weights=WEIGHTS, scale=0.3
    ),
    "gram": lambda: kernels.gram([X, Y, Z]),
    "magnitude_mask": lambda: kernels.magnitude_mask(X, 1e-40),
    "tall_mask": lambda: kernels.tall_mask(X, Y, 0.3),
    "apply_mask": lambda: kernels.apply_mask(BASE, X, MASK, 0.3),
    "low_rank": lambda: kernels.low_rank(
        BASE[:5000].reshape(50, 100), X[:150].reshape(50, 3), Y[:300].reshape(3, 100), 0.3
    ),
    "patch": lambda: np.frombuffer(
        tallies.make_patch({"w": X}, {"w": CHANGED}, values="difference").data or b"",
        np.uint8,
    ),
}

ON_TENSORS: dict[str, Callable[[], Any]] = {
    "kth_magnitude": lambda: functions.kth_magnitude(T_X, 4000),
    "trim": lambda: functions.trim(T_X, 0.7),
    "magnitude_mask": lambda: functions.magnitude_mask(T_X, 1e-40),
    "tall_mask": lambda: functions.tall_mask(T_X, HALF, 0.3),
    "consensus_mask": lambda: functions.consensus_mask([T_MASK, T_MASK], T_X.numel(), 1),
    "apply_mask": lambda: functions.apply_mask(T_BASE, HALF, T_MASK, 0.3),
    "elect_signs": lambda: functions.elect_signs([T_X, T_Y, T_Z], [0.1, 0.7, 0.3]),
    "disjoint_merge": lambda: functions.disjoint_merge(
        [T_X, T_Y], functions.elect_signs([T_X, T_Y]), WEIGHTS, blend="weighted_mean"
    ),
    "ties": lambda: functions.ties(T_BASE, [T_X, HALF], density=0.7, scale=0.3, weights=WEIGHTS),
    "merge_by_number": lambda: functions.ties(T_BASE, [T_X, HALF], density=0.7, scale=0.3),
    "large ties": lambda: functions.ties(T_LARGE[0], T_LARGE[1:], density=0.7, scale=0.3),
    "combine": lambda: functions.combine(
        HALF, [T_X, T_Y], gate="all", vote="none", blend="sum", weights=WEIGHTS, scale=0.3
    ),
    "gram": lambda: functions.gram([T_X, T_Y, T_Z]),
    "block_dots": lambda: functions.block_dots(T_X, [HALF, T_Y]),
    "kth_magnitude_counted": lambda: functions.kth_magnitude_counted(T_X, 4000)[0],
    "trim_counted": lambda: functions.trim_counted(T_X, 0.7)[0],
    "masked_mean": lambda: functions.masked_mean(
        [T_X, T_Y], [T_LARGER, ~T_LARGER], weights=WEIGHTS
    ),
    "combine_many": lambda: torch.cat(
        functions.combine_many(
            [T_BASE, HALF], [[T_X, T_Y], [T_Z, T_X]], density=0.7, weights=WEIGHTS, scale=0.3
        ).tensors
    ),
    "low_rank": lambda: functions.low_rank(
        T_BASE[:5000].view(50, 100), T_X[:150].view(50, 3), HALF[:300].view(3, 100), 0.3
    ),
    "pack_bits": lambda: functions.pack_bits(T_LARGER),
    "unpack_bits": lambda: functions.unpack_bits(T_MASK, T_X.numel()),
    "change_elements_": lambda: patched(),
    "weighted_merge": lambda: weighted(),
}


def patched() -> torch.Tensor:
    """Return a tensor that a patch has changed in place."""
    state = {"w": T_X.clone()}
    assert PATCH is not None
    functions.apply_patch(state, PATCH)
    return state["w"]


PATCH = tallies.make_patch({"w": X}, {"w": CHANGED}, values="difference").data


def weighted() -> torch.Tensor:
    """Return a merge and its gradient in the coefficients."""
    coefficients = T_WEIGHTS.clone().requires_grad_()
    merged = functions.weighted_merge(T_BASE, [T_X, HALF], coefficients)
    merged.backward(T_Y)
    assert coefficients.grad is not None
    return torch.cat([merged.detach(), coefficients.grad])


MERGES: dict[str, dict[str, Any]] = {
    "task_arithmetic": {"scale": 0.3},
    "ties": {"density": 0.7},
    "dare_ties": {"density": 0.7},
    "breadcrumbs": {},
    "sce": {},
    "pcb": {},
    "della": {},
}

EVERY_E4M3 = torch.arange(256, dtype=torch.uint8).repeat(18).view(torch.float8_e4m3fn)
EVERY_E5M2 = torch.arange(256, dtype=torch.uint8).repeat(18).view(torch.float8_e5m2)


def finite(x: torch.Tensor) -> torch.Tensor:
    """The same numbers, zero for those that are not finite."""
    return torch.where(x.float().isfinite(), x.float(), 0).to(x.dtype)


def merged(method: str) -> torch.Tensor:
    """A merge of float8 numbers, subnormals among them, into float32 ones."""
    experts = [{"w": finite(EVERY_E4M3)}, {"w": finite(EVERY_E5M2)}, {"w": T_X[: 18 * 256]}]
    base = {"w": T_BASE[: 18 * 256]}
    result = tallies.merge_state_dicts(base, experts, method=method, **MERGES[method])
    found: torch.Tensor = result["w"]
    return found


def test_no_operator_is_forgotten() -> None:
    table = (Path(__file__).parents[2] / "csrc/torch/operators.h").read_text()
    operators = set(re.findall(r"^  X\((\w+),", table, re.MULTILINE))
    assert len(operators) > 15
    assert operators <= ON_TENSORS.keys()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("operation", ON_ARRAYS)
def test_no_mode_changes_a_kernel(
    register: ctypes.CDLL, target: str, operation: str, mode: str
) -> None:
    expected = digits(ON_ARRAYS[operation]())
    with mode_set(register, MODES[mode]):
        actual = ON_ARRAYS[operation]()
    assert digits(actual) == expected


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("operation", ON_TENSORS)
def test_no_mode_changes_an_operator(
    register: ctypes.CDLL, target: str, operation: str, mode: str
) -> None:
    expected = digits(ON_TENSORS[operation]())
    with mode_set(register, MODES[mode]):
        actual = ON_TENSORS[operation]()
    assert digits(actual) == expected


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("method", MERGES)
def test_no_mode_changes_a_merge(
    register: ctypes.CDLL, target: str, method: str, mode: str
) -> None:
    expected = digits(merged(method))
    with mode_set(register, MODES[mode]):
        actual = merged(method)
    assert digits(actual) == expected


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_no_mode_changes_a_conversion(
    register: ctypes.CDLL, target: str, dtype: np.dtype[Any], mode: str
) -> None:
    stored = every_pattern(dtype) if dtype.itemsize <= 2 else X.astype(dtype) / 3
    wide, narrow = digits(native_widen(stored)), digits(native_narrow(X, dtype))
    with mode_set(register, MODES[mode]):
        actual = native_widen(stored), native_narrow(X, dtype)
    assert [digits(x) for x in actual] == [wide, narrow]


def test_an_exception_that_traps_is_masked(register: ctypes.CDLL, target: str) -> None:
    """The bit of an exception is its mask on x86-64: without it, an inexact result is a signal."""
    if os.uname().machine != "x86_64":
        pytest.skip("other processors mostly have no traps")
    expected = native_narrow(X, np.dtype(np.float16)).tobytes()
    out = np.empty(X.size, np.float16)
    arguments = X.ctypes.data, out.ctypes.data, code(out.dtype), X.size
    before = register.read_control()
    register.write_control(before & ~(1 << 12))
    try:
        _core.narrow(*arguments)
    finally:
        register.write_control(before)
    assert out.tobytes() == expected


@pytest.mark.parametrize("mode", MODES)
def test_progress_is_reported_in_the_mode_of_the_caller(register: ctypes.CDLL, mode: str) -> None:
    plan = _core.Plan(has_base=False)
    plan.add_job(X.size, [(-1, X.ctypes.data, code(X.dtype))], [])

    def products(progress: Callable[[int], None]) -> bytes:
        [rows] = plan.gram(
            tasks=[_core.GramTask(job=0, row_length=X.size)],
            deltas=False,
            with_magnitudes=True,
            limits=_core.Limits(1, 1 << 20),
            progress=progress,
        )
        return rows.table()

    expected = products(lambda n_bytes: None)
    found: list[int] = []
    with mode_set(register, MODES[mode]):
        control = register.read_control()
        actual = products(lambda n_bytes: found.append(register.read_control()))
    assert found
    assert set(found) == {control}
    assert actual == expected
