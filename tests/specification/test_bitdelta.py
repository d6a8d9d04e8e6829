"""BitDelta's signs and scales, and tensors that it keeps dense."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
from hypothesis import given

from tests.reference import bitdelta
from tests.reference.dtype import narrow, widen
from tests.support import strategies
from tests.support.bits import NAN, Array, assert_same_bits, f32
from tests.support.task_masks import assert_same_model, is_set


def test_bitdelta_adds_the_mean_where_nothing_moved() -> None:
    """A zero counts as positive, and so does -0."""
    base = {"w": np.array([[1, 1, 1, 1]], np.float32)}
    (task,) = bitdelta.pack(base, [{"w": np.array([[1, 2, -4, 1]], np.float32)}])
    signs = task["w"]
    assert isinstance(signs, bitdelta.SignBits)
    assert signs.scale == 1.5
    assert is_set({"w": signs.bits}, "w", 4) == [True, True, False, True]
    assert bitdelta.unpack(base, task)["w"].tolist() == [[2.5, 2.5, -0.5, 2.5]]
    assert is_set({"w": bitdelta.sign_bits(f32(-0.0, NAN, -1)).bits}, "w", 3) == [True, True, False]


def test_bitdelta_is_for_matrices_outside_the_dense_names() -> None:
    base: dict[str, Array] = {
        "h.0.proj": np.zeros((2, 3), np.float16),
        "h.0.bias": np.zeros(3, np.float16),
        "h.0.conv": np.zeros((1, 2, 3), np.float16),
        "model.embed_tokens": np.zeros((2, 3), np.float16),
        "steps": np.array([[1]]),
        "frozen": np.ones((2, 2), np.float16),
    }
    expert = {
        name: tensor if name == "frozen" else (tensor + 1 + 2**-12).astype(np.float32)
        for name, tensor in base.items()
    }
    (task,) = bitdelta.pack(base, [{**expert, "steps": np.array([[1]])}])
    assert {name: type(part).__name__ for name, part in task.items()} == {
        "h.0.bias": "ndarray",
        "h.0.conv": "ndarray",
        "h.0.proj": "SignBits",
        "model.embed_tokens": "ndarray",
    }
    out = bitdelta.unpack(base, task)
    for name, tensor in base.items():
        kept = tensor if name in ("steps", "frozen") else expert[name]
        assert_same_bits(out[name], np.ones_like(tensor) if name == "h.0.proj" else kept)
    assert bitdelta.is_binary("lm_head.weight", np.zeros((1, 1)), dense=())
    assert not bitdelta.is_binary("lm_head.weight", np.zeros((1, 1)))


def test_bitdelta_keeps_the_bits_of_dense_tensors() -> None:
    base = {"bias": np.array([1.0, 2.0])}
    expert = {"bias": np.array([0x7FF8_0000_0000_0001, 0x3FF0_0000_0000_0001]).view(np.float64)}
    assert_same_model(bitdelta.unpack(base, bitdelta.pack(base, [expert])[0]), expert)


@given(strategies.groups(np.float16, min_size=1, nonfinite=False))
def test_bitdelta_scale_is_the_mean_magnitude(group: strategies.Group) -> None:
    base = {"w": group.base.reshape(1, -1)}
    tasks = bitdelta.pack(base, [{"w": expert.reshape(1, -1)} for expert in group.experts])
    for task, expert in zip(tasks, group.experts, strict=True):
        if not task:
            continue  # no expert differs from the base
        signs = task["w"]
        assert isinstance(signs, bitdelta.SignBits)
        x = widen(expert) - widen(group.base)
        total = sum(abs(Fraction(float(value))) for value in x)
        assert signs.scale == np.float32(float(total) / x.size)
        out = bitdelta.unpack(base, task)["w"]
        for value, before, moved in zip(out[0], group.base, x, strict=True):
            step = -signs.scale if moved < 0 else signs.scale
            assert_same_bits(value, narrow(np.float32(before) + step, np.float16)[()])
