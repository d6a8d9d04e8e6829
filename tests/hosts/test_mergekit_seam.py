"""mergekit's methods on our kernels against its own, bit for bit, and each reason to hand over."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from mergekit import merge_methods
from mergekit.merge_methods import PerGroupValues, TensorGroup, merge_tensors

from tallies.integrations import _mergekit_task_vectors
from tallies.integrations import mergekit as seam
from tallies.integrations._serving import find
from tests.support.mergekit_host import as_mergekit

KINDS = {
    "normal": lambda x: x,
    "equal magnitudes": lambda x: (x * 2).round() / 2,
    "few values": lambda x: x.sign(),
    "with zeros": lambda x: torch.where(x > 0.5, x, 0.0),
    "with negative zeros": lambda x: torch.where(x > 0, x, -0.0),
    "cancelling": lambda x: (
        x.abs() * torch.where(torch.arange(x.numel()).view_as(x) % 2 == 0, 1, -1)
    ),
    "subnormal": lambda x: x * 1e-40,
    "tiny": lambda x: x * 1e-5,
    "huge": lambda x: x * 1e38,
}
PARAMETERS: dict[str, list[dict[str, Any]]] = {
    "task_arithmetic": [{}, {"normalize": True, "lambda": 0.7}],
    "ties": [{"density": 0.2}, {"density": 0.5, "lambda": 1.3, "normalize": False}, {"density": 0}],
    "dare_ties": [{"density": 0.6}, {"density": 0.3, "rescale": False}],
    "dare_linear": [{"density": 0.5}],
    "breadcrumbs": [{"density": 0.6, "gamma": 0.05}, {"density": 0.95, "gamma": 0.2}],
    "breadcrumbs_ties": [{"density": 0.4, "gamma": 0.0}],
    "della": [{"density": 0.5, "epsilon": 0.2}],
    "della_linear": [{"density": 0.5, "epsilon": 0.2}],
    "ram": [{}],
    "ramplus_tl": [{"r": 0.3, "alpha": 0.4}],
}
WEIGHTED = set(PARAMETERS) - {"ram", "ramplus_tl"}
NEAR: list[dict[str, Any]] = [{"t": 0.3}, {"t": 1e-5}, {"t": 0}, {"t": -0.5}, {"t": 2}]


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    yield
    seam.uninstall()


def tensors_of(kind: str, n_models: int, shape: tuple[int, ...], seed: int = 0) -> list[Any]:
    generator = torch.Generator().manual_seed(seed)
    return [KINDS[kind](torch.randn(shape, generator=generator)) for _ in range(n_models)]


def merged(method: str, tensors: list[Any], parameters: dict[str, Any], seed: int = 3) -> Any:
    torch.manual_seed(seed)
    given = dict(parameters)
    if method in WEIGHTED:
        given.setdefault("weight", [0.7, -0.4, 1.0, 0.25, 0.5][: len(tensors) - 1])
    return merge_tensors(tensors, method, parameters=given, base_index=0)


def check(method: str, tensors: list[Any], parameters: dict[str, Any]) -> None:
    theirs = merged(method, tensors, parameters)
    with seam.installed():
        ours = merged(method, tensors, parameters)
    finite = theirs.isfinite()
    assert torch.equal(ours[finite], theirs[finite])
    assert torch.equal(ours.isfinite(), finite)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("method", PARAMETERS)
def test_float32_has_the_bits_of_the_host(method: str, kind: str) -> None:
    for parameters in PARAMETERS[method]:
        for n_experts in (1, 2, 3):
            for shape in ((17,), (40, 33), (2,)):
                check(method, tensors_of(kind, n_experts + 1, shape), parameters)


@pytest.mark.parametrize("method", PARAMETERS)
def test_finite_tensors_are_merged_here(method: str) -> None:
    for parameters in PARAMETERS[method]:
        with seam.installed():
            merged(method, tensors_of("equal magnitudes", 4, (64, 32)), parameters)
            assert seam.calls() == {"ours": 1}


@pytest.mark.parametrize("kind", KINDS)
def test_nearswap_has_the_bits_of_the_host_in_float32(kind: str) -> None:
    for parameters in NEAR:
        for shape in ((17,), (40, 33)):
            tensors = tensors_of(kind, 2, shape)
            theirs = merge_tensors(tensors, "nearswap", parameters=parameters, base_index=0)
            with seam.installed():
                ours = merge_tensors(tensors, "nearswap", parameters=parameters, base_index=0)
            finite = theirs.isfinite()
            assert torch.equal(ours[finite], theirs[finite]), parameters
            assert torch.equal(ours.isfinite(), finite)
            assert kind == "huge" or seam.calls() == {"ours": 1}


@pytest.mark.parametrize("n_experts", [5, 8, 17])
@pytest.mark.parametrize("method", ["task_arithmetic", "ties", "breadcrumbs_ties", "ram"])
def test_sums_of_many_experts_have_the_host_s_order_or_are_the_host_s(
    method: str, n_experts: int
) -> None:
    weights = [round(0.3 + i / 7, 3) for i in range(n_experts)]
    parameters = {} if method == "ram" else {"weight": weights}
    for shape, reason in (((32, 3), "ours"), ((32, 3 + 1), "ours"), ((7, 5), "order of sums")):
        check(method, tensors_of("normal", n_experts + 1, shape), parameters)
        assert seam.calls() == {"ours": 0} | {reason: 1}


def test_eighteen_experts_are_the_host_s() -> None:
    check("task_arithmetic", tensors_of("normal", 19, (64,)), {"weight": [0.1] * 18})
    assert seam.calls() == {"ours": 0, "order of sums": 1}


@pytest.mark.parametrize(
    ("reason", "change"),
    [
        ("dtype", lambda x: x.bfloat16()),
        ("dtype", lambda x: x.double()),
        ("gradients", lambda x: x.requires_grad_()),
        ("not finite", lambda x: x.index_fill(0, torch.tensor(2), float("nan"))),
        ("not finite", lambda x: x.index_fill(0, torch.tensor(2), float("inf"))),
        ("kind", lambda x: Tagged(x)),
    ],
)
@pytest.mark.parametrize("method", ["ties", "task_arithmetic", "breadcrumbs", "dare_ties"])
def test_a_tensor_that_is_not_merged_exactly_goes_to_the_host_for_a_reason(
    method: str, reason: str, change: Any
) -> None:
    tensors = [change(x) for x in tensors_of("normal", 3, (40, 8))]
    parameters = {} if method == "task_arithmetic" else {"density": 0.5}
    theirs = merged(method, tensors, parameters)
    with seam.installed():
        ours = merged(method, tensors, parameters)
    assert seam.calls() == {"ours": 0, reason: 1}
    assert torch.equal(ours.nan_to_num(1.5), theirs.nan_to_num(1.5))


class Tagged(torch.Tensor):
    """A subclass of tensors, whose operations may mean anything."""


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("method", PARAMETERS)
def test_inexact_halves_are_float32_results_rounded_once(method: str, dtype: torch.dtype) -> None:
    if method.startswith(("dare", "della")):
        parameters: dict[str, Any] = {"density": 1.0}
    else:
        parameters = PARAMETERS[method][0]
    tensors = [x.to(dtype) for x in tensors_of("normal", 4, (40, 32))]
    theirs = merged(method, [x.float() for x in tensors], parameters).to(dtype)
    with seam.installed(exact=False):
        ours = merged(method, tensors, parameters)
    assert seam.calls() == {"ours": 1}
    # Some methods of mergekit return float32 for halves, and so do ours.
    differ = (ours.to(dtype) != theirs).float().mean()
    assert differ <= (0.01 if "ties" in method or "crumbs" in method else 0.0)


ARCS: dict[str, dict[str, Any]] = {
    "slerp": {"t": 0.3},
    "nuslerp": {"weight": [0.7, 0.4]},
    "multislerp": {"weight": [0.7, 0.4, 0.1]},
    "karcher": {},
    "model_stock": {},
    "sce": {"select_topk": 0.3},
    "arcee_fusion": {},
}
N_EXPERTS = {"slerp": 1, "nuslerp": 2, "arcee_fusion": 1}


@pytest.mark.parametrize("method", ARCS)
def test_methods_within_rounding_are_ours_only_if_asked_for(method: str) -> None:
    tensors = tensors_of("normal", N_EXPERTS.get(method, 3) + 1, (40, 32))
    theirs = merge_tensors(tensors, method, parameters=ARCS[method], base_index=0)
    with seam.installed():
        exact = merge_tensors(tensors, method, parameters=ARCS[method], base_index=0)
        assert seam.calls() == {"ours": 0, "within rounding only": 1}
    with seam.installed(exact=False):
        ours = merge_tensors(tensors, method, parameters=ARCS[method], base_index=0)
        assert seam.calls() == {"ours": 1}
    assert torch.equal(exact, theirs)
    assert (ours - theirs).norm() <= 2e-6 * theirs.norm()


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is:DeprecationWarning")  # torch's own use
@pytest.mark.parametrize("method", ["ties", "task_arithmetic", "ram", "linear"])
def test_transforms_of_torch_reach_the_host(method: str) -> None:
    base, x, tangent = tensors_of("normal", 3, (40, 8))
    parameters = {} if method == "ram" else {"weight": 0.4}

    def merge(tensor: Any) -> Any:
        return merge_tensors([base, tensor], method, parameters=parameters, base_index=0)

    for transformed in (
        lambda: torch.func.grad(lambda tensor: merge(tensor).sum())(x),
        lambda: torch.func.jvp(merge, (x,), (tangent,))[1],
        lambda: dual_tangent(merge, x, tangent),
    ):
        theirs = transformed()
        with seam.installed():
            assert torch.equal(transformed(), theirs)
        assert seam.calls()["ours"] == 0


def dual_tangent(function: Any, x: Any, tangent: Any) -> Any:
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(x, tangent)
        return torch.autograd.forward_ad.unpack_dual(function(dual)).tangent


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("normalize", [True, False])
def test_linear_has_the_bits_of_the_host_in_every_dtype(
    dtype: torch.dtype, normalize: bool
) -> None:
    for n_models in (1, 2, 3, 8, 20):
        weights = [round(0.3 - i / 7, 3) for i in range(n_models)]
        for shape in ((1,), (17,), (40, 33), (0, 4)):
            tensors = [x.to(dtype) for x in tensors_of("normal", n_models, shape)]
            given = {"weight": weights, "normalize": normalize}
            theirs = merge_tensors(tensors, "linear", parameters=given)
            with seam.installed():
                ours = merge_tensors(tensors, "linear", parameters=given)
            assert torch.equal(ours, theirs)
            assert seam.calls() == {"ours": 0} | {"empty" if 0 in shape else "ours": 1}


def test_outputs_of_a_batch_have_weights_of_their_own() -> None:
    groups = [
        TensorGroup.from_tensors(tensors_of("normal", 3, (40, 8), seed=i), name=f"layer {i}")
        for i in range(6)
    ]
    linear = merge_methods.get("linear")
    for per_group in (
        [{0: 0.2, 1: 0.3, 2: 0.5}] * 6,
        [{0: 0.15 + i / 10, 1: 0.3, 2: -0.5} for i in range(6)],
    ):
        parameters = {"weight": PerGroupValues(per_group)}
        theirs = linear(groups, parameters=parameters)
        with seam.installed():
            ours = linear(groups, parameters=parameters)
        assert seam.calls() == {"ours": 1}
        assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


def test_linear_weights_that_cancel_are_the_host_s() -> None:
    tensors = tensors_of("normal", 2, (40,))
    with seam.installed():
        ours = merge_tensors(tensors, "linear", parameters={"weight": [0.5, -0.5]})
    assert not ours.isfinite().any()
    assert seam.calls() == {"ours": 0, "not finite": 1}


def test_the_host_is_as_before_after_uninstalling() -> None:
    with as_mergekit():
        before = {
            one.label: find(one.module, one.name).value  # type: ignore[union-attr]
            for one in seam.SEAMS
        }
    seam.install()
    installed = {label: find_label(label) for label in before}
    assert all(installed[label] is not before[label] for label in before)
    seam.uninstall()
    assert {label: find_label(label) for label in before} == before


def find_label(label: str) -> Any:
    (one,) = [one for one in seam.SEAMS if one.label == label]
    place = find(one.module, one.name)
    assert place is not None
    return place.value


def test_a_sort_of_torch_that_keeps_others_is_asked_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_mergekit_task_vectors, "sorts_alike", lambda: False)
    monkeypatch.setattr(_mergekit_task_vectors, "_kept", None)
    for method in ("ties", "breadcrumbs"):
        check(method, tensors_of("few values", 3, (40, 33)), {"density": 0.3})
        assert seam.calls() == {"ours": 1}


def test_the_sort_of_this_torch_is_the_one_that_is_repeated_here() -> None:
    assert _mergekit_task_vectors.sorts_alike()
