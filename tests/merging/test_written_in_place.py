"""``out=`` of merges in memory is written in place, whatever its strides; no call takes memory."""

from __future__ import annotations

import os
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
import pytest
import torch

from tallies import InputError, merge_state_dicts
from tallies.torch import combine_many

Array = npt.NDArray[Any]

SHAPE = (6, 40)
RNG = np.random.default_rng(0)
BASE = {"a": RNG.standard_normal(SHAPE).astype(np.float32), "n": np.arange(3)}
EXPERTS = [
    {"a": BASE["a"] + RNG.standard_normal(SHAPE).astype(np.float32), "n": np.arange(3)}
    for _ in range(3)
]
OPTIONS: dict[str, Any] = {"method": "ties", "density": 0.4}
EXPECTED = merge_state_dicts(BASE, EXPERTS, **OPTIONS)

ROOMS: dict[str, Callable[[], Array]] = {
    "in order": lambda: np.full(SHAPE, np.nan, np.float32),
    "by columns": lambda: np.full(SHAPE, np.nan, np.float32, order="F"),
    "every second": lambda: np.full((6, 80), np.nan, np.float32)[:, ::2],
    "backwards": lambda: np.full(SHAPE, np.nan, np.float32)[::-1, ::-1],
    "unaligned": lambda: np.frombuffer(bytearray(961), np.float32, 240, 1).reshape(SHAPE),
}


# Torch has no negative strides.
ANY = [("numpy", kind) for kind in ROOMS] + [
    ("torch", kind) for kind in ROOMS if kind != "backwards"
]


@pytest.mark.parametrize(("framework", "kind"), ANY)
def test_any_strides(framework: str, kind: str) -> None:
    room: Any = ROOMS[kind]()
    numbers: Any = np.zeros(3, np.int64)
    base, experts = BASE, EXPERTS
    if framework == "torch":
        room, numbers = torch.from_numpy(room), torch.from_numpy(numbers)
        base, *experts = (
            {name: torch.from_numpy(x) for name, x in one.items()} for one in (BASE, *EXPERTS)
        )
    out = {"n": numbers, "a": room}
    merged = merge_state_dicts(base, experts, out=out, **OPTIONS)
    assert list(merged) == ["a", "n"] and all(merged[name] is out[name] for name in out)
    for name, value in merged.items():
        assert np.array_equal(np.asarray(value), EXPECTED[name])


@pytest.mark.parametrize("part", [slice(None), slice(None, None, -1)], ids=["same", "turned"])
def test_out_may_be_an_input(part: slice) -> None:
    given = {name: x.copy() for name, x in BASE.items()}
    out = {"a": given["a"][part], "n": given["n"]}
    merge_state_dicts(given, EXPERTS, out=out, **OPTIONS)
    assert np.array_equal(out["a"], EXPECTED["a"])


def test_out_may_overlap_an_input() -> None:
    memory = np.empty(300, np.float32)
    base = memory[:240].reshape(SHAPE)
    base[:] = BASE["a"]
    out = {"a": memory[60:].reshape(SHAPE)}
    merge_state_dicts({"a": base}, [{"a": one["a"]} for one in EXPERTS], out=out, **OPTIONS)
    assert np.array_equal(out["a"], EXPECTED["a"])


def test_out_has_the_dtype_of_the_result() -> None:
    narrow = [{"a": one["a"].astype(ml_dtypes.bfloat16)} for one in (BASE, *EXPERTS)]
    wide = [{"a": one["a"].astype(np.float32)} for one in narrow]
    expected = merge_state_dicts(wide[0], wide[1:], **OPTIONS)["a"]
    out = {"a": np.empty(SHAPE, np.float32)}
    merge_state_dicts(narrow[0], narrow[1:], out=out, **OPTIONS)
    assert np.array_equal(out["a"], expected)
    half = {"a": torch.empty(SHAPE, dtype=torch.bfloat16)}
    merge_state_dicts(wide[0], wide[1:], out=half, **OPTIONS)
    assert torch.equal(half["a"], torch.from_numpy(expected).bfloat16())


def test_tied_tensors_are_filled_each() -> None:
    tied = [{"a": one["a"], "b": one["a"]} for one in (BASE, *EXPERTS)]
    out = {name: np.zeros(SHAPE, np.float32) for name in "ab"}
    merge_state_dicts(tied[0], tied[1:], out=out, **OPTIONS)
    assert np.array_equal(out["a"], EXPECTED["a"]) and np.array_equal(out["b"], out["a"])


def test_parameters_of_a_module_are_filled() -> None:
    layer = torch.nn.Linear(40, 6, bias=False)
    base, *experts = ({"weight": torch.from_numpy(one["a"])} for one in (BASE, *EXPERTS))
    merge_state_dicts(base, experts, out=dict(layer.named_parameters()), **OPTIONS)
    assert np.array_equal(layer.weight.detach(), EXPECTED["a"])


READ_ONLY = np.zeros(SHAPE, np.float32)
READ_ONLY.flags.writeable = False

REFUSED: dict[str, tuple[Any, str]] = {
    "no dict": ([1], "out: found list, expected a dict"),
    "missing": ({"n": np.zeros(3, np.int64)}, "out: tensor 'a' is missing"),
    "unknown": ({"x": np.zeros(3)}, "out: tensor 'x' is not in the result"),
    "shape": ({"a": np.zeros(3, np.float32)}, r"out: tensor 'a': found \(3,\), expected the shape"),
    "read-only": ({"a": READ_ONLY}, "out: tensor 'a' is read-only"),
    "expanded": (
        {"a": torch.zeros(1, 40).expand(SHAPE)},
        "out: tensor 'a' has elements that share memory",
    ),
    "meta": ({"a": torch.empty(SHAPE, device="meta")}, "out: tensor 'a': found a meta tensor"),
    "dtype": ({"a": np.zeros(SHAPE, np.complex64)}, "out: tensor 'a': found dtype complex64"),
    "copied": (
        {"a": np.zeros(SHAPE, np.float32), "n": np.zeros(3, np.int32)},
        "out: tensor 'n': found dtype int32, expected int64",
    ),
    "integers": ({"a": np.zeros(SHAPE, np.int32)}, "out: tensor 'a': found dtype int32"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_refused(kind: str) -> None:
    out, message = REFUSED[kind]
    with pytest.raises(InputError, match=f"^{message}"):
        merge_state_dicts(BASE, EXPERTS, out=out, **OPTIONS)


def resident_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="counts pages as Linux does")
def test_a_thousand_calls_take_no_more_memory() -> None:
    n = 30_000
    base, *experts = ({"w": torch.randn(n)} for _ in range(4))
    out = {"w": torch.empty(n)}
    rows = [one["w"] for one in experts]

    def call() -> None:
        merge_state_dicts(base, experts, out=out, **OPTIONS)
        combine_many([base["w"]], [rows], vote="sum", blend="sum_of_agreeing", density=0.3)

    for _ in range(50):
        call()
    before = resident_bytes()
    for _ in range(1000):
        call()
    # A leak of one tensor a call would be 120 MB, of a kilobyte 1 MB.
    assert resident_bytes() - before < 1 << 20
