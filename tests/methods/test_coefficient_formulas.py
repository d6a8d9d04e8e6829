"""Solved coefficients against the formulas of their papers, on vectors, in float64."""

from __future__ import annotations

import functools
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest

from tallies import InputError, merge_state_dicts, methods
from tests.reference import coefficients as reference
from tests.support.checkpoints import Model
from tests.support.coefficients import MERGES, f32

FORMULAS: list[tuple[str, dict[str, Any], Callable[[Any], Any]]] = [
    ("metagpt", {}, reference.metagpt),
    ("model_stock", {}, reference.model_stock),
    (
        "model_stock",
        {"average": "angles"},
        functools.partial(reference.model_stock, average="angles"),
    ),
    (
        "model_stock",
        {"semantics": "mergekit"},
        functools.partial(reference.model_stock, least=1e-6),
    ),
    (
        "model_stock",
        {"semantics": "fusionbench"},
        functools.partial(reference.model_stock, average="angles", more=1e-8),
    ),
    ("slerp", {"t": 0.3}, functools.partial(reference.slerp, t=0.3)),
    ("nuslerp", {"weights": [1, 3]}, functools.partial(reference.nuslerp, weights=[1, 3])),
    ("multislerp", {}, functools.partial(reference.multislerp, weights=[1] * 5)),
    (
        "multislerp",
        {"weights": [1, 0.5, 2, -0.25, 1]},
        functools.partial(reference.multislerp, weights=[1, 0.5, 2, -0.25, 1]),
    ),
    ("karcher", {}, reference.karcher),
    ("karcher", {"max_iter": 2}, functools.partial(reference.karcher, max_iter=2)),
    ("codiemb", {}, reference.codiemb),
    (
        "codiemb",
        {"norm": "l1", "exponent": 3.0, "prefer": "smaller"},
        functools.partial(reference.codiemb, norm="l1", exponent=3.0, prefer="smaller"),
    ),
]


@pytest.mark.parametrize("size", [1.0, 1e-4])
@pytest.mark.parametrize("near", [0.0, 1.0, 30.0])
@pytest.mark.parametrize(("name", "options", "formula"), FORMULAS)
def test_formula(
    name: str, options: dict[str, Any], formula: Callable[[Any], Any], near: float, size: float
) -> None:
    rng = np.random.default_rng(1)
    n = methods.get(name).most_models or 5
    common = near * rng.standard_normal(1000)
    rows = (size * (common + rng.standard_normal((n, 1000)))).astype(np.float32)
    base = {"x": np.zeros(1000, np.float32)}
    experts = [{"x": row} for row in rows]
    found = merge_state_dicts(
        base if methods.get(name).needs_base else None, experts, method=name, **options
    )["x"]
    x = rows.astype(np.float64)
    # Every product and sum of the combine rounds, and the coefficients are float32; none is above
    # 2 here. The error of an angle near 0 or near its tolerance, 1e-5, is smaller (float64 sums).
    bound = (n + 3) * 2.0**-23 * np.abs(x).sum(axis=0)
    assert (np.abs(found - formula(x)) <= bound).all()


@pytest.mark.parametrize("name", MERGES)
def test_vectors_of_zero(name: str) -> None:
    n = methods.get(name).most_models or 3
    base = {"x": f32(0, 0)} if methods.get(name).needs_base else None
    zeros = [{"x": f32(0, 0)}] * n
    assert merge_state_dicts(base, zeros, method=name, **MERGES[name])["x"].tolist() == [0, 0]
    one = [{"x": f32(3, 4)}, *zeros[1:]]
    has_arcs = name in ("slerp", "nuslerp", "multislerp", "karcher")
    with pytest.warns(UserWarning, match="'x'") if has_arcs else nullcontext():
        found = merge_state_dicts(base, one, method=name, **MERGES[name])["x"]
    assert np.isfinite(found).all()


def test_vectors_that_cancel() -> None:
    x, y = {"x": f32(3, 4)}, {"x": f32(-3, -4)}

    def merged(name: str, *experts: Model, **options: Any) -> list[float]:
        with pytest.warns(UserWarning, match="opposite in two models"):
            found = merge_state_dicts(None, experts, method=name, **options)["x"]
        return list(map(float, found))

    assert merged("slerp", x, y, t=0.5) == [0, 0]
    assert merged("slerp", x, y, t=0.25) == [1.5, 2]
    assert merged("nuslerp", x, y, weights=[3, 1]) == [1.5, 2]
    assert merged("multislerp", x, y) == [0, 0]
    assert merged("karcher", x, y) == [3, 4]
    with pytest.raises(InputError, match=r"tensor 'x': the weighted directions of the models can"):
        merge_state_dicts(None, [x, y, {"x": f32(0, 0)}], method="multislerp")
    base = {"x": f32(5, 7)}
    angles = np.arange(3) * 2 * np.pi / 3
    tripod = [{"x": base["x"] + f32(np.cos(angle), np.sin(angle))} for angle in angles]
    # Cosines of -1/2, where the ratio has a pole.
    found = merge_state_dicts(base, tripod, method="model_stock")["x"]
    assert found.tolist() == base["x"].tolist()
