"""Masks of the largest magnitudes."""

from __future__ import annotations

import numpy as np
from hypothesis import given

from tests.reference import magnitude, tall
from tests.reference.select import keep
from tests.support import strategies
from tests.support.bits import f32
from tests.support.task_masks import FEWER, is_set, trained


@FEWER
@given(strategies.models(), strategies.densities())
def test_magnitude_marks_the_largest_of_all_trained(
    models: strategies.Models, density: float
) -> None:
    names, tasks = trained(models)
    for x, masks in zip(tasks, magnitude.masks(tasks, density), strict=True):
        whole = np.concatenate([f32(), *(x[name].ravel() for name in names)])
        marked = [bit for name in names for bit in is_set(masks, name, x[name].size)]
        assert marked == keep(whole, density).tolist()


def test_magnitude_unpacks_the_sum_where_the_task_is_largest() -> None:
    base = {"w": f32(1, 1, 1)}
    tasks = tall.vectors(base, [{"w": f32(6, 2, 1)}, {"w": f32(2, 2, 4)}], ["w"])
    shared = tall.shared_vector(tasks)
    assert shared["w"].tolist() == [6, 2, 3]
    (first, second) = magnitude.masks(tasks, 0.0001)
    assert tall.unpack(base, shared, first)["w"].tolist() == [7, 1, 1]
    assert tall.unpack(base, shared, second)["w"].tolist() == [1, 1, 4]
