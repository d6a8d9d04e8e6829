"""The laws that hold for all methods.

The values are multiples of 1/8 small enough that float32 adds them exactly.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tallies import cpu, methods
from tallies.methods._matrix import MatrixMethod
from tallies.spec.choices import Semantics
from tallies.spec.rules import Blend, Rule, Vote
from tests.reference.task_arithmetic import task_vectors
from tests.support.checkpoints import Model, data_bytes
from tests.support.methods import PAIRS, f32, merged


def solves(name: str, semantics: str) -> bool:
    survey = default_rule(name, semantics).survey
    return survey is not None and survey.name == "inner_products"


def default_rule(name: str, semantics: str) -> Rule:
    """Return the rule for the defaults of all parameters."""
    parameters = methods.get(name).parameters(semantics)
    return methods.get(name).rule({key: one.default for key, one in parameters.items()}, semantics)


def leaves_vectors(name: str, semantics: str) -> bool:
    """Return whether the method leaves tensors that are no matrices to the base."""
    others = methods.get(name).parameters(semantics).get("others")
    return others is not None and others.default == "base"


def dyadic(seed: int, *, low: int = -16, high: int = 17) -> Model:
    rng = np.random.default_rng(seed)
    shapes = {"a": (40, 33), "b": (7,), "c": (), "d": (3, 0)}
    return {n: np.asarray(f32(rng.integers(low, high, s) / 8)) for n, s in shapes.items()}


def assert_equal(found: Model, expected: Model) -> None:
    """Equal as numbers: +0 and -0 are the same."""
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        assert found[name].dtype == array.dtype
        assert np.array_equal(found[name], array), name


def assert_agrees(name: str, found: Model, expected: Model) -> None:
    """Equal as numbers; what comes of linear algebra in float64, up to the rounding of a result."""
    if not issubclass(methods.get(name), MatrixMethod):
        assert_equal(found, expected)
        return
    for key, array in expected.items():
        error = np.linalg.norm((found[key] - array).astype(np.float64))
        assert error <= 2.0**-22 * np.linalg.norm(array.astype(np.float64)), key


@pytest.mark.parametrize(
    ("name", "semantics"),
    [
        pair
        for pair in PAIRS
        if methods.get(pair[0]).keeps_one_expert and methods.get(pair[0]).least_models == 1
    ],
)
def test_one_expert_untrimmed_and_unscaled_is_the_result(
    tmp_path: Path, name: str, semantics: str
) -> None:
    base, expert = dyadic(0), dyadic(1)
    whole = {"density": 1.0, "trim_density": 1.0, "scale": 1.0, "k": 1}
    found = merged(tmp_path, name, base, [expert], semantics=semantics, **whole)
    assert_agrees(name, found, expert)


@pytest.mark.parametrize(
    ("name", "semantics"),
    [
        pair
        for pair in PAIRS
        if "scale" in methods.get(pair[0]).parameters(pair[1]) and methods.get(pair[0]).needs_base
    ],
)
def test_a_scale_of_zero_is_the_base(tmp_path: Path, name: str, semantics: str) -> None:
    base = dyadic(0)
    found = merged(tmp_path, name, base, [dyadic(1), dyadic(2)], semantics=semantics, scale=0.0)
    assert_equal(found, base)


KEEPS_THE_LARGEST = ("ties", Semantics.FUSIONBENCH)


@pytest.mark.parametrize(
    ("name", "semantics"),
    [
        pair
        for pair in PAIRS
        # FusionBench keeps the entries of the largest magnitude.
        if "density" in methods.get(pair[0]).parameters(pair[1]) and pair != KEEPS_THE_LARGEST
    ],
)
def test_a_density_of_zero_is_the_base(tmp_path: Path, name: str, semantics: str) -> None:
    base = dyadic(0)
    found = merged(tmp_path, name, base, [dyadic(1), dyadic(2)], semantics=semantics, density=0.0)
    assert_equal(found, base)


ROUNDED = (
    Blend.CLAMPED_MEAN_OF_AGREEING,
    Blend.ALONE_OR_MEAN,
    Blend.SCORE_WEIGHTED_MEAN,
)
"""Blends that round terms before they add them."""


@pytest.mark.parametrize(
    ("name", "semantics"),
    [
        pair
        for pair in PAIRS
        if not methods.get(pair[0]).has_order
        and methods.get(pair[0]).most_models != 1
        and default_rule(*pair).blend not in ROUNDED
        and not solves(*pair)
    ],
)
def test_the_order_of_the_experts_changes_no_exact_sum(
    tmp_path: Path, name: str, semantics: str
) -> None:
    experts = [dyadic(seed) for seed in range(1, 5)]
    own = [{"weight": weight} for weight in (1.0, 0.5, 2.0, -0.25)]
    order = [2, 0, 3, 1]
    one = merged(tmp_path / "one", name, dyadic(0), experts, own, semantics=semantics)
    other = merged(
        tmp_path / "other",
        name,
        dyadic(0),
        [experts[i] for i in order],
        [own[i] for i in order],
        semantics=semantics,
    )
    assert_agrees(name, other, one)


@pytest.mark.parametrize(
    ("name", "semantics"),
    [
        pair
        for pair in PAIRS
        if default_rule(*pair).vote is Vote.NONE
        and not (methods.get(pair[0]).has_order or leaves_vectors(*pair))
        and not methods.get(pair[0]).number_objection(8)
        and default_rule(*pair).blend not in ROUNDED
    ],
)
def test_the_order_of_the_experts_changes_an_average_by_rounding_alone(
    tmp_path: Path, name: str, semantics: str
) -> None:
    rng = np.random.default_rng(3)
    base, *experts = ({"w": f32(rng.standard_normal(5000))} for _ in range(9))
    one = merged(tmp_path / "one", name, base, experts, semantics=semantics)["w"]
    other = merged(tmp_path / "other", name, base, experts[::-1], semantics=semantics)["w"]
    rows = np.stack([expert["w"] for expert in experts])
    size = np.abs(rows).sum(axis=0)
    if methods.get(name).forms_task_vectors(has_base=True):
        size = np.abs(task_vectors(base["w"], list(rows))).sum(axis=0) + np.abs(base["w"])
    # Each of the additions, and what is done with their sum, rounds by half a unit at most.
    bound = 2 * (len(experts) + 3) * np.finfo(np.float32).eps / 2 * size
    assert (np.abs(one - other) <= bound).all()
    assert (one != other).any()


@pytest.mark.parametrize(
    ("name", "semantics"), [pair for pair in PAIRS if default_rule(*pair).blend in ROUNDED]
)
def test_the_order_of_the_experts_changes_a_weighted_mean_by_rounding_alone(
    tmp_path: Path, name: str, semantics: str
) -> None:
    base, *experts = (dyadic(seed) for seed in range(5))
    one = merged(tmp_path / "one", name, base, experts, semantics=semantics)
    other = merged(tmp_path / "other", name, base, experts[::-1], semantics=semantics)
    for key, value in one.items():
        largest = np.abs([expert[key] - base[key] for expert in experts]).max(axis=0)
        # Each term is a product or quotient and an addition, of values and of weights.
        bound = (4 * len(experts) + 4) * np.finfo(np.float32).eps / 2 * largest
        bound = bound + np.finfo(np.float32).eps / 2 * np.abs(value)
        assert (np.abs(value - other[key]) <= bound).all(), key


@pytest.mark.parametrize(("name", "semantics"), PAIRS)
def test_threads_and_instruction_sets_change_no_byte(
    tmp_path: Path, name: str, semantics: str
) -> None:
    rng = np.random.default_rng(4)
    models: list[Model] = [
        {
            "smooth": f32(rng.standard_normal((130, 257))),
            "few": (rng.integers(-4, 5, 40_001) / 8).astype(np.float16),
        }
        for _ in range(1 + (methods.get(name).most_models or 3))
    ]
    before, results = cpu.target(), []
    try:
        for target in cpu.targets():
            cpu.set_target(target)
            for threads in (1, 3):
                root = tmp_path / f"{target}-{threads}"
                merged(root, name, models[0], models[1:], semantics=semantics, threads=threads)
                results.append(data_bytes(root / "out"))
    finally:
        cpu.set_target(before)
    assert len(results) >= 4
    assert results == [results[0]] * len(results)
