"""Methods whose coefficients are solved from inner products: the house, each method, the laws."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tallies import InputError, merge, merge_state_dicts, methods, plan
from tallies.engine.surveys.inner_products import InnerProducts
from tallies.engine.surveys.survey import survey_of
from tallies.linalg.gram import Gram
from tallies.methods._matrix import MatrixMethod
from tallies.spec.choices import PAPER, Scope
from tests.reference import coefficients as reference
from tests.reference.dtype import narrow, widen
from tests.reference.linear import linear
from tests.reference.survey import survey
from tests.reference.task_arithmetic import add_to_base, task_vectors
from tests.support import strategies
from tests.support.checkpoints import Model, assert_holds, read, write
from tests.support.everywhere import assert_same_bits, on_every_target

Array = npt.NDArray[Any]


def is_solved(name: str) -> bool:
    """Return whether a method's coefficients are solved from inner products."""
    parameters = {key: one.default for key, one in methods.get(name).parameters().items()}
    solvable = not issubclass(methods.get(name), MatrixMethod)
    survey = methods.get(name).rule(parameters, PAPER).survey if solvable else None
    return survey is not None and survey.name == "inner_products"


def needed(name: str) -> dict[str, Any]:
    """Return a value for each parameter that must be given."""
    return {key: 0.3 for key, one in methods.get(name).parameters().items() if one.default is None}


MERGES: dict[str, dict[str, Any]] = {
    name: needed(name) for name in methods.names() if is_solved(name)
}
"""Every method of this kind, with the parameters that it must be given."""

SOLVED: list[tuple[str, dict[str, Any]]] = [
    *MERGES.items(),
    ("metagpt", {"scope": Scope.TENSOR, "scale": 0.5}),
    ("model_stock", {"average": "angles", "scale": 1.5}),
    ("model_stock", {"filter_wise": True}),
    ("nuslerp", {"weight": (0.25, 0.5)}),
    ("nuslerp", {"flatten": False}),
    ("codiemb", {"norm": "l1", "exponent": 2.0, "prefer": "smaller"}),
]
"""All of them, and further parameters of some."""


def f32(*values: float) -> npt.NDArray[np.float32]:
    return np.array(values, np.float32)


def solved(rows: npt.NDArray[Any], survey: InnerProducts, parameters: Mapping[str, Any]) -> Array:
    """The coefficients [n_rows, N] of each row of `rows` [n_rows, N, length], as float32."""
    n = rows.shape[1]
    found = []
    for row in rows:
        sums = gram_sums(row, magnitudes=survey.magnitudes)
        gram = Gram(n, sums)
        assert survey.solve is not None
        found.append(survey.solve(gram, parameters) if gram.is_finite() else [np.nan] * n)
    return np.array(found, np.float32)


def gram_sums(vectors: Array, *, magnitudes: bool) -> list[float]:
    (products,), (sizes,) = survey(vectors, vectors.shape[1])
    sums = [float(products[i, j]) for i in range(len(vectors)) for j in range(i + 1)]
    return sums + (sizes.tolist() if magnitudes else [])


def test_methods_of_this_kind_are_found() -> None:
    assert {"metagpt", "model_stock", "slerp", "nuslerp"} < MERGES.keys()
    assert {"multislerp", "karcher", "codiemb"} < MERGES.keys()
    assert MERGES["slerp"] == {"t": 0.3}


# The house: survey, solve, combine.


def expected(
    name: str, base: Model | None, experts: Sequence[Model], given: Mapping[str, Any]
) -> dict[str, Array]:
    """What the method's own solver makes of the reference's inner products, to the bit."""
    method = methods.get(name)
    parameters = {key: one.default for key, one in method.parameters().items()} | dict(given)
    if "weight" in parameters and not isinstance(parameters["weight"], tuple):
        parameters["weight"] = (parameters["weight"],) * len(experts)
    rule = method.rule(parameters, PAPER).survey
    assert rule is not None
    stated = survey_of(rule)
    assert isinstance(stated, InnerProducts) and stated.solve is not None
    template = base or experts[0]
    vectors = {
        key: task_vectors(base[key], [one[key] for one in experts])
        if base
        else np.stack([widen(one[key]) for one in experts])
        for key in template
    }
    by_model = None
    if stated.scope is Scope.MODEL:
        n = len(experts)
        parts = [gram_sums(x.reshape(n, -1), magnitudes=False) for x in vectors.values() if x.size]
        total = Gram.total(n, parts)
        solution = stated.solve(total, parameters) if total.is_finite() else [np.nan] * n
        by_model = np.array(solution, np.float32)
    result = {}
    for key, x in vectors.items():
        length = x.shape[-1] if stated.scope is Scope.ROW and x.ndim > 2 else x[0].size
        if by_model is None and x.size:
            rows = np.moveaxis(x.reshape(len(x), -1, length), 0, 1)
            weights = solved(rows, stated, parameters)
            parts = [linear(row, w, False) for row, w in zip(rows, weights, strict=True)]
            merged = np.stack(parts).reshape(x.shape[1:])
        else:
            merged = linear(x, by_model, False)
        scale = parameters.get("scale", 1.0)
        result[key] = (
            add_to_base(base[key], scale, merged)
            if base
            else narrow(np.float32(scale) * merged, template[key].dtype)
        )
    return result


@pytest.mark.parametrize(("name", "options"), SOLVED)
@settings(max_examples=15)
@given(data=st.data())
def test_in_memory(name: str, options: dict[str, Any], data: st.DataObject) -> None:
    method = methods.get(name)
    base, experts = data.draw(
        strategies.models(min_experts=method.least_models, max_experts=method.most_models or 4)
    )
    uses_base = method.needs_base or (method.base_is_optional and data.draw(st.booleans()))
    try:
        with np.errstate(all="ignore"):
            merged = expected(name, base if uses_base else None, experts, options)
    except ValueError as problem:
        with pytest.raises(InputError, match=str(problem)):
            merge_state_dicts(base if uses_base else None, experts, method=name, **options)
        return
    for found in on_every_target(
        lambda: merge_state_dicts(
            base if uses_base else None, experts, method=name, nonfinite="propagate", **options
        )
    ).values():
        for key, tensor in merged.items():
            assert_same_bits(found[key], tensor)


@pytest.mark.parametrize(("name", "options"), SOLVED)
def test_on_disk(tmp_path: Path, name: str, options: dict[str, Any]) -> None:
    rng = np.random.default_rng(0)
    shapes = {"a": (37, 70), "b": (2, 5000), "c": (9,), "d": (), "e": (0, 4), "f": (3, 4, 5)}
    n = methods.get(name).most_models or 3
    base, *experts = (
        {key: np.asarray(rng.standard_normal(shape), np.float32) for key, shape in shapes.items()}
        for _ in range(1 + n)
    )
    uses_base = methods.get(name).needs_base
    result = expected(name, base if uses_base else None, experts, options)
    weights = options.get("weight", ())
    recipe = {
        "merge_method": name,
        "models": [
            {
                "model": str(write(tmp_path / f"{i}", expert)),
                "parameters": {"weight": weights[i]} if weights else {},
            }
            for i, expert in enumerate(experts)
        ],
        "parameters": {key: value for key, value in options.items() if key != "weight"},
    }
    if uses_base:
        recipe["base_model"] = str(write(tmp_path / "base", base))
    for threads, memory in ((1, "1GiB"), (3, "1KiB")):
        out = tmp_path / f"out-{threads}"
        report = merge(recipe, out, threads=threads, max_memory=memory)
        assert_holds(out, result)
    if options.get("scope") == "tensor" or name != "metagpt":
        assert report.coefficients.keys() == shapes.keys() - {"e"}
        assert all(len(row) == n for row in report.coefficients.values())
    else:
        assert [one.coefficient for one in report.experts] != [None] * n
        assert report.coefficients == {}
    surveyed = plan(recipe)
    assert surveyed.bytes_surveyed == surveyed.bytes_combined > 0
    assert "survey of inner products" in str(surveyed)


def test_nan_spreads_over_its_tensor_alone_or_is_an_error() -> None:
    base = {"a": f32(0, 0), "b": f32(0, 0)}
    experts = [{"a": f32(1, np.nan), "b": f32(1, 2)}, {"a": f32(1, 1), "b": f32(1, 2)}]
    found = merge_state_dicts(base, experts, method="model_stock", nonfinite="propagate")
    assert np.isnan(found["a"]).all()
    assert found["b"].tolist() == [1, 2]
    with pytest.raises(InputError, match=r"expert 0: tensor 'a' has 1 NaN or infinite value"):
        merge_state_dicts(base, experts, method="model_stock")


# Each method against what its paper says, on vectors, in float64.

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
    # 2 here. Of an angle near 0 or near its tolerance, 1e-5, float64 sums leave less than that.
    bound = (n + 3) * 2.0**-23 * np.abs(x).sum(axis=0)
    assert (np.abs(found - formula(x)) <= bound).all()


@pytest.mark.parametrize("name", MERGES)
def test_vectors_of_zero(name: str) -> None:
    n = methods.get(name).most_models or 3
    base = {"x": f32(0, 0)} if methods.get(name).needs_base else None
    zeros = [{"x": f32(0, 0)}] * n
    assert merge_state_dicts(base, zeros, method=name, **MERGES[name])["x"].tolist() == [0, 0]
    one = [{"x": f32(3, 4)}, *zeros[1:]]
    found = merge_state_dicts(base, one, method=name, **MERGES[name])["x"]
    assert np.isfinite(found).all()


def test_vectors_that_cancel() -> None:
    x, y = {"x": f32(3, 4)}, {"x": f32(-3, -4)}

    def merged(name: str, *experts: Model, **options: Any) -> list[float]:
        found: list[float] = merge_state_dicts(None, experts, method=name, **options)["x"].tolist()
        return found

    assert merged("slerp", x, y, t=0.5) == [0, 0]
    assert merged("slerp", x, y, t=0.25) == [1.5, 2]
    assert merged("nuslerp", x, y, weights=[3, 1]) == [1.5, 2]
    assert merged("multislerp", x, y) == [0, 0]
    assert merged("karcher", x, y) == [3, 4]
    with pytest.raises(InputError, match=r"tensor 'x': the weighted directions of the models can"):
        merged("multislerp", x, y, {"x": f32(0, 0)})
    base = {"x": f32(5, 7)}
    angles = np.arange(3) * 2 * np.pi / 3
    tripod = [{"x": base["x"] + f32(np.cos(angle), np.sin(angle))} for angle in angles]
    # Cosines of -1/2, where the ratio has a pole.
    found = merge_state_dicts(base, tripod, method="model_stock")["x"]
    assert found.tolist() == base["x"].tolist()


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


# What is refused.


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


def test_angles_along_the_first_dimension_are_refused() -> None:
    experts = [{"x": f32(1)}, {"x": f32(2)}]
    options: dict[str, Any] = {"weights": [1, 1], "semantics": "mergekit", "nuslerp_row_wise": True}
    merge_state_dicts(None, experts, method="nuslerp", **options)
    with pytest.raises(InputError, match="angles along the first dimension are not done"):
        merge_state_dicts(None, experts, method="nuslerp", flatten=False, **options)
