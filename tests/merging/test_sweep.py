"""A sweep writes what single merges write, from fewer reads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tallies import MergePlan, merge, plan, sweep
from tallies._core import CombineTask, Plan, Unit
from tallies.merging import sweep_run
from tests.support.checkpoints import Model, write
from tests.support.merges import BF16, request
from tests.support.stages import OPTIONS
from tests.support.sweeps import assert_as_alone

GRIDS: dict[str, tuple[dict[str, Any], dict[str, list[Any]]]] = {
    "densities and scales": ({}, {"density": [0.1, 0.6, 1], "lambda": [1, 0.5]}),
    "density 0 and 1": ({}, {"density": [0, 1], "models.0.weight": [1, -0.5, 0]}),
    "first of equal ones": ({}, {"equal": ["first", "keep"], "density": [0.2, 0.5]}),
    "by tensor": ({}, {"scope": ["tensor", "model"], "density": [0.2, 0.6]}),
    "a density for each model": (
        {"parameters": {}},
        {"models.0.density": [0.3, 0.5], "models.1.density": [0.5], "models.2.density": [1, 0.3]},
    ),
    "gradients": (
        {},
        {"models.1.weight": [[0, 1], [1, 0]], "post_scale": [1, [1, 0.5]]},
    ),
    "methods of one family": (
        {},
        {"merge_method": ["ties", "dare_ties", "breadcrumbs", "della"], "seed": [0, 3]},
    ),
    "draws": ({"merge_method": "dare_linear"}, {"density": [0.3, 0.7], "seed": [0, 1]}),
    "ranks in rows": (
        {"merge_method": "della"},
        {"density": [0.3, 0.7], "epsilon": [0.1, 0.2]},
    ),
    "bands": (
        {"merge_method": "breadcrumbs", "parameters": {}},
        {"density": [0.3, 0.7], "gamma": [0.01, 0.1], "scope": ["row", "tensor"]},
    ),
    "variances": ({"merge_method": "sce", "parameters": {}}, {"select_topk": [0.2, 0.5, 1]}),
    "mergekit's": (
        {"semantics": "mergekit"},
        {"density": [0.2, 0.6], "normalize": [True, False], "lambda": [1, 2]},
    ),
    "a parameter that the recipe lacks": (
        {"semantics": "peft", "parameters": {}},
        {"density": [0.2, 0.6]},
    ),
    "inner products": (
        {"merge_method": "model_stock", "parameters": {}},
        {"post_scale": [1, 0.5]},
    ),
    "linear": (
        {"merge_method": "linear", "parameters": {}},
        {"models.0.weight": [1, 2], "normalize": [True, False]},
    ),
    "layers": ({}, {"layer_scaling.alpha": [0.5, "auto"], "layer_scaling.beta": [1, 2]}),
}


@pytest.mark.parametrize("name", GRIDS)
def test_byte_for_byte_as_alone(recipe: dict[str, Any], tmp_path: Path, name: str) -> None:
    keys, grid = GRIDS[name]
    if "layer_scaling.alpha" in grid:
        keys = {"layer_scaling": {"alpha": 1, "beta": 1}}
    assert_as_alone({**recipe, **keys}, grid, tmp_path, **OPTIONS)


def test_dropped_layers(layers: tuple[list[Model], list[Path]], tmp_path: Path) -> None:
    base, *models = layers[1]
    recipe = request("ties", models, base=base, drop_layers={"score": "size", "ratio": 0.2})
    assert_as_alone(recipe, {"drop_layers.ratio": [0.2, 0.6], "density": [0.5, 1]}, tmp_path)


@pytest.mark.parametrize("dtype", [np.float32, np.float16, BF16])
@pytest.mark.parametrize("out_dtype", [None, "bfloat16", "float32"])
def test_dtypes_and_files(tmp_path: Path, dtype: Any, out_dtype: str | None) -> None:
    rng = np.random.default_rng(1)
    base = {name: rng.standard_normal((60, 70)).astype(dtype) for name in ("a", "b", "c")}
    paths = [write(tmp_path / "base", base)]
    for number in range(3):
        expert = {
            name: (x.astype(np.float32) + rng.integers(-3, 4, x.shape) / 8).astype(dtype)
            for name, x in base.items()
        }
        paths.append(write(tmp_path / str(number), expert, n_files=1 + number))
    recipe = {
        "merge_method": "ties",
        "base_model": str(paths[0]),
        "models": [{"model": str(path)} for path in paths[1:]],
        "parameters": {"density": 0.5},
        **({"out_dtype": out_dtype} if out_dtype else {}),
    }
    grid = {"density": [0.2, 0.7], "lambda": [1, 0.25, 3], "scope": ["model", "tensor"]}
    assert_as_alone(recipe, grid, tmp_path, max_shard_size=20_000, threads=3)


@pytest.mark.parametrize("dtype", [np.float32, np.float16, BF16])
def test_scales_of_odd_values(tmp_path: Path, dtype: Any) -> None:
    """Candidates that differ in scale share a merged delta, whose odd values stay what they are."""
    rng = np.random.default_rng(2)
    odd = np.array([0, -0.0, np.inf, -np.inf, np.nan, 1e-42, -1e-42, 3e4, -3e4, 1], np.float32)
    models = [
        {name: rng.choice(odd, (37, 211)).astype(dtype) for name in ("a", "b")} for _ in range(4)
    ]
    models[2]["b"] = models[2]["b"].astype(np.float32)
    base, *paths = [write(tmp_path / str(i), model) for i, model in enumerate(models)]
    recipe = request("ties", paths, base=base, nonfinite="propagate")
    grid = {"lambda": [1, 0, -1, 0.3, 1e30], "density": [0.3, 1], "models.1.weight": [1, -2]}
    assert_as_alone(recipe, grid, tmp_path, max_memory="64KiB")


def test_one_combine_reads_for_all(
    recipe: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Eight candidates share a sample and a pass over the inputs, and write eight results."""
    combined: list[CombineTask] = []
    guessed: list[Unit] = []

    class Counting(Plan):
        def combine(self, **options: Any) -> Any:
            combined.extend(task for task in options["tasks"] if task.n_elements is None)
            return super().combine(**options)

        def guess(self, **options: Any) -> Any:
            guessed.extend(options["units"])
            return super().guess(**options)

    monkeypatch.setattr(sweep_run, "Plan", Counting)
    seen: list[int] = []
    grid = {"density": [0.2, 0.6], "lambda": [0.5, 1, 1.5, 2]}
    sweep(recipe, grid, tmp_path / "out", progress=lambda done, whole: seen.append(whole))
    made = plan(recipe)
    assert isinstance(made, MergePlan)
    assert len(combined) == len(made.match.merged)
    assert [len(unit.ranks) for unit in guessed] == [2 * 3]
    assert set(seen) == {made.bytes_combined + 8 * made.bytes_written}
    found = json.loads((tmp_path / "out/sweep.json").read_text())
    assert found["bytes_read"] == made.bytes_combined


def test_the_report_names_settings_and_places(recipe: dict[str, Any], tmp_path: Path) -> None:
    reports = sweep(recipe, {"density": [0.2, 0.6], "lambda": [2]}, tmp_path / "out")
    found = json.loads((tmp_path / "out/sweep.json").read_text())
    assert [(one["path"], one["settings"]) for one in found["candidates"]] == [
        ("0001", {"density": 0.2, "lambda": 2}),
        ("0002", {"density": 0.6, "lambda": 2}),
    ]
    assert (found["n_reads"], found["notes"]) == (1, [])
    for one, report in zip(found["candidates"], reports, strict=True):
        assert one["report"] == json.loads(report.to_json())
        own = json.loads((tmp_path / "out" / one["path"] / "tallies.json").read_text())
        assert one["report"] == own
        # It repeats the candidate's merge.
        again = merge(tmp_path / "out" / one["path"] / "tallies.json", tmp_path / one["path"])
        assert again.output.fingerprint == own["output"]["fingerprint"]


def test_other_reads_are_told(recipe: dict[str, Any], tmp_path: Path) -> None:
    """Methods with a base and methods without one read other bytes."""
    keys = {"parameters": {}, "merge_method": "linear"}
    grid = {"merge_method": ["linear", "task_arithmetic"], "models.0.weight": [1, 2]}
    assert_as_alone({**recipe, **keys}, grid, tmp_path, **OPTIONS)
    found = json.loads((tmp_path / "together/sweep.json").read_text())
    assert found["n_reads"] == 2
    (note,) = found["notes"]
    assert "2 candidates (0001, 0002; linear) share a read" in note


def test_another_sweep_is_replaced_and_nothing_else(recipe: dict[str, Any], tmp_path: Path) -> None:
    out = tmp_path / "out"
    sweep(recipe, {"density": [0.2, 0.6, 0.8]}, out)
    sweep(recipe, {"density": [0.5, 1]}, out, overwrite=True)
    assert sorted(path.name for path in out.iterdir()) == ["0001", "0002", "sweep.json"]
    assert list(tmp_path.iterdir()) == [out]
