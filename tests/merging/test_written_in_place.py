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
    with torch.no_grad():
        merge_state_dicts(base, experts, out=dict(layer.named_parameters()), **OPTIONS)
    assert np.array_equal(layer.weight.detach(), EXPECTED["a"])


def interleaved() -> torch.Tensor:
    """Return a tensor whose dimensions interleave and meet nowhere: 0, 2, 4, 3, 5, 7."""
    return torch.zeros(8).as_strided((2, 3), (3, 2))


def test_dimensions_may_interleave() -> None:
    room = interleaved()
    base, expert = np.zeros((2, 3), np.float32), np.arange(6, dtype=np.float32).reshape(2, 3)
    merge_state_dicts({"a": base}, [{"a": expert}], density=1.0, out={"a": room})
    assert np.array_equal(room.numpy(), expert)


def two_results() -> tuple[dict[str, Array], list[dict[str, Array]]]:
    base = {name: np.zeros((3, 4), np.float32) for name in "ab"}
    return base, [{"a": base["a"] + 1, "b": base["b"] + 2}]


@pytest.mark.parametrize("framework", ["numpy", "torch"])
def test_results_may_interleave(framework: str) -> None:
    memory: Any = np.zeros((3, 8), np.float32)
    if framework == "torch":
        memory = torch.from_numpy(memory)
    out = {"a": memory[:, :4], "b": memory[:, 4:]}
    merge_state_dicts(*two_results(), density=1.0, out=out)
    assert np.array_equal(np.asarray(memory), np.repeat([[1, 2]], 4, axis=1).repeat(3, axis=0))


SHARED: dict[str, Callable[[], tuple[Any, Any]]] = {
    "one array": lambda: (room := np.zeros((3, 4), np.float32), room),
    "one tensor": lambda: (room := torch.zeros(3, 4), room),
    "a tensor and its array": lambda: (room := torch.zeros(3, 4), room.numpy()),
    "turned": lambda: (room := np.zeros((3, 4), np.float32), room[::-1]),
    "columns": lambda: ((room := torch.zeros(3, 7))[:, :4], room[:, 3:]),
    "another dtype": lambda: (room := torch.zeros(3, 4), room.view(torch.bfloat16)[:, 4:]),
}


@pytest.mark.parametrize("kind", SHARED)
def test_results_that_share_memory_are_refused(kind: str) -> None:
    first, second = SHARED[kind]()
    message = "^out: tensors 'a' and 'b' share memory, expected one array for each result"
    with pytest.raises(InputError, match=message):
        merge_state_dicts(*two_results(), density=1.0, out={"a": first, "b": second})
    assert not np.asarray(first).any()


def test_copied_tensors_that_share_memory_are_refused() -> None:
    base = {"m": np.arange(3), "n": np.ones(3, np.int64), "a": BASE["a"]}
    room = np.zeros(3, np.int64)
    with pytest.raises(InputError, match=r"^out: tensors 'm' and 'n' share memory"):
        merge_state_dicts(base, [base], out={"m": room, "n": room, "a": BASE["a"]}, **OPTIONS)
    assert not room.any()


def test_tied_tensors_may_share_memory() -> None:
    tied = [{"a": one["a"], "b": one["a"]} for one in (BASE, *EXPERTS)]
    room = np.zeros(SHAPE, np.float32)
    merged = merge_state_dicts(tied[0], tied[1:], out={"a": room, "b": room}, **OPTIONS)
    assert merged["a"] is room and merged["b"] is room and np.array_equal(room, EXPECTED["a"])
    with pytest.raises(InputError, match=r"^out: tensors 'a' and 'b' share memory"):
        merge_state_dicts(tied[0], tied[1:], out={"a": room, "b": room[::-1]}, **OPTIONS)


def test_inference_tensors_are_filled_in_inference_mode() -> None:
    with torch.inference_mode():
        room = torch.zeros(SHAPE)
        merge_state_dicts(BASE, EXPERTS, out={"a": room, "n": np.zeros(3, np.int64)}, **OPTIONS)
        assert np.array_equal(room.numpy(), EXPECTED["a"])


def inference_tensor() -> torch.Tensor:
    with torch.inference_mode():
        return torch.zeros(SHAPE)


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
    "by 1": (
        {"a": torch.zeros(45).as_strided(SHAPE, (1, 1))},
        "out: tensor 'a' has elements that share memory",
    ),
    "by less than a row": (
        {"a": np.lib.stride_tricks.as_strided(np.zeros(240, np.float32), SHAPE, (156, 4))},
        "out: tensor 'a' has elements that share memory",
    ),
    "by less than an element": (
        {"a": np.lib.stride_tricks.as_strided(np.zeros(240, np.float32), SHAPE, (160, 2))},
        "out: tensor 'a' has elements that share memory",
    ),
    "inference": ({"a": inference_tensor()}, "out: tensor 'a': found an inference tensor"),
    "gradient": (
        {"a": torch.zeros(SHAPE, requires_grad=True)},
        "out: tensor 'a': found a tensor that requires grad",
    ),
    "sparse": ({"a": torch.zeros(SHAPE).to_sparse()}, "out: tensor 'a': found layout"),
    "meta": ({"a": torch.empty(SHAPE, device="meta")}, "out: tensor 'a': found a meta tensor"),
    "dtype": (
        {"a": np.zeros(SHAPE, np.complex64), "n": np.zeros(3, np.int64)},
        "out: tensor 'a': found dtype complex64",
    ),
    "copied": (
        {"a": np.zeros(SHAPE, np.float32), "n": np.zeros(3, np.int32)},
        "out: tensor 'n': found dtype int32, expected int64",
    ),
    "integers": (
        {"a": np.zeros(SHAPE, np.int32), "n": np.zeros(3, np.int64)},
        "out: tensor 'a': found dtype int32",
    ),
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
