"""``ties`` with ``semantics: peft`` and ``fusionbench`` against the installed tools, bit for bit.

Both have it as a function of task vectors: peft of those of one tensor, fusion_bench of those of a
whole model. As with mergekit, magnitudes are unique where peft would choose among equal ones, and
torch adds rows in their order only up to four of them.
"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from tallies import merge_state_dicts

Rows = npt.NDArray[np.float32]

PEFT: dict[str, dict[str, Any]] = {
    "a fifth": {"weights": [1.0, 1.0, 1.0], "density": 0.2},
    "weights": {"weights": [0.3, 1.7, 0.2, 0.9], "density": 0.53},
    "weights of both signs": {"weights": [1.0, -0.4, 0.7], "density": 0.5},
    "a weight of nothing": {"weights": [0.0, 1.0], "density": 0.5},
    "untrimmed": {"weights": [0.4, 0.3, 0.9, 1.0], "density": 1.0},
    "nothing": {"weights": [1.0, 1.0], "density": 0.0},
    "most entries": {
        "weights": [0.4, 0.3, 0.9],
        "density": 0.4,
        "majority_sign_method": "frequency",
    },
}
BENCH: dict[str, dict[str, Any]] = {
    "defaults": {},
    "mean": {"merge_func": "mean", "scale": 1.0},
    "max": {"merge_func": "max", "scale": 0.7, "density": 0.55},
    "untrimmed but for one": {"density": 0.9999, "scale": 1.0},
}


def task_vectors() -> dict[str, Rows]:
    """Stacks of four, with unique magnitudes, zeros, and entries that cancel exactly."""
    rng = np.random.default_rng(0)
    stacks = {}
    for name, size in (("few", 7), ("many", 5000)):
        steps = np.stack([1 + rng.permutation(4 * size)[:size] for _ in range(4)])
        rows = (steps * rng.choice([-1, 1], steps.shape) / 1024).astype(np.float32)
        rows[:, 5::9] = 0
        # Above all other magnitudes, and mostly of one sign elsewhere.
        opposed = rows[:2, 1::9]
        opposed[:] = 64 + np.arange(opposed.shape[1]) / 8
        opposed[1] *= -1
        rows[2:, 1::9] = 0
        stacks[name] = rows
    return stacks


@pytest.fixture(scope="module")
def by_tools(fusion_bench_python: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Rows]:
    """Run the tools on every case, in one process."""
    folder = tmp_path_factory.mktemp("ties")
    given, made = folder / "in.npz", folder / "out.npz"
    np.savez(given, **task_vectors())
    cases: dict[str, Any] = {
        f"peft, {name}": ("peft", len(case["weights"]), case) for name, case in PEFT.items()
    }
    for name, case in BENCH.items():
        arguments = {"scale": 0.3, "merge_func": "sum", "density": 0.2, **case}
        arguments["reset_thresh"] = arguments.pop("density")
        cases[f"fusionbench, {name}"] = ("fusionbench", 3, arguments)
    script = Path(__file__).parents[1] / "support" / "run_ties.py"
    done = subprocess.run(
        [fusion_bench_python, "-I", str(script), str(given), str(made)],
        input=json.dumps(cases),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return dict(np.load(made))


def ours(rows: Rows, semantics: str, **options: Any) -> Rows:
    """Our result on a base of zeros."""
    base = {"x": np.zeros(rows.shape[1], np.float32)}
    experts = [{"x": row} for row in rows]
    merged = merge_state_dicts(base, experts, method="ties", semantics=semantics, **options)
    return np.asarray(merged["x"])


@pytest.mark.parametrize("stack", task_vectors())
@pytest.mark.parametrize("case", PEFT)
def test_same_bits_as_peft(case: str, stack: str, by_tools: dict[str, Rows]) -> None:
    options = dict(PEFT[case])
    rows = task_vectors()[stack][: len(options["weights"])]
    # A sum with a base of zero makes every zero positive.
    expected = np.float32(0) + by_tools[f"peft, {case}/{stack}"]
    assert ours(rows, "peft", **options).tobytes() == expected.tobytes()


@pytest.mark.parametrize("stack", task_vectors())
@pytest.mark.parametrize("case", BENCH)
def test_same_bits_as_fusion_bench(case: str, stack: str, by_tools: dict[str, Rows]) -> None:
    rows = task_vectors()[stack][:3]
    expected = np.float32(0) + by_tools[f"fusionbench, {case}/{stack}"]
    assert ours(rows, "fusionbench", **BENCH[case]).tobytes() == expected.tobytes()
