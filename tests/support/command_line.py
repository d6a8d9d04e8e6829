"""Two small experts, and the command line in this process."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tests.support.checkpoints import Array, Model
from tests.support.command import assert_failed, tallies


def f32(values: object) -> Array:
    return np.array(values, np.float32)


def printed(*arguments: object) -> str:
    """Run a command that succeeds, and return its output."""
    ended = tallies(*arguments)
    assert (ended.status, ended.err) == (0, "")
    return ended.out


def refused(arguments: Sequence[object], *parts: str) -> None:
    """Run a command that is refused on one line with these parts."""
    line = assert_failed(tallies(*arguments), 2)
    for part in parts:
        assert part in line


BASE: Model = {"w": f32([[1, 2], [3, 4]]), "v": f32([0.5])}
EXPERTS: list[Model] = [
    {"w": f32([[2, 2], [2, 5]]), "v": f32([1.5])},
    {"w": f32([[0, 3], [1, 6]]), "v": f32([-0.25])},
]


TIES = ("--method", "ties", "--base", "base", "--model", "a", "--model", "b")
