"""Elements of tensors are changed where they lie, by their bytes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tallies.torch import ops
from tests.reference import changed_elements as reference
from tests.reference.changed_elements import BLOCK, CODINGS, UNDONE
from tests.support.exact_changes import UNITS, Array, differing, random_words

assert ops

SIGNED = {1: np.uint8, 2: np.int16, 4: np.int32, 8: np.int64}


def tensor_of(x: Array) -> Tensor:
    """The bits as a tensor of the whole numbers that the operator takes."""
    return torch.from_numpy(x.view(SIGNED[x.itemsize]).copy())


def arguments(changes: reference.Changes, coding: str) -> list[Any]:
    blocks = torch.from_numpy(changes.blocks.view(np.int32).copy())
    positions = torch.from_numpy(changes.positions.copy())
    return [positions, blocks, tensor_of(changes.values), changes.layout, coding]


@pytest.mark.parametrize("density", [0.0, 0.01, 0.4, 1.0])
@pytest.mark.parametrize("unit", UNITS)
def test_changes_are_made_and_undone(unit: int, density: float) -> None:
    draw = np.random.default_rng(unit)
    n = BLOCK + 999
    old = random_words(draw, unit, n)
    new = differing(old, draw.random(n) < density, draw)
    for coding in CODINGS:
        changes = reference.find(old, new, coding)
        elements = tensor_of(old)
        torch.ops.tallies.change_elements_(elements, *arguments(changes, coding))
        assert torch.equal(elements, tensor_of(new))
        if coding in UNDONE:
            torch.ops.tallies.change_elements_(elements, *arguments(changes, UNDONE[coding]))
            assert torch.equal(elements, tensor_of(old))


def test_other_arguments_are_refused() -> None:
    old = np.zeros(9, np.int16)
    new = old.copy()
    new[3] = 7
    positions, blocks, values, layout, coding = arguments(reference.find(old, new, "xor"), "xor")
    given = {
        "elements": torch.zeros(9, dtype=torch.int16),
        "positions": positions,
        "blocks": blocks,
        "values": values,
        "layout": layout,
        "coding": coding,
    }
    for name, other, message in [
        ("elements", torch.zeros(9), "elements: found dtype float32, expected uint8"),
        ("elements", torch.zeros(18, dtype=torch.int16)[::2], "elements: .* do not lie in order"),
        ("elements", torch.zeros(3, dtype=torch.int16), "reach element 4, expected at most 3"),
        ("values", torch.zeros(1, dtype=torch.int32), "values: found dtype int32, expected int16"),
        ("values", torch.zeros(2, dtype=torch.int16), "4 bytes of values, expected 2"),
        ("blocks", blocks.repeat(2, 1), "blocks: found 4 numbers, expected 2"),
        ("layout", "dense", "blocks: found 2 numbers, expected 0"),
        ("layout", "holes", "layout: found 'holes', expected one of none, gaps, mask, dense"),
        ("coding", "and", "coding: found 'and', expected one of xor"),
    ]:
        with pytest.raises(RuntimeError, match=message):
            torch.ops.tallies.change_elements_(**(given | {name: other}))
    torch.ops.tallies.change_elements_(**given)
    assert given["elements"].tolist() == new.tolist()
