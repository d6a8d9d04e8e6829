"""Examples that tell variants of solved methods apart, laws, and refusals."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tallies import InputError, merge, merge_state_dicts, methods, plan
from tests.support.checkpoints import Model, read, write
from tests.support.coefficients import MERGES, f32

# Examples that tell the variants apart.


def with_cosines(cosines: Mapping[tuple[int, int], float]) -> list[Model]:
    """Three unit vectors with these cosines between them."""
    gram = np.eye(3)
    for (i, j), cosine in cosines.items():
        gram[i, j] = gram[j, i] = cosine
    return [{"x": row.astype(np.float32)} for row in np.linalg.cholesky(gram)]


def test_model_stock_of_three_averages_cosines_or_angles() -> None:
    experts = with_cosines({(0, 1): 0.9, (0, 2): 0.1, (1, 2): 0.1})
    base = {"x": np.zeros(3, np.float32)}
    mean = np.mean([one["x"] for one in experts], axis=0)

    def ratio(**options: Any) -> float:
        found = merge_state_dicts(base, experts, method="model_stock", **options)["x"]
        ratios = found / mean
        assert ratios == pytest.approx(ratios[0])
        return float(ratios[0])

    assert ratio() == pytest.approx(0.6346, abs=5e-5)
    assert ratio(semantics="mergekit") == pytest.approx(0.6346, abs=5e-5)
    assert ratio(average="angles") == pytest.approx(0.6900, abs=5e-5)
    assert ratio(semantics="fusionbench") == pytest.approx(0.6900, abs=5e-5)


def test_slerp_of_close_models_is_a_line_and_nuslerp_an_arc() -> None:
    a = 0.01
    experts = [{"x": f32(1, 0)}, {"x": f32(np.cos(a), np.sin(a))}]
    line = np.mean([one["x"].astype(np.float64) for one in experts], axis=0)
    arc = np.array([np.cos(a / 2), np.sin(a / 2)])
    slerp = merge_state_dicts(None, experts, method="slerp", t=0.5)["x"]
    nuslerp = merge_state_dicts(None, experts, method="nuslerp")["x"]
    assert slerp == pytest.approx(line, abs=1e-7)
    assert nuslerp == pytest.approx(arc, abs=1e-7)
    assert abs(arc - line).max() > 1e-5


def test_slerp_begins_at_the_base(tmp_path: Path) -> None:
    a, b = {"x": f32(1, 0)}, {"x": f32(0, 1)}
    paths = {name: str(write(tmp_path / name, model)) for name, model in (("a", a), ("b", b))}
    third = np.array([np.cos(np.pi / 6), np.sin(np.pi / 6)], np.float32)
    for base, listed, toward_b in (
        (None, "ab", True),
        (None, "ba", False),
        ("a", "ab", True),
        ("a", "ba", True),
        ("a", "b", True),
        ("b", "ab", False),
    ):
        recipe: dict[str, Any] = {
            "merge_method": "slerp",
            "models": [{"model": paths[name]} for name in listed],
            "parameters": {"t": 1 / 3},
        }
        if base:
            recipe["base_model"] = paths[base]
        out = tmp_path / f"{base}-{listed}"
        merge(recipe, out)
        assert read(out)["x"] == pytest.approx(third if toward_b else third[::-1], abs=1e-7)
    found = merge_state_dicts(a, [b], method="slerp", t=1 / 3)["x"]
    assert found == pytest.approx(third, abs=1e-7)


def test_rows_have_coefficients_of_their_own() -> None:
    base = {"x": np.zeros((2, 2), np.float32)}
    experts = [{"x": np.stack([f32(2, 0), f32(1, 1)])}, {"x": np.stack([f32(0, 2), f32(1, 1)])}]
    found = merge_state_dicts(base, experts, method="model_stock", filter_wise=True)["x"]
    assert found.tolist() == [[0, 0], [1, 1]]  # at right angles: the base; equal: the average


# Laws.


@pytest.mark.parametrize("name", MERGES)
def test_equal_models_are_the_result(name: str) -> None:
    rng = np.random.default_rng(5)
    base, expert = ({"x": rng.standard_normal(999).astype(np.float32)} for _ in range(2))
    n = methods.get(name).most_models or 4
    found = merge_state_dicts(
        base if methods.get(name).needs_base else None, [expert] * n, method=name, **MERGES[name]
    )["x"]
    bound = (n + 3) * 2.0**-23 * (np.abs(expert["x"]) + np.abs(base["x"]))
    assert (np.abs(found - expert["x"]) <= bound).all()


@pytest.mark.parametrize("name", [name for name in MERGES if not methods.get(name).has_order])
def test_the_order_of_the_models_changes_rounding_alone(name: str) -> None:
    rng = np.random.default_rng(6)
    n = methods.get(name).most_models or 6
    base, *experts = ({"x": rng.standard_normal(999).astype(np.float32)} for _ in range(1 + n))
    options = {key: value for key, value in MERGES[name].items() if key != "weight"}
    if "weight" in methods.get(name).parameters():
        options["weights"] = [1.0 + i / 8 for i in range(n)]
    uses_base = methods.get(name).needs_base
    one = merge_state_dicts(base if uses_base else None, experts, method=name, **options)["x"]
    if "weights" in options:
        options["weights"] = options["weights"][::-1]
    other = merge_state_dicts(base if uses_base else None, experts[::-1], method=name, **options)
    rows = np.abs([expert["x"] for expert in [base, *experts]])
    assert (np.abs(one - other["x"]) <= 2 * (n + 3) * 2.0**-23 * rows.sum(axis=0)).all()


# Refusals.


@pytest.mark.parametrize(
    ("name", "n", "message"),
    [
        ("model_stock", 1, "found 1, and model_stock merges at least 2"),
        ("slerp", 1, "found 1, and slerp merges exactly 2"),
        ("slerp", 3, "found 3, and slerp merges exactly 2"),
        ("nuslerp", 3, "found 3, and nuslerp merges exactly 2"),
    ],
)
def test_the_number_of_models(tmp_path: Path, name: str, n: int, message: str) -> None:
    base = {"x": f32(1)}
    uses_base = methods.get(name).needs_base
    with pytest.raises(InputError, match=f"experts: {message}"):
        merge_state_dicts(base if uses_base else None, [base] * n, method=name, **MERGES[name])
    recipe: dict[str, Any] = {
        "merge_method": name,
        "models": [{"model": str(tmp_path / f"{i}")} for i in range(n)],
        "parameters": {key: value for key, value in MERGES[name].items() if key != "weight"},
    }
    if uses_base:
        recipe["base_model"] = str(tmp_path / "base")
    with pytest.raises(InputError, match=f"models: {message}"):
        plan(recipe)


def test_t_must_be_given(tmp_path: Path) -> None:
    experts = [{"x": f32(1)}, {"x": f32(2)}]
    with pytest.raises(InputError, match=r"'t' is missing, and slerp has no default for it"):
        merge_state_dicts(None, experts, method="slerp")
    with pytest.raises(InputError, match=r"t: found 1.5, expected a finite number from 0 to 1"):
        merge_state_dicts(None, experts, method="slerp", t=1.5)
    recipe = {"merge_method": "slerp", "models": [{"model": "a"}, {"model": "b"}]}
    with pytest.raises(InputError, match=r"parameters: 't' is missing, .*add 't: VALUE'"):
        plan(recipe)


def test_angles_along_the_first_dimension_are_those_of_columns() -> None:
    # Columns (1, 0) and (0, 1) are at right angles, (2, 0) and (2, 0) are parallel.
    experts = [{"x": f32([[1, 2], [0, 0]])}, {"x": f32([[0, 2], [1, 0]])}]
    options: dict[str, Any] = {"weights": [1, 1], "semantics": "mergekit", "nuslerp_row_wise": True}
    whole = merge_state_dicts(None, experts, method="nuslerp", **options)["x"]
    columns = merge_state_dicts(None, experts, method="nuslerp", flatten=False, **options)["x"]
    half = float(np.sqrt(np.float32(0.5)))
    assert columns == pytest.approx(f32([[half, 2], [half, 0]]))
    assert not np.allclose(whole, columns)
