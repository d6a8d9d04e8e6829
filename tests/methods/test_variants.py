"""Examples, worked by hand, that tell the variants of methods apart."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import tallies
from tallies import methods
from tests.reference.dtype import Array, Floats
from tests.support.checkpoints import read, write
from tests.support.methods import Rows, f32, merged


def ties(
    root: Path, *deltas: Rows, semantics: str = "paper", weights: Rows = (), **parameters: Any
) -> Floats:
    """Merge task vectors by TIES, by way of files and a base of zeros."""
    own = [{"weight": float(weight)} for weight in weights]
    base = {"x": np.zeros(len(deltas[0]), np.float32)}
    experts = [{"x": f32(delta)} for delta in deltas]
    found = merged(root / semantics, "ties", base, experts, own, semantics=semantics, **parameters)
    return found["x"].astype(np.float32)


def test_how_many_of_ten_a_fifth_is(tmp_path: Path) -> None:
    x = f32(np.arange(1, 11) / 10)
    assert np.flatnonzero(ties(tmp_path, x, density=0.2)).tolist() == [7, 8, 9]
    assert np.flatnonzero(ties(tmp_path / "first", x, density=0.2, equal="first")).tolist() == [
        8,
        9,
    ]
    for semantics, kept in (("mergekit", [8, 9]), ("peft", [8, 9]), ("fusionbench", [7, 8, 9])):
        found = ties(tmp_path, x, density=0.2, semantics=semantics)
        assert np.flatnonzero(found).tolist() == kept


def test_equal_magnitudes_at_the_threshold(tmp_path: Path) -> None:
    x = [1, -2, 1, 2, -1, 2, 1, -2, 2, 1]
    assert np.flatnonzero(ties(tmp_path, x, density=0.3)).tolist() == [1, 3, 5, 7, 8]
    variants: list[tuple[str, dict[str, Any]]] = [("paper", {"equal": "first"}), ("mergekit", {})]
    variants.append(("peft", {}))
    for semantics, options in variants:
        found = ties(tmp_path / "first", x, density=0.3, semantics=semantics, **options)
        assert np.flatnonzero(found).tolist() == [1, 3, 5]


def test_a_density_of_less_than_one_entry(tmp_path: Path) -> None:
    x = [1, 3, -2]
    for semantics, kept in (("paper", [1]), ("mergekit", [1]), ("peft", []), ("fusionbench", [1])):
        found = ties(tmp_path, x, density=0.1, semantics=semantics)
        assert np.flatnonzero(found).tolist() == kept


@pytest.mark.parametrize("semantics", methods.get("ties").semantics)
def test_a_density_of_one_is_everything_not_a_percent(tmp_path: Path, semantics: str) -> None:
    x = f32(np.arange(-50, 51))
    assert np.array_equal(ties(tmp_path, x, density=1, semantics=semantics, scale=1), x)


def test_fusionbench_keeps_the_largest_entries_at_density_zero(tmp_path: Path) -> None:
    rows = [1, -5, 5], [3, 1, 1]
    options = {"density": 0, "semantics": "fusionbench", "scale": 1, "merge_func": "sum"}
    assert ties(tmp_path, *rows, **options).tolist() == [3, -5, 5]
    for semantics in ("paper", "mergekit"):
        assert ties(tmp_path, *rows, density=0, semantics=semantics).tolist() == [0, 0, 0]


@pytest.mark.parametrize(
    ("dtypes", "expected"),
    [
        ("bf16 f32", "float32"),
        ("f32 bf16", "float32"),
        ("bf16 f16", "float32"),
        ("f16 f16", "float16"),
    ],
)
def test_mergekit_promotes_mixed_dtypes(tmp_path: Path, dtypes: str, expected: str) -> None:
    kinds = {"bf16": ml_dtypes.bfloat16, "f16": np.float16, "f32": np.float32}
    rows = [np.array([1 + 2**-9, 1], kinds[name]) for name in dtypes.split()]
    models = [{"x": row} for row in rows]
    mean = sum(row.astype(np.float32) for row in rows) / np.float32(2)
    options = {"method": "linear", "weights": [1.0, 1.0]}
    in_memory = tallies.merge_state_dicts(None, models, semantics="mergekit", **options)["x"]
    assert in_memory.dtype == expected
    assert np.array_equal(in_memory, mean.astype(expected))
    assert tallies.merge_state_dicts(None, models, **options)["x"].dtype == rows[0].dtype
    recipe = {
        "merge_method": "linear",
        "semantics": "mergekit",
        "parameters": {"weight": 1.0},
        "models": [str(write(tmp_path / f"{i}", one)) for i, one in enumerate(models)],
    }
    tallies.merge(recipe, tmp_path / "out")
    assert np.array_equal(read(tmp_path / "out")["x"], in_memory)
    tallies.merge({**recipe, "dtype": "bfloat16"}, tmp_path / "asked")
    assert read(tmp_path / "asked")["x"].dtype == ml_dtypes.bfloat16


def test_multislerp_of_one_model_is_that_model_in_mergekit() -> None:
    base, x = {"x": f32([0, 0, 0])}, {"x": f32([1, 2, 3])}
    options = {"method": "multislerp", "weights": [0.3], "normalize": False}
    ours = tallies.merge_state_dicts(base, [x], **options)["x"]
    assert np.allclose(ours, 0.3 * x["x"])
    mergekit = tallies.merge_state_dicts(base, [x], semantics="mergekit", **options)["x"]
    assert np.array_equal(mergekit, x["x"])


def test_a_cancelled_vote_takes_the_majority(tmp_path: Path) -> None:
    one, other = [1, -1, -2, -3], [-1, -1, -2, -3]
    assert ties(tmp_path, one, other, density=1).tolist() == [-1, -1, -2, -3]
    for semantics in ("mergekit", "peft"):
        found = ties(tmp_path, one, other, density=1, semantics=semantics)
        assert found.tolist() == [1, -1, -2, -3]
    found = ties(tmp_path, one, other, density=1, semantics="fusionbench", scale=1)
    assert found.tolist() == [-1, -2, -4, -6]


def test_a_cancelled_vote_without_a_majority(tmp_path: Path) -> None:
    assert ties(tmp_path, [1], [-1], density=1).tolist() == [-1]
    for semantics, value in (("mergekit", 1), ("peft", 1), ("fusionbench", -1)):
        found = ties(tmp_path, [1], [-1], density=1, semantics=semantics, scale=1)
        assert found.tolist() == [value]
    largest = {"density": 1, "semantics": "fusionbench", "scale": 1, "merge_func": "max"}
    assert ties(tmp_path / "even", [1], [-1], **largest).tolist() == [0]
    assert ties(tmp_path / "odd", [1, 2], [-1, 3], **largest).tolist() == [1, 3]
    # EMR elects the negative sign, whatever other elements elect.
    experts = [{"x": f32([1, 3])}, {"x": f32([-1, 2])}]
    unified = merged(tmp_path / "emr", "emr", {"x": f32([0, 0])}, experts)
    assert unified["x"].tolist() == [-1, 3]


def test_weights_count_in_the_mean(tmp_path: Path) -> None:
    rows = [1.0], [3.0]
    assert ties(tmp_path / "none", *rows, density=1).tolist() == [2]
    assert ties(tmp_path, *rows, weights=[1, 3], density=1).tolist() == [5]
    sums = ties(tmp_path / "sum", *rows, weights=[1, 1], density=1, normalize=False)
    assert sums.tolist() == [4]
    found = ties(tmp_path, *rows, weights=[1, 3], density=1, semantics="mergekit")
    assert found.tolist() == [2.5]
    assert ties(tmp_path, *rows, weights=[1, 3], density=1, semantics="peft").tolist() == [5]
    assert ties(tmp_path, *rows, density=1, semantics="fusionbench", scale=1).tolist() == [4]


def test_weights_count_in_the_election(tmp_path: Path) -> None:
    rows = [2.0], [-1.5]
    assert ties(tmp_path, *rows, weights=[1, 2], density=1).tolist() == [-3]
    for semantics, value in (("mergekit", -1.5), ("peft", 2)):
        found = ties(tmp_path, *rows, weights=[1, 2], density=1, semantics=semantics)
        assert found.tolist() == [value]


def test_the_scope_of_the_trim(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    large: Array = f32(1 + rng.permutation(100) / 100) * rng.choice(f32([-1, 1]), 100)
    small: Array = f32(rng.permutation(100) / 101)
    zeros = {"a": np.zeros(100, np.float32), "b": np.zeros(100, np.float32)}
    expert = {"a": large, "b": small}

    def kept(root: str, **options: Any) -> list[int]:
        found = merged(tmp_path / root, "ties", zeros, [expert], density=0.5, **options)
        return [int(np.count_nonzero(found[name])) for name in ("a", "b")]

    assert kept("model") == [100, 1]
    assert kept("tensor", scope="tensor") == [51, 51]
    assert kept("mergekit", semantics="mergekit") == [50, 50]
    assert kept("peft", semantics="peft") == [50, 50]
    assert kept("fusionbench", semantics="fusionbench") == [100, 1]


def test_what_one_expert_alone_changed_is_not_averaged(tmp_path: Path) -> None:
    base = {"x": f32([0, 0, 0, 0])}
    experts = [{"x": f32([4, 4, 1, 0])}, {"x": f32([0, 2, 1, 8])}, {"x": f32([0, 3, 4, 0])}]
    assert merged(tmp_path / "ram", "ram", base, experts)["x"].tolist() == [4, 3, 2, 8]
    found = merged(tmp_path / "epsilon", "ram", base, experts, epsilon=1)["x"]
    assert found.tolist() == [4, 3, 4, 8]
    # The first and second share two entries and have one alone: 1 + r min(2, alpha).
    found = merged(tmp_path / "plus", "ramplus", base, experts, r=0.5, alpha=1)["x"]
    assert found.tolist() == [6, 3, 2, 12]


def test_scope_of_the_counts_of_ramplus(tmp_path: Path) -> None:
    base = {"a": f32([0, 0]), "b": f32([0, 0, 0])}
    experts = [{"a": f32([1, 1]), "b": f32([1, 1, 1])}, {"a": f32([1, 0]), "b": f32([0, 0, 0])}]
    options: dict[str, Any] = {"r": 1, "alpha": 10}
    found = merged(tmp_path / "tensor", "ramplus", base, experts, scope="tensor", **options)
    assert found["a"].tolist() == [1, 2] and found["b"].tolist() == [1, 1, 1]
    found = merged(tmp_path / "model", "ramplus", base, experts, scope="model", **options)
    assert found["a"].tolist() == [1, 1.25] and found["b"].tolist() == [1.25] * 3


def test_small_changes_weigh_equally_in_mergekits_sce(tmp_path: Path) -> None:
    base = {"x": np.zeros(100, np.float32)}
    experts = [{"x": f32([1e-4] * 100)}, {"x": f32([5e-4] * 100)}]
    found = merged(tmp_path / "paper", "sce", base, experts)["x"]
    assert found == pytest.approx(f32([(1e-4 + 25 * 5e-4) / 26] * 100), rel=1e-6)
    found = merged(tmp_path / "mergekit", "sce", base, experts, semantics="mergekit")["x"]
    assert found == pytest.approx(f32([3e-4] * 100), rel=1e-6)


def test_sce_selects_where_experts_differ(tmp_path: Path) -> None:
    base = {"x": f32([0, 0, 0, 0, 0])}
    # Variances 0, 4, 1, 4, 0 of five; of three that are not zero two stay, the first of equals.
    experts = [{"x": f32([9, 5, 4, 1, 0])}, {"x": f32([9, 1, 2, -3, 0])}]
    found = merged(tmp_path, "sce", base, experts, select_topk=0.67, fallback=True)["x"]
    assert np.flatnonzero(found).tolist() == [1, 3]
    found = merged(tmp_path / "one", "sce", base, experts, select_topk=0.4, fallback=True)["x"]
    assert np.flatnonzero(found).tolist() == [1]


def test_the_two_programs_of_pcb(tmp_path: Path) -> None:
    base = {"x": np.zeros(10, np.float32)}
    experts = [
        {"x": f32([0.01, -0.02, 0.03, 0.10, -0.20, 0.05, 0.00, 0.30, -0.04, 0.07])},
        {"x": f32([0.02, 0.03, -0.01, 0.12, 0.15, -0.05, 0.06, 0.25, -0.08, 0.01])},
    ]
    found = merged(tmp_path / "global", "pcb", base, experts, ratio=0.3)["x"]
    assert found == pytest.approx(f32([0, 0, 0, 0.12, -0.2, 0, 0, 0.175, 0, 0]), abs=1e-6)
    found = merged(tmp_path / "vision", "pcb", base, experts, ratio=0.3, variant="vision")["x"]
    assert found == pytest.approx(f32([0, 0, 0, 0.11482, 0, 0, 0, 0.175, 0, 0]), abs=5e-6)


def test_pcb_of_magnitudes_that_are_all_equal(tmp_path: Path) -> None:
    base = {"x": np.zeros(4, np.float32)}
    experts = [{"x": f32([1, 1, -1, 1])}, {"x": f32([1, -1, -1, 1])}]
    # Equal sizes let agreement alone decide; the least score of each expert counts for nothing.
    found = merged(tmp_path, "pcb", base, experts, ratio=1)["x"]
    assert found.tolist() == [1, 0, -1, 1]
    assert merged(tmp_path / "one", "pcb", base, experts[:1], ratio=1)["x"].tolist() == [0] * 4
