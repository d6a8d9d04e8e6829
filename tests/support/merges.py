"""Requests to merge, and assertions about the reports of merges."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt

from tallies import MergeReport
from tallies.inspection.checkpoints import inspect
from tests.reference.dtype import Floats, Mask
from tests.reference.model import flatten, float_names
from tests.reference.select import keep_mask, magnitude_bits
from tests.reference.sums import entries, in_order_sum
from tests.reference.task_arithmetic import task_vectors
from tests.support.checkpoints import Array, Model

BF16, E4M3, E5M2 = ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn, ml_dtypes.float8_e5m2

OUT_DTYPES = {
    "float64": np.float64,
    "float32": np.float32,
    "float16": np.float16,
    "bfloat16": BF16,
    "float8_e4m3fn": E4M3,
    "float8_e5m2": E5M2,
}


def request(
    method: str,
    models: Sequence[Path],
    own: Sequence[Mapping[str, Any]] = (),
    *,
    base: Path | None = None,
    **keys: Any,
) -> dict[str, Any]:
    """A recipe of ``models``, each with its ``own`` parameters if there are any; the paper's."""
    entries = [{"model": str(model)} for model in models]
    for entry, parameters in zip(entries, own, strict=False):
        entry["parameters"] = dict(parameters)  # type: ignore[assignment]
    recipe = {"merge_method": method, "models": entries, "semantics": "paper", **keys}
    return recipe if base is None else {**recipe, "base_model": str(base)}


def f32(*values: float) -> npt.NDArray[np.float32]:
    return np.array(values, np.float32)


def trimmed(
    base: Model,
    experts: Sequence[Model],
    densities: Sequence[float],
    weights: Sequence[float] | None,
    options: Mapping[str, str],
) -> tuple[list[Mask], Floats, Floats]:
    """Return each expert's masks over the whole model, all task vectors, and the kept entries."""
    names = float_names(base)
    rows = [task_vectors(base[n], [expert[n] for expert in experts]) for n in names]
    deltas = [{n: row[e] for n, row in zip(names, rows, strict=True)} for e in range(len(experts))]
    masks = []
    for delta, density in zip(deltas, densities, strict=True):
        kept = keep_mask(delta, density, **options)
        masks.append(np.concatenate([np.zeros(0, np.bool_), *(kept[n].ravel() for n in names)]))
    flat = np.stack([flatten(delta, names) for delta in deltas])
    return masks, flat, entries(np.where(np.stack(masks), flat, np.float32(0)), weights)


def assert_reports_ties(
    report: MergeReport,
    base: Model,
    experts: Sequence[Model],
    densities: Sequence[float],
    weights: Sequence[float] | None = None,
    **options: str,
) -> None:
    """Check kept entries, thresholds, conflicts, cancellations and majority by NumPy's counts."""
    masks, deltas, ys = trimmed(base, experts, densities, weights, options)
    n = deltas.shape[1]
    assert report.parameters == n
    by_model = options.get("scope", "model") == "model" and options.get("semantics") != "mergekit"
    for expert, mask, delta, density in zip(report.experts, masks, deltas, densities, strict=True):
        assert expert.kept == mask.sum()
        assert expert.kept_fraction == (mask.sum() / n if n else None)
        rank = int(n * density) + (options.get("equal") != "first")
        if by_model and density > 0 and rank > 0 and int(n * density) < n:
            smallest = magnitude_bits(delta[mask]).min().view(np.float32)
            assert np.array_equal(np.float32(expert.threshold), smallest, equal_nan=True)
        else:
            assert expert.threshold is None
    sums = in_order_sum(ys)
    conflicts = (ys > 0).any(axis=0) & (ys < 0).any(axis=0) & ~np.isnan(sums)
    assert report.sign_conflicts == conflicts.sum()
    assert report.sign_conflict_fraction == conflicts.sum() / max(n, 1)
    assert report.cancellations == (conflicts & (sums == 0)).sum()
    majority = 1 if (sums > 0).sum() > (sums < 0).sum() else -1
    assert report.majority_sign == (majority if by_model else None)


def assert_fingerprints(report: MergeReport, base: Path | None, experts: Sequence[Path]) -> None:
    """The report's fingerprints are those that ``inspect`` finds in the files."""
    assert (report.base and report.base.fingerprint) == (base and inspect(base)["fingerprint"])
    for one, path in zip(report.experts, experts, strict=True):
        assert one.path == str(path)
        assert one.fingerprint == inspect(path)["fingerprint"]
    out = inspect(report.output.path)
    assert report.output.fingerprint == out["fingerprint"]
    assert report.output.files == out["files"]
    assert report.output.n_bytes == report.bytes_written == sum(out["files"].values())


def parameters(**columns: Sequence[float] | None) -> list[dict[str, float]]:
    """One dict per expert of the parameters that are given."""
    given_ones = {key: values for key, values in columns.items() if values is not None}
    rows = zip(*given_ones.values(), strict=True)
    return [dict(zip(given_ones, row, strict=True)) for row in rows]


def same_for_all(report: MergeReport) -> dict[str, Any]:
    """Return the part of a report that no layout changes."""
    return {
        "experts": [(e.fingerprint, e.kept, e.threshold) for e in report.experts],
        "base": report.base and report.base.fingerprint,
        "output": report.output.fingerprint,
        "signs": (report.sign_conflicts, report.cancellations, report.majority_sign),
        "thresholds": report.thresholds,
        "parameters": report.parameters,
        # A small budget is warned of; it belongs to the layout.
        "n_warnings": sum(not one.startswith("max_memory") for one in report.warnings),
    }


def dyadic(rng: np.random.Generator, *shape: int) -> Array:
    """Few values that float32 adds without rounding."""
    return (rng.integers(-8, 9, shape) / 8).astype(np.float32)


def layered(seed: int, kind: npt.DTypeLike = np.float32) -> Model:
    """Five layers of two tensors, an embedding before and a norm behind them."""
    rng = np.random.default_rng(seed)
    names = [f"model.layers.{i}.{part}.weight" for i in range(5) for part in ("attn", "mlp")]
    return {
        name: rng.standard_normal((9, 7)).astype(kind)
        for name in ("model.embed_tokens.weight", *names, "model.norm.weight")
    }


GRADIENT = [1.0, 0.0, 0.5]
