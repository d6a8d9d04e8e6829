"""Methods in which an entry depends on all experts of its element, against their references."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tallies import InputError, merge, merge_state_dicts
from tests.reference.dtype import Array, Floats
from tests.reference.elementary import exp, tanh
from tests.reference.emr import unified_vector
from tests.reference.model import flatten, float_names, split
from tests.reference.pcb import pcb
from tests.reference.ram import amplifications, ram
from tests.reference.sce import sce
from tests.reference.task_arithmetic import add_to_base, task_vectors
from tests.support.checkpoints import assert_holds, write
from tests.support.everywhere import assert_same_bits, on_every_target
from tests.support.strategies import Models, models, weights

Tensors = dict[str, Array]
EPSILONS = st.sampled_from([1e-5, 0.0, 0.3, 1.0])


def by_tensor(base: Tensors, experts: Sequence[Tensors], merged: Any, scale: float = 1) -> Tensors:
    """base + scale * merged(task vectors), tensor by tensor."""
    return {
        name: add_to_base(
            base[name], scale, merged(task_vectors(base[name], [e[name] for e in experts]))
        )
        for name in base
    }


def by_model(base: Tensors, experts: Sequence[Tensors], merged: Any, scale: float = 1) -> Tensors:
    """The same of all tensors as one vector."""
    names = float_names(base)
    flat = task_vectors(flatten(base, names), [flatten(expert, names) for expert in experts])
    parts = split(merged(flat), base, names)
    return {name: add_to_base(base[name], scale, parts[name]) for name in base}


def assert_merges(group: Models, method: str, expected: Tensors, **options: Any) -> None:
    """The merge in memory has these bits on every target."""
    results = on_every_target(
        lambda: merge_state_dicts(
            *group, method=method, nonfinite="propagate", threads=2, **options
        )
    )
    for target, found in results.items():
        for name, tensor in expected.items():
            try:
                assert_same_bits(found[name], tensor)
            except AssertionError as difference:
                raise AssertionError(f"{target}, {name!r}: {difference}") from None


@settings(max_examples=60)
@given(models(), st.sampled_from([1.0, 0.3, -0.5]))
def test_emr(group: Models, scale: float) -> None:
    def merged(deltas: Floats) -> Floats:
        return unified_vector([{"x": delta} for delta in deltas])["x"]

    assert_merges(group, "emr", by_tensor(*group, merged, scale), scale=scale)


@settings(max_examples=60)
@given(models(), EPSILONS)
def test_ram(group: Models, epsilon: float) -> None:
    expected = by_tensor(*group, lambda deltas: ram(deltas, epsilon))
    for semantics in ("paper", "mergekit"):
        assert_merges(group, "ram", expected, epsilon=epsilon, semantics=semantics)


@settings(max_examples=60)
@given(models(), EPSILONS, st.sampled_from([0.1, 0.7]), st.sampled_from([0.2, 3.0]))
def test_ramplus(group: Models, epsilon: float, r: float, alpha: float) -> None:
    def merged(deltas: Floats) -> Floats:
        return ram(deltas, epsilon, amplifications(deltas, epsilon, r, alpha))

    options = {"epsilon": epsilon, "r": r, "alpha": alpha}
    assert_merges(group, "ramplus", by_model(*group, merged), scope="model", **options)
    assert_merges(group, "ramplus", by_tensor(*group, merged), **options)
    assert_merges(group, "ramplus", by_tensor(*group, merged), semantics="mergekit", **options)


@settings(max_examples=60)
@given(models(), st.sampled_from([1.0, 0.0, 0.1, 0.5, 0.99]), st.booleans())
def test_sce(group: Models, select_topk: float, fallback: bool) -> None:
    expected = by_tensor(*group, lambda deltas: sce(deltas, select_topk, fallback))
    assert_merges(group, "sce", expected, select_topk=select_topk, fallback=fallback)


def test_sce_of_one_expert_differs_where_it_is_not_finite() -> None:
    x = np.array([1, np.nan, 2, np.inf, -np.inf, 3], np.float32)
    group = Models({"x": np.zeros_like(x)}, [{"x": x}])
    expected = by_tensor(*group, lambda deltas: sce(deltas, 0.7, False))
    assert np.count_nonzero(np.nan_to_num(expected["x"], nan=1)) == 2
    assert_merges(group, "sce", expected, select_topk=0.7)


@settings(max_examples=60)
@given(
    models(),
    st.sampled_from([0.2, 0.05, 0.0, 0.5, 0.9, 1.0]),
    st.sampled_from(["global", "vision"]),
    st.data(),
)
def test_pcb(group: Models, ratio: float, variant: str, data: st.DataObject) -> None:
    own = data.draw(weights(len(group.experts)))
    expected = by_model(*group, lambda deltas: pcb(deltas, ratio, variant, own), 0.7)
    assert_merges(group, "pcb", expected, ratio=ratio, variant=variant, weights=own, scale=0.7)


def large_models(seed: int, n_experts: int, kind: str) -> Models:
    """Too large for its ranks to be found in memory: sampled, surveyed, cut off in mid-tensor.

    "coarse" is full of equal magnitudes and elements that no expert changed, "smooth" has neither;
    in "opposed" the experts mostly disagree, so that many scores are negative.
    """
    rng = np.random.default_rng(seed)
    shapes = {"a": (411, 300), "b": (70_001,), "c": (3, 5), "d": (0, 4), "e": ()}
    base: Tensors = {}
    experts: list[Tensors] = [{} for _ in range(n_experts)]
    for name, shape in shapes.items():
        dtype = np.float16 if name == "b" else np.float32
        base[name] = np.asarray(rng.normal(size=shape).astype(dtype))
        for i, expert in enumerate(experts):
            change = rng.normal(size=shape)
            if kind == "coarse":
                change = np.round(change) * (rng.random(shape) < 0.6)
            if kind == "opposed":
                change = np.abs(change) * (-3 if i else 1)
            expert[name] = np.asarray((base[name] + 0.125 * change).astype(dtype))
    return Models(base, experts)


KINDS = ("smooth", "coarse", "opposed")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("select_topk", [0.1, 0.85])
def test_sce_of_large_tensors(kind: str, select_topk: float) -> None:
    group = large_models(0, 3, kind)
    expected = by_tensor(*group, lambda deltas: sce(deltas, select_topk))
    assert_merges(group, "sce", expected, select_topk=select_topk)


@pytest.mark.parametrize(
    ("size", "n_experts"), [(1e-24, 3), (1e-17, 3), (1e-14, 3), (1e16, 3), (1e18, 3), (1, 66)]
)
def test_sce_of_variances_that_float32_does_not_hold(size: float, n_experts: int) -> None:
    rng = np.random.default_rng(9)
    changes = size * rng.choice([1, 2.5, rng.normal()], (n_experts, 33_000))
    changes[:, ::3] = np.rint(4 * rng.normal(size=(n_experts, 11_000))) * size
    group = Models(
        {"x": np.zeros(33_000, np.float32)}, [{"x": x.astype(np.float32)} for x in changes]
    )
    expected = by_tensor(*group, lambda deltas: sce(deltas, 0.4))
    assert_merges(group, "sce", expected, select_topk=0.4)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("ratio", "variant"), [(0.2, "global"), (0.05, "vision"), (0.8, "global")])
def test_pcb_of_large_models(kind: str, ratio: float, variant: str) -> None:
    group = large_models(1, 3, kind)
    expected = by_model(*group, lambda deltas: pcb(deltas, ratio, variant))
    assert_merges(group, "pcb", expected, ratio=ratio, variant=variant)


@pytest.mark.parametrize(
    ("method", "options", "reference"),
    [
        ("ram", {}, lambda *group: by_tensor(*group, ram)),
        (
            "ramplus",
            {"scope": "model"},
            lambda *group: by_model(*group, lambda x: ram(x, factors=amplifications(x))),
        ),
        (
            "sce",
            {"select_topk": 0.3},
            lambda *group: by_tensor(*group, lambda x: sce(x, 0.3)),
        ),
        ("pcb", {"ratio": 0.1}, lambda *group: by_model(*group, lambda x: pcb(x, 0.1))),
    ],
)
def test_memory_and_threads_change_no_byte(
    tmp_path: Path, method: str, options: dict[str, Any], reference: Any
) -> None:
    group = large_models(2, 5, "coarse")
    recipe = {
        "merge_method": method,
        "base_model": str(write(tmp_path / "base", group.base)),
        "models": [
            {"model": str(write(tmp_path / f"{i}", expert))}
            for i, expert in enumerate(group.experts)
        ],
        "parameters": options,
    }
    expected = reference(*group)
    for threads, memory in ((1, "1GiB"), (3, "64KiB")):
        out = tmp_path / f"out-{threads}"
        merge(recipe, out, threads=threads, max_memory=memory, max_shard_size="300kB")
        assert_holds(out, expected)


@pytest.mark.parametrize(
    ("method", "options", "words"),
    [
        ("ram", {"epsilon": -1}, "epsilon: found -1, expected a finite number"),
        ("ram", {"density": 0.5}, "'density'"),
        ("ramplus", {"r": -0.1}, "r: found -0.1, expected a finite number from 0"),
        ("ramplus", {"semantics": "mergekit", "scope": "model"}, "only in paper semantics"),
        (
            "sce",
            {"select_topk": 1.5},
            "select_topk: found 1.5, expected a finite number",
        ),
        ("sce", {"weights": [1.0]}, "'weight'"),
        ("pcb", {"ratio": 2}, "ratio: found 2, expected a finite number from 0 to 1"),
        ("pcb", {"variant": "b"}, "variant: 'b' is not known"),
        ("ties", {"semantics": "peft"}, "'density'"),
        ("ties", {"semantics": "peft", "density": 0.5, "scale": 2}, "only in"),
        ("ties", {"semantics": "fusionbench", "weights": [1.0]}, "'weight'|only in"),
    ],
)
def test_parameters_are_checked(method: str, options: dict[str, Any], words: str) -> None:
    base = {"w": np.zeros(2, np.float32)}
    with pytest.raises(InputError, match=words):
        merge_state_dicts(base, [base], method=method, **options)


def test_pcb_has_as_many_models_as_float32_can_score() -> None:
    base = {"w": np.zeros(2, np.float32)}
    expert = {"w": np.float32([1, 2])}
    merge_state_dicts(base, [expert] * 88, method="pcb")
    with pytest.raises(InputError, match="found 89 models, expected at most 88"):
        merge_state_dicts(base, [expert] * 89, method="pcb")


def test_exp_and_tanh_of_the_reference_are_right_to_two_units_in_the_last_place() -> None:
    y = np.linspace(0, 88, 100_001, dtype=np.float32)
    z = np.concatenate([np.linspace(-20, 20, 100_001), np.geomspace(1e-30, 1, 1000)])
    for found, exact in (
        (exp(y), np.exp(y.astype(np.float64))),
        (tanh(z.astype(np.float32)), np.tanh(z.astype(np.float32).astype(np.float64))),
    ):
        assert (np.abs(found - exact) <= 2 * np.spacing(np.abs(found))).all()
