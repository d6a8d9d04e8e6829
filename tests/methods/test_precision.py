"""The error of every method against its formula in float64, within the bound that it states.

The bounds are the tables of docs/reliability.md: a method that has none fails here.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Final

import ml_dtypes
import numpy as np
import numpy.typing as npt
import pytest

from tallies import merge_state_dicts, methods
from tallies.methods._matrix import MatrixMethod
from tests.reference import matrices
from tests.reference.exact import ORACLES
from tests.reference.select import keep
from tests.support.checkpoints import Array

DTYPES: Final = [np.float32, np.float16, ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn]
PAGE: Final = Path(__file__).parents[2] / "docs/reliability.md"
UNIT: Final = 2.0**-24
SHAPE: Final = (60, 50)

EXAMPLES: Final[dict[str, list[dict[str, Any]]]] = {
    "linear": [{}, {"weights": [0.3, 0.7, 1.1, 0.2]}],
    "task_arithmetic": [
        {},
        {"weights": [0.3, -0.7, 1.1, 0.2], "scale": 0.3},
        {"weights": [0.3, 0.7, 1.1, 0.2], "normalize": True},
    ],
    "passthrough": [{}, {"scale": 0.7}],
    "ties": [
        {},
        {"density": 0.6, "weights": [0.3, 0.7, 1.1, 0.2], "scale": 0.7},
        {"density": 1.0, "normalize": False},
    ],
    "dare_linear": [{}, {"density": 0.7, "weights": [0.3, 0.7, 1.1, 0.2], "scale": 0.3}],
    "dare_ties": [{}, {"density": 0.7, "weights": [0.3, 0.7, 1.1, 0.2], "scale": 0.3}],
    "consensus_ta": [{}, {"weights": [0.3, 0.7, 1.1, 0.2], "k": 1, "scale": 0.3}],
    "consensus_ties": [{}, {"density": 0.7, "k": 1}],
    "magmax": [{}, {"weights": [0.3, 0.7, 1.1, 0.2], "scale": 0.3}],
    "pcb": [{}, {"weights": [0.3, 0.7, 1.1, 0.2], "ratio": 0.5}],
    "ramplus": [{}, {"r": 0.3, "epsilon": 1e-2}],
    "ram": [{}, {"epsilon": 1e-2}],
    "sce": [{}, {"select_topk": 0.4}],
    "slerp": [{"t": 0.3}],
    "nuslerp": [{"weights": [0.3, 0.9]}],
    "multislerp": [{"weights": [0.3, 0.7, 1.1, 0.2]}],
    "nearswap": [{"t": 0.01}],
}
"""Parameters beside the defaults."""

CASES: Final = [(name, one) for name in ORACLES for one in EXAMPLES.get(name, [{}])]


def stated() -> dict[str, str]:
    """Return the last cell of each row of the tables of the page's section, by method."""
    section = PAGE.read_text().split("## Precision")[1].split("\n## ")[0]
    rows = re.findall(r"^\| (`.+`) \| (.+) \|$", section, re.MULTILINE)
    return {name: bound for names, bound in rows for name in re.findall(r"`(\w+)`", names)}


def roundings(name: str, n: int) -> int:
    """Return the number of roundings that a method states for so many models."""
    found = re.fullmatch(r"(?:(?P<factor>\d* ?)N \+ )?(?P<rest>\d+)", stated()[name])
    assert found is not None, stated()[name]
    factor = found["factor"]
    return (0 if factor is None else n * int(factor.strip() or 1)) + int(found["rest"])


def half_a_unit(values: npt.NDArray[np.float64], dtype: Any) -> npt.NDArray[np.float64]:
    """Return half the distance of a dtype's numbers around these."""
    facts = ml_dtypes.finfo(dtype)
    exponents = np.maximum(np.frexp(np.abs(values))[1] - 1, facts.minexp)
    return np.ldexp(0.5, exponents - facts.nmant)


def grid(rng: np.random.Generator, step: float, most: float, n: int) -> npt.NDArray[np.float32]:
    """Return multiples of a step, of which a float32 holds sums and differences exactly."""
    values = np.clip(rng.standard_normal((n, *SHAPE)) * most / 3, -most, most)
    return (np.rint(values / step) * step).astype(np.float32)


@pytest.mark.parametrize("name", methods.names())
def test_every_method_states_a_bound(name: str) -> None:
    assert name in stated()
    assert (name in ORACLES) == (not issubclass(methods.get(name), MatrixMethod))


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda one: np.dtype(one).name)
@pytest.mark.parametrize(("name", "parameters"), CASES, ids=str)
def test_elements_are_within_the_bound(name: str, parameters: dict[str, Any], dtype: Any) -> None:
    """Task vectors are exact, so that only near numbers are compared otherwise in float32."""
    method = methods.get(name)
    rng = np.random.default_rng(7)
    n = min(4, method.most_models or 4)
    bits = ml_dtypes.finfo(dtype).nmant
    base = grid(rng, 2.0 ** -min(bits, 10), 1, 1)[0].astype(dtype)
    has_base = method.needs_base or method.base_is_optional
    deltas = grid(rng, 2.0**-22, 2.0**-3, n)
    if has_base:
        experts = [base.astype(np.float32) + delta for delta in deltas]
        x = deltas.astype(np.float64)
        assert (np.stack(experts) - base.astype(np.float32) == deltas).all()
    else:
        models = rng.standard_normal(SHAPE) + rng.standard_normal((n, *SHAPE)) / 4
        experts = [one.astype(dtype) for one in models]
        x = np.stack(experts).astype(np.float64)
    found = merge_state_dicts(
        {"w": base} if has_base else None,
        [{"w": expert} for expert in experts],
        method=name,
        **parameters,
    )["w"]
    assert found.dtype == dtype

    given = {key: one for key, one in parameters.items() if key != "scale"}
    scale = parameters.get("scale", 1.0)
    wide = base.astype(np.float64)
    if name == "arcee_fusion":
        given["base"] = wide
    exact = ORACLES[name](x, **given)
    value = (wide if has_base else 0) + scale * exact.value
    size = (np.abs(wide) if has_base else 0) + abs(scale) * exact.size
    k = roundings(name, n) * UNIT
    slack = k / (1 - k) * size
    bound = half_a_unit(np.abs(value) + slack, dtype) + slack
    undecided = np.broadcast_to(exact.undecided, SHAPE)
    assert undecided.mean() < 0.01
    wrong = (np.abs(found.astype(np.float64) - value) > bound) & ~undecided
    assert not wrong.any(), np.argwhere(wrong)[:5]
    changed = found.astype(np.float64) != wide
    assert changed.mean() > 0.02


MATRICES: Final[dict[str, tuple[dict[str, Any], Any]]] = {
    "iso_c": ({}, matrices.iso_c),
    "iso_cts": ({}, matrices.iso_cts),
    "tsv_m": ({}, matrices.tsv_m),
    "star": ({}, matrices.star),
    "wudi": ({"steps": 30}, lambda x: matrices.wudi(x, 1, 1e-5, 30)),
    "doge": (
        {"steps": 30},
        lambda x: matrices.doge(x, np.stack([keep(one, 0.3) for one in x]), steps=30),
    ),
}
"""Parameters of the methods of matrices, and their formulas."""


@pytest.mark.parametrize("name", [one for one in methods.names() if one not in ORACLES])
def test_matrices_are_within_the_bound(name: str) -> None:
    parameters, formula = MATRICES[name]
    power = re.fullmatch(r"2\^-(\d+)", stated()[name])
    assert power is not None
    deltas: Array = np.random.default_rng(7).standard_normal((3, 36, 30)).astype(np.float32)
    base = np.zeros(deltas.shape[1:], np.float32)
    experts = [{"w": one} for one in deltas]
    found = merge_state_dicts({"w": base}, experts, method=name, **parameters)["w"]
    expected = formula(deltas)
    error = np.linalg.norm(found - expected) / np.linalg.norm(expected)
    assert error <= 2.0 ** -int(power[1])
