"""Cancelled votes in the arrays of a sweep: those with the wrong sign are mended in memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from tallies import sweep
from tallies._core import Limits, Plan
from tallies.engine import combining
from tallies.merging import array_merge, sweep_arrays, sweep_run
from tests.support import merges
from tests.support.checkpoints import Model, assert_same_tensors, read, write
from tests.support.merges import BF16
from tests.support.sweeps import alone, rows_of

SCOPES = ("model", "tensor")


class Watched(Plan):
    """A plan that notes its combines, and the elements that it mended."""

    combined: ClassVar[list[int]] = []
    mended: ClassVar[list[int]] = []

    def combine(self, **options: Any) -> Any:
        self.combined.append(len(options["tasks"]))
        return super().combine(**options)

    def mend(self, **options: Any) -> Any:
        found = super().mend(**options)
        self.mended.extend(one.n_mended for one in found)
        return found


@pytest.fixture(autouse=True)
def watched(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweep_run, "Plan", Watched)
    # Several tiles a tensor, so that the majority turns within one.
    monkeypatch.setattr(
        sweep_arrays, "tile_limits", lambda _, threads: Limits(threads, 1 << 13, list_bytes=1 << 24)
    )
    Watched.combined.clear()
    Watched.mended.clear()


def grid_of(scope: str) -> dict[str, list[Any]]:
    return {"scope": [scope], "density": [0.6, 0.9], "lambda": [1, -0.5]}


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Three experts whose votes are positive in the first third of each tensor, then negative."""
    rng = np.random.default_rng(7)
    root = tmp_path_factory.mktemp("models")
    shapes = {"a": (300, 40), "b": (9, 1000), "c": (), "d": (7000,), "e": (0, 3)}
    base = {name: (rng.integers(-8, 8, shape) / 4).astype(BF16) for name, shape in shapes.items()}
    experts: list[Model] = []
    for _ in range(3):
        expert: Model = {}
        for name, tensor in base.items():
            steps = rng.integers(-4, 5, tensor.size) / 4
            one_way = np.where(np.arange(tensor.size) < tensor.size // 3, 1, -1)
            steps = np.where(rng.random(tensor.size) < 0.2, one_way, steps)
            expert[name] = (tensor.astype(np.float32) + steps.reshape(tensor.shape)).astype(BF16)
        experts.append(expert)
    base_path, *paths = (write(root / f"m{i}", one) for i, one in enumerate([base, *experts]))
    return merges.request("ties", paths, base=base_path)


@pytest.fixture(scope="module", params=SCOPES)
def expected(
    request: pytest.FixtureRequest, recipe: dict[str, Any], tmp_path_factory: Any
) -> tuple[str, list[Model]]:
    """The scope of the ranks and of the majority, and the results of single merges."""
    root: Path = tmp_path_factory.mktemp("alone")
    rows = rows_of(grid_of(request.param))
    for number, settings in enumerate(rows):
        alone(recipe, settings, root / str(number))
    return request.param, [read(root / str(number)) for number in range(len(rows))]


def by_tensor(recipe: dict[str, Any], scope: str, **options: Any) -> tuple[list[Model], list[str]]:
    """The tensors of each candidate as they came last, and all names in the order of coming."""
    rows = rows_of(grid_of(scope))
    found: list[Model] = [{} for _ in rows]
    names = []
    for name, pairs in sweep(recipe, grid_of(scope), by="tensor", **options):
        names.append(name)
        for settings, values in pairs:
            found[rows.index(settings)][name] = values.copy()
    return found, names


@pytest.mark.parametrize("threads", [1, 3])
def test_whole_models_are_read_once(
    recipe: dict[str, Any], expected: tuple[str, list[Model]], threads: int
) -> None:
    scope, models = expected
    found = [tensors for _, tensors in sweep(recipe, grid_of(scope), threads=threads)]
    for tensors, model in zip(found, models, strict=True):
        assert_same_tensors(tensors, model)
    assert len(Watched.combined) == 1
    assert sum(Watched.mended) > 0


@pytest.mark.parametrize("threads", [1, 3])
def test_tensors_in_hand_are_read_once(
    recipe: dict[str, Any], expected: tuple[str, list[Model]], threads: int
) -> None:
    scope, models = expected
    found, names = by_tensor(recipe, scope, threads=threads)
    for tensors, model in zip(found, models, strict=True):
        assert_same_tensors(tensors, model)
    assert len(names) == len(set(names))
    assert len(Watched.combined) == 1
    assert sum(Watched.mended) > 0


@pytest.mark.parametrize("group_bytes", [0, 1 << 17])
def test_tensors_that_were_handed_over_come_again(
    recipe: dict[str, Any],
    expected: tuple[str, list[Model]],
    group_bytes: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    scope, models = expected
    monkeypatch.setattr(array_merge, "_GROUP_BYTES", group_bytes)
    found, names = by_tensor(recipe, scope, threads=2)
    for tensors, model in zip(found, models, strict=True):
        assert_same_tensors(tensors, model)
    # The majority of the model is known at the end, that of a tensor while it is in hand.
    assert (len(names) > len(set(names))) is (scope == "model")


def test_lists_without_room_are_no_loss(
    recipe: dict[str, Any], expected: tuple[str, list[Model]], monkeypatch: pytest.MonkeyPatch
) -> None:
    scope, models = expected
    original = combining.CancelledVotes
    monkeypatch.setattr(combining, "CancelledVotes", lambda list_bytes: original(list_bytes=4000))
    for found in (
        [tensors for _, tensors in sweep(recipe, grid_of(scope))],
        by_tensor(recipe, scope)[0],
    ):
        for tensors, model in zip(found, models, strict=True):
            assert_same_tensors(tensors, model)
    assert len(Watched.combined) > 2
