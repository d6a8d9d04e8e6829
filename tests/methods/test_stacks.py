"""Stacks of experts merge as the matrices that they consist of."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
import pytest

from tallies import inspect, merge, merge_state_dicts, plan
from tests.reference.matrices import iso_c
from tests.support.checkpoints import read, write
from tests.support.matrices import BOUND, MATRIX_METHODS

NAME = "model.layers.0.mlp.experts.gate_up_proj"
SHAPES = [(8, 8, 16), (5, 6, 5), (70, 3, 3), (3, 1, 5), (1, 7, 9), (2, 64, 3)]

Array = npt.NDArray[Any]


def stacks(shape: tuple[int, ...], dtype: Any = np.float32, n: int = 4) -> list[Array]:
    rng = np.random.default_rng(5)
    return [rng.standard_normal(shape).astype(dtype) for _ in range(n)]


def apart(stack: Array, name: str = NAME) -> dict[str, Array]:
    """The matrices of a stack as tensors of their own; their names sort as they lie."""
    return {f"{name}.{i:03}": part for i, part in enumerate(stack)}


@pytest.mark.parametrize("method", MATRIX_METHODS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_a_stack_merges_as_its_matrices_one_by_one(method: str, shape: tuple[int, ...]) -> None:
    more = {"steps": 3} if method in ("wudi", "doge") else {}
    base, *experts = stacks(shape)
    found = merge_state_dicts(
        {NAME: base}, [{NAME: one} for one in experts], method=method, threads=2, **more
    )
    expected = merge_state_dicts(
        apart(base), [apart(one) for one in experts], method=method, threads=2, **more
    )
    assert found[NAME].tobytes() == np.stack(list(expected.values())).tobytes()


@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16, np.float16])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_reference_of_each_matrix(shape: tuple[int, ...], dtype: Any) -> None:
    base, *experts = stacks(shape, dtype)
    found = merge_state_dicts({NAME: base}, [{NAME: one} for one in experts], method="iso_c")[NAME]
    for i, own in enumerate(base.astype(np.float32)):
        deltas = np.stack([one[i].astype(np.float32) - own for one in experts])
        expected = iso_c(deltas)
        error = np.abs(found[i].astype(np.float64) - (own + expected)).max()
        rounding = float(ml_dtypes.finfo(dtype).eps) * np.abs(own + expected).max()
        assert error <= BOUND * np.linalg.norm(expected) + rounding


@pytest.mark.parametrize("shape", [(8, 8, 16), (5, 6, 5)], ids=str)
@pytest.mark.parametrize("max_memory", ["1GiB", "70MiB"])
def test_stacks_on_disk(tmp_path: Path, shape: tuple[int, ...], max_memory: str) -> None:
    models = [{NAME: one, "norm": one[0, 0]} for one in stacks(shape)]
    paths = [write(tmp_path / f"m{i}", one) for i, one in enumerate(models)]
    recipe = {
        "merge_method": "tsv_m",
        "base_model": str(paths[0]),
        "models": [{"model": str(path)} for path in paths[1:]],
    }
    told: list[tuple[int, int]] = []
    report = merge(
        recipe,
        tmp_path / "out",
        max_memory=max_memory,
        progress=lambda *moved: told.append(moved),
    )
    expected = merge_state_dicts(models[0], models[1:], method="tsv_m")
    found = read(tmp_path / "out")
    assert {name: one.tobytes() for name, one in found.items()} == {
        name: one.tobytes() for name, one in expected.items()
    }
    assert report.output.fingerprint == inspect(tmp_path / "out")["fingerprint"]
    assert report.base is not None
    prints = [report.base.fingerprint, *(one.fingerprint for one in report.experts)]
    assert prints == [inspect(path)["fingerprint"] for path in paths]
    assert told[-1][0] == told[-1][1]


def test_a_value_that_is_not_finite_spoils_its_matrix_alone() -> None:
    for shape in ((8, 8, 16), (5, 6, 5)):
        base, *experts = stacks(shape)
        experts[1][2, 0, 1] = np.nan
        found = merge_state_dicts(
            {NAME: base}, [{NAME: one} for one in experts], method="iso_c", nonfinite="propagate"
        )[NAME]
        assert np.isnan(found[2]).all()
        assert np.isfinite(np.delete(found, 2, 0)).all()


@pytest.mark.parametrize(
    ("name", "more"),
    [
        ("conv1.weight", {}),
        ("model.layers.0.mlp.shared_experts.weight", {}),
        (NAME, {"semantics": "fusionbench"}),
        (NAME, {"exclude": "experts"}),
    ],
)
def test_other_tensors_of_three_dimensions_are_no_stacks(name: str, more: dict[str, Any]) -> None:
    base, *experts = stacks((5, 6, 5), n=3)
    found = merge_state_dicts(
        {name: base}, [{name: one} for one in experts], method="iso_c", **more
    )[name]
    mean = sum(one - base for one in experts) / np.float32(2)
    np.testing.assert_allclose(found, base + mean, atol=1e-6)


def test_plans_and_reports_count_what_went_the_other_way(tmp_path: Path) -> None:
    tensors = [
        {NAME: one, "q.weight": one[0], "norm": one[0, 0], "conv.weight": one[:2]}
        for one in stacks((5, 6, 4), n=3)
    ]
    paths = [write(tmp_path / f"m{i}", one) for i, one in enumerate(tensors)]
    recipe = {
        "merge_method": "iso_c",
        "base_model": str(paths[0]),
        "models": [{"model": str(path)} for path in paths[1:]],
    }
    expected = {
        "tensors": 2,
        "matrices": 6,
        "parameters": 144,
        "others": {"rule": "mean", "tensors": 2, "parameters": 52},
    }
    made = plan(recipe)
    report = merge(recipe, tmp_path / "out")
    assert made.to_json_dict()["matrices"] == expected == report.to_json_dict()["matrices"]
    for text in (str(made), str(report)):
        words = " ".join(text.split())
        assert "2 of 4 tensors as 6 matrices (144 parameters)" in words
        assert "2 of 4 by their mean, which are no matrices or excluded (52 parameters" in words
    recipe["merge_method"] = "task_arithmetic"
    assert plan(recipe).to_json_dict()["matrices"] is None
    assert "matri" not in str(plan(recipe))
