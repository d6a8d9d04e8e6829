"""Sweeps whose results are arrays: whole models, and tensors one after the other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tallies import InputError, sweep
from tallies.merging import array_merge
from tests.support import stages
from tests.support.checkpoints import Model, assert_same_tensors, read, write
from tests.support.sweeps import alone, rows_of

GRID = {"density": [0.2, 0.6, 1], "scope": ["model", "tensor"], "lambda": [1, -0.5]}


@pytest.fixture(scope="module")
def expected(recipe: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> list[Model]:
    root = tmp_path_factory.mktemp("alone")
    found = []
    for number, settings in enumerate(rows_of(GRID)):
        alone(recipe, settings, root / str(number))
        found.append(read(root / str(number)))
    return found


def kept(recipe: Any, grid: Any, **options: Any) -> tuple[list[Model], list[str]]:
    """The tensors of each candidate as they came last, and the names in the order of coming."""
    rows = rows_of(grid)
    found: list[Model] = [{} for _ in rows]
    names = []
    for name, pairs in sweep(recipe, grid, by="tensor", **options):
        names.append(name)
        for settings, values in pairs:
            found[rows.index(settings)][name] = values.copy()
    return found, names


@pytest.mark.parametrize("at_once", [None, 1, 5])
def test_whole_models(recipe: dict[str, Any], expected: list[Model], at_once: int | None) -> None:
    found = list(sweep(recipe, GRID, at_once=at_once))
    assert [settings for settings, _ in found] == rows_of(GRID)
    for (_, tensors), model in zip(found, expected, strict=True):
        assert_same_tensors(tensors, model)
        assert tensors["lm_head.weight"] is tensors["model.embed_tokens.weight"]


@pytest.mark.parametrize("group_bytes", [0, 1 << 19, 1 << 30])
@pytest.mark.parametrize("at_once", [None, 5])
def test_tensor_by_tensor(
    recipe: dict[str, Any],
    expected: list[Model],
    group_bytes: int,
    at_once: int | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(array_merge, "_GROUP_BYTES", group_bytes)
    found, names = kept(recipe, GRID, at_once=at_once, max_memory="64KiB", threads=2)
    for tensors, model in zip(found, expected, strict=True):
        assert_same_tensors(tensors, model)
    if at_once is None:
        # The majority of the signs is negative only at the end, so that some come again.
        assert names.count("a.few") > 1 or group_bytes


def test_grids_of_arrays_and_ranges(recipe: dict[str, Any]) -> None:
    grid: dict[str, Any] = {"density": np.linspace(0.25, 0.75, 3), "seed": range(2)}
    rows = [settings for settings, _ in sweep(recipe, grid)]
    assert rows == [{"density": d, "seed": s} for d in (0.25, 0.5, 0.75) for s in (0, 1)]
    assert {type(value) for row in rows for value in row.values()} == {float, int}


def test_torch_tensors(recipe: dict[str, Any], expected: list[Model]) -> None:
    torch = pytest.importorskip("torch")
    for (_, tensors), model in zip(sweep(recipe, GRID, framework="torch"), expected, strict=True):
        assert all(isinstance(one, torch.Tensor) for one in tensors.values())
        assert_same_tensors({name: one.numpy() for name, one in tensors.items()}, model)


def test_methods_of_several_reads(tmp_path: Path) -> None:
    recipe = stages.models(tmp_path) | {"parameters": {}, "merge_method": "linear"}
    grid = {"merge_method": ["linear", "task_arithmetic", "ties"]}
    found, _ = kept(recipe, grid)
    for number, settings in enumerate(rows_of(grid)):
        alone(recipe, settings, tmp_path / f"out{number}")
        assert_same_tensors(found[number], read(tmp_path / f"out{number}"))


def test_values_that_overflow_are_named(tmp_path: Path) -> None:
    base = {"w": np.ones((3, 3), np.float16), "v": np.ones(5, np.float32)}
    paths = [write(tmp_path / name, base) for name in "ab"]
    write(tmp_path / "c", {**base, "w": base["w"] * np.float16(2)})
    recipe = {
        "merge_method": "task_arithmetic",
        "base_model": str(paths[0]),
        "models": [{"model": str(paths[1])}, {"model": str(tmp_path / "c")}],
    }
    with pytest.raises(InputError, match=r"tensor 'w': merged values overflow F16"):
        list(sweep(recipe, {"lambda": [1, 1e6]}))
    with pytest.raises(InputError, match=r"tensor 'w': merged values overflow F16"):
        sweep(recipe, {"lambda": [1, 1e6]}, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b", "c"]


@pytest.mark.parametrize("by", ["candidate", "tensor"])
def test_values_that_are_not_finite_are_warned_of(tmp_path: Path, by: str) -> None:
    base = {"v": np.ones(5, np.float32), "w": np.ones((3, 3), np.float32)}
    other = {**base, "w": np.full((3, 3), np.nan, np.float32)}
    paths = [write(tmp_path / "base", base), write(tmp_path / "other", other)]
    recipe = {
        "merge_method": "task_arithmetic",
        "base_model": str(paths[0]),
        "models": [{"model": str(paths[1])}],
    }
    with pytest.warns(UserWarning, match="tensor 'w' has 9 NaN") as told:
        list(sweep(recipe, {"lambda": [1, 2]}, by=by, nonfinite="warn"))
    assert [Path(one.filename).name for one in told] == [Path(__file__).name]


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"by": "layer"}, "by 'layer' is not known"),
        ({"framework": "jax"}, "framework 'jax' is not known"),
        ({"at_once": 0}, "at least 1"),
        ({"at_once": True}, "expected a number"),
        ({"out": "x", "by": "tensor"}, "are of arrays"),
    ],
)
def test_refusals(recipe: dict[str, Any], options: dict[str, Any], text: str) -> None:
    with pytest.raises(InputError, match=text):
        sweep(recipe, {"density": [1]}, **options)
