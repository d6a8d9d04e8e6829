"""Merges on disk of any models with any options, against the reference."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tallies import MergeReport, merge
from tests.reference.linear import linear
from tests.reference.task_arithmetic import task_arithmetic
from tests.reference.ties import ties_model
from tests.support import strategies
from tests.support.checkpoints import assert_holds, write
from tests.support.merges import (
    OUT_DTYPES,
    assert_fingerprints,
    assert_reports_ties,
    f32,
    parameters,
    request,
)

# Any models, any options, against the reference.


layouts: st.SearchStrategy[dict[str, Any]] = st.fixed_dictionaries(
    {
        "max_memory": st.sampled_from(["64KiB", "1MiB", "1GiB"]),
        "threads": st.integers(1, 3),
        "max_shard_size": st.sampled_from([1, 100, "5GB"]),
    }
)


@st.composite
def mixed(draw: st.DrawFn) -> strategies.Models:
    """Models in which every tensor of every expert may have a dtype of its own."""
    models = draw(strategies.models())
    kinds = st.just(None) | strategies.dtypes()
    with np.errstate(all="ignore"):
        experts = [
            {name: array.astype(draw(kinds) or array.dtype) for name, array in expert.items()}
            for expert in models.experts
        ]
    return strategies.Models(models.base, experts)


def merged_on_disk(
    models: strategies.Models,
    root: Path,
    data: st.DataObject,
    method: str,
    own: Sequence[Mapping[str, Any]],
    *,
    needs_base: bool,
    **keys: Any,
) -> MergeReport:
    """The merge of these models into ``root / "out"``, in any layout of inputs and output."""
    n_files = st.integers(1, max(1, len(models.base)))
    base = write(root / "base", models.base, n_files=data.draw(n_files)) if needs_base else None
    experts = [
        write(root / f"expert-{i}", expert, n_files=data.draw(n_files))
        for i, expert in enumerate(models.experts)
    ]
    recipe = request(method, experts, own, base=base, nonfinite="propagate", **keys)
    report = merge(recipe, root / "out", **data.draw(layouts))
    assert_fingerprints(report, base, experts)
    return report


@settings(max_examples=60)
@given(mixed(), strategies.scales(), st.none() | st.sampled_from(list(OUT_DTYPES)), st.data())
def test_ties(
    models: strategies.Models, scale: float, out_dtype: str | None, data: st.DataObject
) -> None:
    n = len(models.experts)
    weights = data.draw(strategies.weights(n))
    semantics = data.draw(st.sampled_from(["paper", "mergekit"]))
    normalize = data.draw(st.booleans())
    shared: dict[str, Any] = {"normalize": normalize}
    if semantics == "paper":
        shared["scope"] = data.draw(st.sampled_from(["model", "tensor"]))
        shared["equal"] = data.draw(st.sampled_from(["keep", "first"]))
    densities = data.draw(st.lists(strategies.densities(), min_size=n, max_size=n))
    with TemporaryDirectory() as name:
        report = merged_on_disk(
            models,
            Path(name),
            data,
            "ties",
            parameters(density=densities, weight=weights),
            needs_base=True,
            parameters={"scale": scale, **shared},
            semantics=semantics,
            out_dtype=out_dtype,
        )
        options = {key: shared[key] for key in ("scope", "equal") if key in shared}
        expected = ties_model(
            models.base,
            models.experts,
            densities,
            weights,
            scale,
            semantics=semantics,
            normalize=normalize,
            out_dtype=out_dtype and OUT_DTYPES[out_dtype],
            **options,
        )
        assert_holds(Path(name, "out"), expected)
        assert_reports_ties(
            report, models.base, models.experts, densities, weights, semantics=semantics, **options
        )


@pytest.mark.parametrize("weight", [1.0, 0.5])
def test_a_nan_is_no_sign_conflict(tmp_path: Path, weight: float) -> None:
    base = write(tmp_path / "base", {"w": f32(0, 0, 0)})
    experts = [
        write(tmp_path / f"{i}", {"w": values})
        for i, values in enumerate((f32(1, np.nan, -np.nan), f32(-1, 2, 3)))
    ]
    shared = {"density": 1.0, "weight": weight}
    recipe = request("ties", experts, base=base, parameters=shared, nonfinite="propagate")
    report = merge(recipe, tmp_path / "out")
    assert (report.sign_conflicts, report.cancellations) == (1, 1)


def cancels(weights: Sequence[float] | None) -> bool:
    """Tell whether these weights are refused as a divisor."""
    return weights is not None and abs(sum(weights)) <= 1e-6 * sum(map(abs, weights))


@settings(max_examples=40)
@given(
    mixed(),
    st.sampled_from(["linear", "task_arithmetic"]),
    st.none() | st.sampled_from(list(OUT_DTYPES)),
    st.data(),
)
def test_linear_and_task_arithmetic(
    models: strategies.Models, method: str, out_dtype: str | None, data: st.DataObject
) -> None:
    weights = data.draw(strategies.weights(len(models.experts)))
    normalize = data.draw(st.booleans()) and not cancels(weights)
    shared: dict[str, Any] = {"normalize": normalize}
    if method == "task_arithmetic":
        shared["scale"] = data.draw(strategies.scales())
    with TemporaryDirectory() as name:
        report = merged_on_disk(
            models,
            Path(name),
            data,
            method,
            parameters(weight=weights),
            needs_base=method == "task_arithmetic",
            parameters=shared,
            out_dtype=out_dtype,
        )
        kind = out_dtype and OUT_DTYPES[out_dtype]
        expected = {}
        for tensor, base in models.base.items():
            rows = [expert[tensor] for expert in models.experts]
            expected[tensor] = (
                linear(rows, weights, normalize, kind)
                if method == "linear"
                else task_arithmetic(
                    base, rows, weights, shared["scale"], normalize=normalize, out_dtype=kind
                )
            )
        assert_holds(Path(name, "out"), expected)
        assert [expert.kept for expert in report.experts] == [None] * len(models.experts)
