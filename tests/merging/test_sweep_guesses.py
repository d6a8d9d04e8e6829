"""Candidates of a sweep share guesses of their thresholds, and one proof of them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest

from tallies import sweep
from tallies._core import Plan
from tallies.merging import array_merge, sweep_run
from tests.support import misleading
from tests.support.checkpoints import Model, assert_same_tensors, read, write
from tests.support.merges import request
from tests.support.misleading import DTYPES
from tests.support.outputs import at_combine, fail
from tests.support.sampling import not_held
from tests.support.sweeps import all_files, alone, assert_as_alone, rows_of

GRID: dict[str, list[Any]] = {"density": [0.1, 0.3, 1], "lambda": [1, 0.5]}
WAYS: dict[str, dict[str, Any]] = {
    "tight": {"max_memory": "64KiB", "threads": 1},
    "roomy": {"threads": 2, "max_shard_size": 700_000},
}


def recipe_of(models: list[Any], root: Path, **parameters: Any) -> dict[str, Any]:
    base, *experts = (write(root / f"m{i}", one) for i, one in enumerate(models))
    return request("ties", experts, base=base, parameters=parameters, nonfinite="propagate")


class Watched(Plan):
    """A plan that notes its samples, selections and settled guesses."""

    samples: ClassVar[list[Any]] = []
    selected: ClassVar[list[Any]] = []
    settled: ClassVar[list[Any]] = []

    def guess(self, **options: Any) -> Any:
        guesses = super().guess(**options)
        self.samples.append((guesses, options.get("data")))
        return guesses

    def select(self, **options: Any) -> Any:
        self.selected.append(options["units"])
        return super().select(**options)

    def settle(self, **options: Any) -> Any:
        settled = super().settle(**options)
        self.settled.append((options["guesses"], settled))
        return settled


@pytest.fixture(autouse=True)
def watched(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Watched]]:
    monkeypatch.setattr(sweep_run, "Plan", Watched)
    for notes in (Watched.samples, Watched.selected, Watched.settled):
        notes.clear()
    with not_held():
        yield Watched


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("equal", ["keep", "first"])
@pytest.mark.parametrize("scope", ["model", "tensor"])
@pytest.mark.parametrize("kind", ["smooth", "a cluster between", "large elsewhere", "odd values"])
def test_any_sample_gives_the_bytes_of_single_merges(
    tmp_path: Path, kind: str, scope: str, equal: str, way: str
) -> None:
    models = misleading.models(kind, by_tensor=scope == "tensor")
    recipe = recipe_of(models, tmp_path, scope=scope, equal=equal)
    assert_as_alone(recipe, GRID, tmp_path, **WAYS[way])
    assert Watched.settled
    assert not Watched.selected


@pytest.mark.parametrize("dtype", DTYPES)
def test_one_tensor_holds_all_large_changes(tmp_path: Path, dtype: str) -> None:
    recipe = recipe_of(misleading.loud(DTYPES[dtype]), tmp_path)
    assert_as_alone(recipe, {**GRID, "models.0.weight": [1, -2]}, tmp_path)


def test_equal_densities_are_searched_once(tmp_path: Path) -> None:
    recipe = recipe_of(misleading.models("smooth", by_tensor=False), tmp_path)
    sweep(recipe, {"density": [0.1, 0.2], "lambda": [1, 2, 3]}, tmp_path / "out")
    ((guesses, data),) = Watched.samples
    assert data is None
    n_experts = len(recipe["models"])
    assert [len(row) for row in guesses.thresholds] == [2 * n_experts]
    assert len(Watched.settled) == 1


def test_other_tensors_together_and_other_methods(tmp_path: Path) -> None:
    """The guesses of most candidates are proven; thresholds of the others are selected."""
    recipe = recipe_of(misleading.models("smooth", by_tensor=False), tmp_path)
    grid = {
        "merge_method": ["ties", "dare_ties", "breadcrumbs_ties"],
        "density": [0.2, 0.4, 0.9],
        "seed": [3],
    }
    assert_as_alone(recipe, grid, tmp_path)
    recipe["parameters"] = {"density": 0.2}
    assert_as_alone(
        recipe,
        {"scope": ["tensor", "model"], "equal": ["first", "keep"], "lambda": [1, 2]},
        tmp_path / "scopes",
    )
    assert Watched.settled
    assert Watched.selected


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("number", [1, 4, 6])
@pytest.mark.parametrize("kind", ["smooth", "a cluster between"])
def test_another_run_goes_on_in_the_middle(
    tmp_path: Path, kind: str, number: int, dtype: str
) -> None:
    """Six candidates have some files each, in turns; the guesses of finished files are kept."""
    models = misleading.models(kind, by_tensor=False, dtype=DTYPES[dtype])
    recipe = recipe_of(models, tmp_path)
    options: dict[str, Any] = {"max_shard_size": 300_000, "threads": 2}
    sweep(recipe, GRID, tmp_path / "whole", **options)
    Watched.samples.clear()
    Watched.settled.clear()
    with pytest.raises(KeyboardInterrupt), at_combine(number, fail(KeyboardInterrupt())):
        sweep(recipe, GRID, tmp_path / "out", resume=True, **options)
    assert not Watched.settled
    sweep(recipe, GRID, tmp_path / "out", resume=True, **options)
    assert len(Watched.settled) == 1
    if number >= 6:
        assert Watched.samples[-1][1] is not None
    for name in (f"{one:04}" for one in range(1, 7)):
        assert all_files(tmp_path / "out" / name) == all_files(tmp_path / "whole" / name)


def test_a_run_with_another_grid_begins_anew(tmp_path: Path) -> None:
    recipe = recipe_of(misleading.models("smooth", by_tensor=False), tmp_path)
    options: dict[str, Any] = {"max_shard_size": 300_000}
    with pytest.raises(KeyboardInterrupt), at_combine(9, fail(KeyboardInterrupt())):
        sweep(recipe, GRID, tmp_path / "out", resume=True, **options)
    others: list[dict[str, list[Any]]] = [
        {"density": [0.1], "lambda": [1]},
        {"density": [0.1, 0.2], "lambda": [1, 0.5]},
    ]
    for grid in others:
        sweep(recipe, grid, tmp_path / "out", resume=True, overwrite=True, **options)
        sweep(recipe, grid, tmp_path / "other", overwrite=True, **options)
        assert all_files(tmp_path / "out/0001") == all_files(tmp_path / "other/0001")


@pytest.mark.parametrize("group_bytes", [0, 1 << 28])
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("scope", ["model", "tensor"])
@pytest.mark.parametrize("kind", ["smooth", "large elsewhere"])
def test_arrays_are_exact_when_they_are_handed_over(
    tmp_path: Path,
    kind: str,
    scope: str,
    way: str,
    group_bytes: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Guesses of the model are as good as others where all of it stays in hand."""
    monkeypatch.setattr(array_merge, "_GROUP_BYTES", group_bytes)
    options = {name: value for name, value in WAYS[way].items() if name != "max_shard_size"}
    models = misleading.models(kind, by_tensor=scope == "tensor")
    recipe = recipe_of(models, tmp_path, scope=scope)
    rows = rows_of(GRID)
    for number, settings in enumerate(rows):
        alone(recipe, settings, tmp_path / str(number))
    expected = [read(tmp_path / str(number)) for number in range(len(rows))]
    names: list[str] = []
    last: list[Model] = [{} for _ in rows]
    for name, pairs in sweep(recipe, GRID, by="tensor", **options):
        names.append(name)
        for settings, values in pairs:
            last[rows.index(settings)][name] = values.copy()
    for tensors, model in zip(last, expected, strict=True):
        assert_same_tensors(tensors, model)
    # The majority of the model's signs, known at the end, may make a tensor again.
    assert scope == "model" or len(names) == len(set(names))
    guessed = scope == "tensor" or group_bytes > 0
    assert (bool(Watched.settled), bool(Watched.selected)) == (guessed, not guessed)
    for (_, tensors), model in zip(sweep(recipe, GRID, **options), expected, strict=True):
        assert_same_tensors(tensors, model)
