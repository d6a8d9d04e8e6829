"""Candidates of a sweep share what is held in memory, where they are at the same tensors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tallies import sweep
from tests.support import misleading
from tests.support.checkpoints import assert_same_tensors, read, write
from tests.support.merges import request
from tests.support.sweeps import alone, assert_as_alone, rows_of

CASES: dict[str, tuple[str, dict[str, Any], dict[str, Any], dict[str, list[Any]]]] = {
    "ties by tensor": ("ties", {"scope": "tensor"}, {}, {"density": [0.2, 0.5], "lambda": [1, 2]}),
    "ties, mergekit": ("ties", {}, {"semantics": "mergekit"}, {"density": [0.2, 0.5]}),
    "ties, l1": (
        "ties",
        {"rescale": "l1"},
        {"semantics": "mergekit"},
        {"density": [0.2, 0.5], "models.0.weight": [1, -2]},
    ),
    "some without ranks": (
        "ties",
        {"scope": "tensor"},
        {},
        {"density": [0.2, 1], "lambda": [1, 2]},
    ),
    "some without ranks, l1": (
        "ties",
        {"rescale": "l1"},
        {"semantics": "mergekit"},
        {"density": [0.2, 1]},
    ),
    "breadcrumbs": (
        "breadcrumbs_ties",
        {"gamma": 0.1},
        {"semantics": "mergekit"},
        {"density": [0.5, 0.6], "lambda": [1, 2]},
    ),
    "sce": ("sce", {}, {}, {"select_topk": [0.4, 0.7]}),
    "pcb": ("pcb", {}, {}, {"ratio": [0.2, 0.4]}),
}


def recipe_of(root: Path, method: str, parameters: dict[str, Any], **keys: Any) -> dict[str, Any]:
    models = misleading.models("smooth", by_tensor=True)
    base, *experts = (write(root / f"m{i}", one) for i, one in enumerate(models))
    return request(method, experts, base=base, parameters=parameters, **keys)


def files_read() -> int:
    """Return the bytes that the kernel has counted for all reads of this process."""
    with open("/proc/self/io") as counts:
        return int(counts.readline().split()[1])


@pytest.mark.parametrize("case", CASES)
def test_candidates_share_one_read(tmp_path: Path, case: str) -> None:
    method, parameters, keys, grid = CASES[case]
    recipe = recipe_of(tmp_path, method, parameters, **keys)
    models = [tmp_path / f"m{i}" / "model.safetensors" for i in range(3)]
    n_bytes = sum(model.stat().st_size for model in models)
    shares = {}
    for room in ("1MiB", "256MiB"):
        before = files_read()
        sweep(recipe, grid, tmp_path / room, max_memory=room, threads=2)
        shares[room] = (files_read() - before) / n_bytes
    assert shares["256MiB"] < 1.5
    assert shares["256MiB"] < shares["1MiB"] - 0.2
    for number, settings in enumerate(rows_of(grid), 1):
        alone(recipe, settings, tmp_path / "alone" / str(number))
        for room in shares:
            assert_same_tensors(
                read(tmp_path / room / f"{number:04}"), read(tmp_path / "alone" / str(number))
            )


@pytest.mark.parametrize("room", ["64KiB", "4MiB", "256MiB"])
def test_candidates_at_other_tensors(tmp_path: Path, room: str) -> None:
    """Methods of other batches, of no survey, and of the whole model go side by side."""
    recipe = recipe_of(tmp_path, "ties", {}, max_shard_size=700_000)
    grid: dict[str, list[Any]] = {
        "merge_method": ["ties", "breadcrumbs_ties", "sce"],
        "semantics": ["paper", "mergekit"],
    }
    assert_as_alone(recipe, grid, tmp_path, max_memory=room)
    recipe["parameters"]["density"] = 0.3
    scopes = {"scope": ["model", "tensor"], "equal": ["keep", "first"], "lambda": [1, 2]}
    assert_as_alone(recipe, scopes, tmp_path / "scopes", max_memory=room)


def test_arrays_of_tensors_that_are_held(tmp_path: Path) -> None:
    recipe = recipe_of(tmp_path, "ties", {"scope": "tensor"})
    grid: dict[str, list[Any]] = {"density": [0.2, 0.5], "lambda": [1, 2]}
    rows = rows_of(grid)
    for number, settings in enumerate(rows):
        alone(recipe, settings, tmp_path / str(number))
    expected = [read(tmp_path / str(number)) for number in range(len(rows))]
    for name, pairs in sweep(recipe, grid, by="tensor", max_memory="256MiB"):
        for settings, values in pairs:
            number = rows.index(settings)
            assert_same_tensors({name: values}, {name: expected[number][name]})
