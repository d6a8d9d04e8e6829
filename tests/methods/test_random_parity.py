"""Random drops against mergekit, PEFT and fusion_bench, which are handed our random numbers.

torch adds magnitudes in float32 in an order of its own and divides where the library multiplies by
an inverse: results agree within the roundings of that, and what is dropped exactly.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tallies import merge_state_dicts
from tests.reference import della, random
from tests.reference.dtype import Array

SHAPES = ((40, 16), (16,), (1, 33), (7, 50))
CASES: dict[str, dict[str, Any]] = {
    f"{method}, {density}, {rescale}, {i}": {
        "tool": "mergekit",
        "method": method,
        "density": density,
        "epsilon": 0.1,
        "rescale": rescale,
        "shape": shape,
    }
    for method in ("random", "della_magprune")
    for density in (0.25, 0.7)
    for rescale in (True, False)
    for i, shape in enumerate(SHAPES)
} | {
    f"peft, {density}, {i}": {"tool": "peft", "density": density, "shape": shape}
    for density in (0.25, 0.7)
    for i, shape in enumerate(SHAPES)
}

BENCH: dict[str, dict[str, Any]] = {
    f"fusionbench, {density}, {rescale}, {i}": {
        "tool": "fusionbench",
        "density": density,
        "rescale": rescale,
        "shape": shape,
    }
    for density in (0.25, 0.7)
    for rescale in (True, False)
    for i, shape in enumerate(SHAPES)
}

BENCH_TIES: dict[str, dict[str, Any]] = {
    f"fusionbench ties, {func}, {trim}": {
        "tool": "fusionbench",
        "density": 0.5,
        "rescale": True,
        "trim": trim,
        "func": func,
        "shape": (3, 400),
    }
    for func in ("sum", "mean", "max")
    for trim in (20, 45)
}
"""Shapes of three experts, whose rows are given their own random numbers."""


def task_vector(name: str) -> Array:
    """Distinct magnitudes, some of which are left out of sorting by being zero in all rows."""
    cases = CASES | BENCH | BENCH_TIES
    shape = cases[name]["shape"]
    rng = np.random.default_rng([*cases].index(name))
    sizes = (1 + rng.permutation(int(np.prod(shape)))) / 64
    return (sizes * rng.choice([-1, 1], sizes.size)).astype(np.float32).reshape(shape)


@pytest.fixture(scope="module")
def by_the_tools(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Array]:
    """Run the tools on every case, in one process: their imports take seconds."""
    python = os.environ.get("TALLIES_MERGEKIT_PYTHON")
    if not python:
        reason = "TALLIES_MERGEKIT_PYTHON does not name a Python with mergekit; `make test` does"
        (pytest.fail if os.environ.get("CI") else pytest.skip)(reason)
    return run(python, CASES, tmp_path_factory.mktemp("random"))


@pytest.fixture(scope="module")
def by_fusion_bench(
    fusion_bench_python: str, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Array]:
    return run(fusion_bench_python, BENCH | BENCH_TIES, tmp_path_factory.mktemp("random"))


def run(python: str, cases: dict[str, dict[str, Any]], root: Path) -> dict[str, Array]:
    """Run the tools of that Python on the cases."""
    arrays = {}
    for name in cases:
        x = task_vector(name)
        experts = x if name in BENCH_TIES else [x]
        drawn = [random.numbers(random.key(0, e, "x"), one.size) for e, one in enumerate(experts)]
        numbers = np.stack(drawn).reshape(x.shape)
        arrays |= {f"{name}.x": x, f"{name}.numbers": numbers / random.N_NUMBERS}
    np.savez(root / "arrays.npz", **arrays)
    (root / "cases.json").write_text(json.dumps(cases))
    script = Path(__file__).parents[1] / "support" / "run_sparsify.py"
    files = [str(root / name) for name in ("cases.json", "arrays.npz", "out.npz")]
    done = subprocess.run(
        [python, "-I", str(script), *files],
        capture_output=True,
        text=True,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    with np.load(root / "out.npz") as found:
        return dict(found)


@pytest.mark.parametrize("name", CASES)
def test_the_same_entries_stay_and_are_scaled_alike(
    name: str, by_the_tools: dict[str, Array]
) -> None:
    case, x = CASES[name], task_vector(name)
    options: dict[str, Any] = {"method": "dare_linear", "semantics": case["tool"]}
    if case["tool"] == "mergekit":
        options["rescale"] = case["rescale"]
        if case["method"] == "della_magprune":
            options |= {"method": "della_linear", "epsilon": case["epsilon"]}
    base = {"x": np.zeros_like(x)}
    found = merge_state_dicts(base, [{"x": x}], density=case["density"], **options)["x"]
    expected = by_the_tools[name]
    assert np.array_equal(found != 0, expected != 0)
    # Half a unit for each of n additions and of the steps after them, in both sums.
    bound = (x.size + 4) * np.finfo(np.float32).eps * np.abs(expected)
    assert (np.abs(found - expected) <= bound).all()
    if not case.get("rescale", True):
        assert np.array_equal(found, expected)
    if options["method"] == "della_linear":
        chances = della.chances(x, case["density"], case["epsilon"])
        assert np.allclose(by_the_tools[f"{name}.chances"], chances, rtol=0, atol=2**-22)


@pytest.mark.parametrize("name", BENCH)
def test_the_drop_of_fusion_bench(name: str, by_fusion_bench: dict[str, Array]) -> None:
    case, x = BENCH[name], task_vector(name)
    base = {"x": np.zeros_like(x)}
    options: dict[str, Any] = {"density": case["density"], "rescale": case["rescale"], "scale": 1}
    found = merge_state_dicts(
        base, [{"x": x}], method="dare_linear", semantics="fusionbench", **options
    )["x"]
    expected = by_fusion_bench[name]
    assert np.array_equal(found != 0, expected != 0)
    # The inverse is rounded, and the product.
    assert (np.abs(found - expected) <= np.finfo(np.float32).eps * np.abs(expected)).all()


@pytest.mark.parametrize("name", BENCH_TIES)
def test_the_trim_of_fusion_bench(name: str, by_fusion_bench: dict[str, Array]) -> None:
    case, rows = BENCH_TIES[name], task_vector(name)
    base = {"x": np.zeros_like(rows[0])}
    options = {"trim_density": case["trim"] / 100, "merge_func": case["func"]}
    found = merge_state_dicts(
        base, [{"x": x} for x in rows], method="dare_ties", semantics="fusionbench", **options
    )["x"]
    expected = by_fusion_bench[name]
    # Values and their sums are short binary fractions: density 0.5 and scale 0.5 round nothing.
    bound = np.finfo(np.float32).eps * np.abs(expected) if case["func"] == "mean" else 0
    assert (np.abs(found - expected) <= bound).all()
    assert 0 < np.count_nonzero(found) < found.size
