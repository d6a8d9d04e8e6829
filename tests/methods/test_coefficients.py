"""Methods whose coefficients are solved: survey, solve, combine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
from tallies.spec.choices import PAPER, Scope
from tests.reference.dtype import narrow, widen
from tests.reference.linear import linear
from tests.reference.survey import survey
from tests.reference.task_arithmetic import add_to_base, task_vectors
from tests.support import strategies
from tests.support.checkpoints import Model, assert_holds, write
from tests.support.coefficients import MERGES, Array, f32
from tests.support.everywhere import assert_same_bits, on_every_target

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

pytestmark = pytest.mark.filterwarnings("ignore:.*(opposite|zero) in")


def solved(rows: npt.NDArray[Any], survey: InnerProducts, parameters: Mapping[str, Any]) -> Array:
    """Return the coefficients [n_rows, N] of each row of `rows` [n_rows, N, length], as float32."""
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
    """Return the bits of the method's own solver on the reference's inner products."""
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
