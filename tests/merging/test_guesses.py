"""Thresholds are guessed and proven while merging: the result is always that of the reference."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tallies import InputError, MergeReport, merge, merge_state_dicts, plan
from tallies.merging.summary import _share
from tests.reference.ties import ties_model
from tests.support import misleading
from tests.support.checkpoints import Model, read, write
from tests.support.everywhere import assert_same_bits
from tests.support.merges import request
from tests.support.misleading import DELTAS, DTYPES
from tests.support.sampling import not_held

DENSITY = 0.1
WAYS: dict[str, dict[str, Any]] = {
    "tight": {"max_memory": "64KiB", "threads": 1},
    "roomy": {"max_memory": "1GiB", "threads": 2, "max_shard_size": 700_000},
}


def merged(models: list[Model], root: Path, **options: Any) -> MergeReport:
    """The report on a merge of a base and experts by TIES, into ``root / "out"``."""
    base, *experts = (write(root / f"m{i}", one) for i, one in enumerate(models))
    parameters = {"density": DENSITY, **options.pop("parameters", {})}
    recipe = request("ties", experts, base=base, parameters=parameters)
    return merge(recipe, root / "out", nonfinite="propagate", **options)


def assert_right(models: list[Model], root: Path, **parameters: Any) -> None:
    expected = ties_model(models[0], models[1:], DENSITY, **parameters)
    found = read(root / "out")
    for name, values in expected.items():
        assert_same_bits(found[name], values)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("equal", ["keep", "first"])
@pytest.mark.parametrize("scope", ["model", "tensor"])
@pytest.mark.parametrize("kind", DELTAS)
def test_any_sample_gives_the_result_of_the_reference(
    tmp_path: Path, kind: str, scope: str, equal: str, way: str
) -> None:
    models = misleading.models(kind, by_tensor=scope == "tensor")
    with not_held():
        report = merged(models, tmp_path, parameters={"scope": scope, "equal": equal}, **WAYS[way])
    assert_right(models, tmp_path, scope=scope, equal=equal)
    n_bytes = sum(array.nbytes for model in models for array in model.values())
    assert report.reads is not None
    assert 0 < report.reads["sampled"] < n_bytes / 2
    for_votes = report.combined_again * (n_bytes // report.parameters)
    again = report.reads["settled"] + for_votes
    assert report.bytes_read == n_bytes + report.reads["sampled"] + again
    assert (line := re.search(r"reads +once, and a sample of ([\d.]+)%(.*)\n", str(report)))
    assert float(line[1]) == round(100 * report.reads["sampled"] / n_bytes, 2)
    assert bool(line[2]) == (again > 0)
    assert not again or line[2] == f"; {_share(again / n_bytes)} again"


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("scope", ["model", "tensor"])
@pytest.mark.parametrize("kind", ["smooth", "a cluster between", "large elsewhere", "odd values"])
def test_halves_give_the_result_of_the_reference(
    tmp_path: Path, kind: str, scope: str, dtype: str
) -> None:
    models = misleading.models(kind, by_tensor=scope == "tensor", dtype=DTYPES[dtype])
    with not_held():
        merged(models, tmp_path, parameters={"scope": scope})
    assert_right(models, tmp_path, scope=scope)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("scope", ["model", "tensor"])
def test_one_tensor_holds_all_large_changes(tmp_path: Path, scope: str, dtype: str) -> None:
    models = misleading.loud(DTYPES[dtype])
    with not_held():
        merged(models, tmp_path, parameters={"scope": scope})
    assert_right(models, tmp_path, scope=scope)


def test_elements_near_a_threshold_are_repaired_from_lists(tmp_path: Path) -> None:
    report = merged(misleading.models("smooth", by_tensor=False), tmp_path, threads=1)
    reads = report.reads
    assert reads is not None
    assert reads["listed"] >= reads["repaired"] > 0
    assert reads["repeated"] == 0


def test_a_sample_that_misses_a_cluster_costs_reads(tmp_path: Path) -> None:
    report = merged(misleading.models("a cluster between", by_tensor=False), tmp_path)
    assert report.reads is not None
    assert report.reads["repeated"] > 0
    assert report.reads["settled"] > 0


def test_a_small_model_is_known_by_its_sample(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    models = [{"w": rng.normal(size=(50, 60)).astype(np.float32)} for _ in range(3)]
    report = merged(models, tmp_path)
    assert_right(models, tmp_path)
    assert report.reads == {
        **{"sampled": 3 * 50 * 60 * 4, "settled": 0},
        **{"listed": 0, "repaired": 0, "repeated": 0},
    }


def test_tensors_in_memory(tmp_path: Path) -> None:
    models = misleading.models("a cluster between", by_tensor=False)
    for scope in ("model", "tensor"):
        found = merge_state_dicts(
            models[0], models[1:], method="ties", density=DENSITY, scope=scope, threads=2
        )
        for name, values in ties_model(models[0], models[1:], DENSITY, scope=scope).items():
            assert_same_bits(found[name], values)


def test_a_plan_counts_one_read(tmp_path: Path) -> None:
    models = misleading.models("smooth", by_tensor=False)
    base, *experts = (write(tmp_path / str(i), one) for i, one in enumerate(models))
    n_bytes = sum(array.nbytes for model in models for array in model.values())
    for scope, passes in (
        ("model", ["sample, all tensors together", "combine"]),
        ("tensor", ["sample and combine, tensor by tensor"]),
    ):
        made = plan(request("ties", experts, base=base, parameters={"scope": scope}))
        assert made.passes() == passes
        assert made.bytes_read == n_bytes
    scaled = plan(
        request(*("ties", experts), base=base, layer_scaling={"alpha": "auto", "beta": 0.5})
    )
    assert "survey, all tensors together" in scaled.passes()


def overflowing(kept: bool) -> list[Model]:
    """A base and an expert of float16 whose sum overflows where a change is between two sizes.

    The sample misses the large changes, so that the guess keeps those between. The exact threshold
    keeps them if ``kept``.
    """
    n = 200_000
    seen = misleading.looked_at(n)
    base, delta = np.zeros(n, np.float16), np.full(n, 2.0**-10)
    hidden = np.flatnonzero(~seen)
    between = np.flatnonzero(seen)[::2]
    base[between], delta[between] = 65_504, -32.0
    n_large = int(n * DENSITY) + (-1000 if kept else 1000)
    delta[hidden[:n_large]] = 64.0
    return [{"w": base}, {"w": (base.astype(np.float32) + delta).astype(np.float16)}]


@pytest.mark.parametrize("scope", ["model", "tensor"])
def test_an_overflow_counts_by_the_exact_threshold(tmp_path: Path, scope: str) -> None:
    models = overflowing(kept=False)
    base, expert = (write(tmp_path / str(i), one) for i, one in enumerate(models))
    parameters = {"density": DENSITY, "scope": scope, "scale": -1000.0}
    recipe = request("ties", [expert], base=base, parameters=parameters)
    with not_held():
        assert merge(recipe, tmp_path / "out").warnings == []
    kept = write(tmp_path / "kept", overflowing(kept=True)[1])
    with not_held(), pytest.raises(InputError, match="tensor 'w': merged values overflow F16"):
        merge({**recipe, "models": [str(kept)]}, tmp_path / "refused")
    assert not (tmp_path / "refused").exists()
