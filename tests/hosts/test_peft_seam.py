"""PEFT's merges of adapters on our kernels: its own bits, or its own function."""

from __future__ import annotations

import copy
import sys
import threading
import warnings

import peft
import pytest
import torch
from peft.utils import merge_utils

from tallies import InputError
from tallies.integrations import _peft_creation as creation
from tallies.integrations import _peft_functions as functions
from tallies.integrations import peft as seam
from tests.support.host_data import KINDS, normal, same_bits, task_vectors

SHAPES = ((1, 1), (16, 32), (7, 33))
WEIGHTS = (0.3, 1.0, -2.0, 0.0, 0.7, 1.0, 1.1, 3.0)
UTILS = "peft.utils.merge_utils"
ADAPTER = "peft.tuners.lora.model.LoraModel.add_weighted_adapter"
COMBINATIONS = ("linear", "ties", "magnitude_prune", "dare_linear", "dare_ties")


def outcome(function, *arguments, **keywords):
    """Return a call's result from one state of the generator, or the type of its error."""
    torch.manual_seed(1)
    try:
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            result = function(*copy.deepcopy(arguments), **keywords)
    except Exception as error:
        return type(error)
    return result, torch.rand(3), torch.tensor(len(told))


def calls_of(x, weights):
    """Yield names of functions and arguments for task vectors [N, ...]."""
    rows = list(x)
    yield "task_arithmetic", (rows, weights)
    for density in (0, 0.2, 0.5, 1, -1, None):
        yield "magnitude_prune", (rows, weights, density)
        yield "dare_linear", (rows, weights, density)
        for method in ("total", "frequency"):
            yield "ties", (rows, weights, density, method)
            yield "dare_ties", (rows, weights, density, method)
        if density is not None:
            yield "magnitude_based_pruning", (rows[0], density)
            yield "prune", (rows[-1], density, "magnitude")
    for method in ("total", "frequency", "other"):
        yield "calculate_majority_sign_mask", (x, method)
    yield "disjoint_merge", (x, x > 0.1)
    yield "ties", (rows, weights, 0.3)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_results_have_the_bits_of_the_host(kind, dtype):
    n_ours = 0
    for n in (1, 2, 8):
        for shape in SHAPES:
            x = task_vectors(kind, n, shape, seed=n * shape[1]).to(dtype)
            calls = [*calls_of(x, torch.tensor(WEIGHTS[:n]))]
            expected = [outcome(getattr(merge_utils, name), *args) for name, args in calls]
            with seam.installed():
                found = [outcome(getattr(merge_utils, name), *args) for name, args in calls]
                n_ours += seam.calls()["ours"]
            for call, ours, theirs in zip(calls, found, expected, strict=True):
                if isinstance(theirs, type):
                    assert ours is theirs, call
                else:
                    assert same_bits(ours, theirs), call
    assert n_ours > 0


REASONS = [
    (lambda x: x.double(), 0.5, "dtype"),
    (lambda x: x.requires_grad_(), 0.5, "gradients"),
    (lambda x: x.fill_(torch.inf), 0.5, "not finite"),
    (lambda x: x, 1, "density"),
    (lambda x: task_vectors(normal, 5, (3, 11)), 0.5, "order of sums"),
]


@pytest.mark.parametrize(("change", "density", "reason"), REASONS)
def test_calls_that_are_not_ours_are_counted_by_reason(change, density, reason):
    x = change(task_vectors(normal, 3, (8, 16)))
    arguments = (list(x), torch.tensor(WEIGHTS[: len(x)]), density)
    expected = merge_utils.ties(*(arguments if density < 1 else (*arguments[:2], 0.999999)))
    with seam.installed(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = merge_utils.ties(*arguments)
        assert seam.calls(f"{UTILS}.ties") == {"ours": 0, reason: 1}
    if density < 1:
        assert same_bits(found, expected)


def test_equal_magnitudes_alone_are_trimmed_by_the_host():
    rows = [*task_vectors(normal, 2, (16, 32)), task_vectors(normal, 1, (16, 32))[0].round()]
    arguments = rows, torch.tensor(WEIGHTS[:3]), 0.5
    expected = merge_utils.ties(*arguments)
    with seam.installed():
        assert same_bits(merge_utils.ties(*arguments), expected)
        assert seam.calls(f"{UTILS}.ties") == {"ours": 1}
        trims = seam.calls(f"{UTILS}.magnitude_based_pruning")
    assert trims == {"ours": 0, "equal magnitudes": 1}


def test_inexact_results_keep_the_first_of_equal_magnitudes():
    rows = [torch.tensor([[1.0, -2, 2, 0.5]]), torch.tensor([[-1.0, 1, 1, 1]])]
    weights = torch.tensor([1.0, 1.0])
    with seam.installed(exact=False):
        found = merge_utils.ties(rows, weights, 0.25)
        assert seam.calls(f"{UTILS}.ties") == {"ours": 1}
    assert torch.equal(found, torch.tensor([[-1.0, -2, 0, 0]]))


class Small(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = torch.nn.Embedding(64, 32)
        self.up = torch.nn.Linear(32, 96)
        self.narrow = torch.nn.Linear(96, 7)
        self.convolution = torch.nn.Conv2d(4, 8, 3)


def adapted(n: int = 3, coarse: bool = False, dtype: torch.dtype = torch.float32):
    """Return a model with n adapters of random factors, of which the last lacks a module."""
    torch.manual_seed(3)
    model = None
    for i in range(n):
        targets = ["embedding", "up", "narrow", "convolution"][: 3 if i == n - 1 else 4]
        config = peft.LoraConfig(r=8, lora_alpha=4 + i, target_modules=targets)
        if model is None:
            model = peft.get_peft_model(Small().to(dtype), config, "a0")
        else:
            model.add_adapter(f"a{i}", config)
    for name, parameter in model.named_parameters():
        if "lora" in name:
            values = torch.randn(parameter.shape)
            parameter.data = (values.round() if coarse else values).to(parameter.dtype)
    return model


def merged(model, combination: str, **keywords):
    torch.manual_seed(5)
    adapters = list(model.peft_config)
    weights = [0.8, -1.3, 0.5, 2.0, 0.1][: len(adapters)]
    keywords = {"density": 0.4, **keywords}
    model.add_weighted_adapter(
        adapters, weights, "merged", combination_type=combination, **keywords
    )
    state = {k: v for k, v in model.state_dict().items() if "merged" in k}
    trained = [p.requires_grad for _, p in model.named_parameters()]
    return {**state, "trained": torch.tensor(trained), "generator": torch.get_rng_state()}


@pytest.mark.parametrize("coarse", [False, True])
@pytest.mark.parametrize("combination", [*COMBINATIONS, "cat", "svd", "ties_svd", "dare_ties_svd"])
def test_weighted_adapters_have_the_bits_of_the_host(combination, coarse):
    expected = merged(adapted(coarse=coarse), combination)
    with seam.installed():
        found = merged(adapted(coarse=coarse), combination)
        counts = seam.calls("peft.tuners.lora.model.LoraModel.add_weighted_adapter")
    one_call = combination in COMBINATIONS
    assert counts == ({"ours": 1} if one_call else {"ours": 0, "combination type": 1})
    assert found.keys() == expected.keys() and len(found) > 8
    assert same_bits(found, expected)


@pytest.mark.parametrize("combination", COMBINATIONS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_weighted_adapters_of_other_dtypes(combination, dtype):
    expected = merged(adapted(dtype=dtype), combination)
    with seam.installed():
        assert same_bits(merged(adapted(dtype=dtype), combination), expected)


@pytest.mark.parametrize("combination", COMBINATIONS)
def test_more_adapters_than_torch_sums_in_order(combination):
    expected = merged(adapted(5), combination)
    with seam.installed():
        assert same_bits(merged(adapted(5), combination), expected)


@pytest.mark.parametrize("combination", COMBINATIONS)
def test_values_that_are_not_finite_are_the_hosts(combination):
    def broken():
        model = adapted()
        model.base_model.model.up.lora_A["a0"].weight.data[0, :5] = torch.inf
        model.base_model.model.narrow.lora_B["a1"].weight.data[0] = torch.nan
        return model

    expected = merged(broken(), combination)
    with seam.installed():
        assert same_bits(merged(broken(), combination), expected)


def test_errors_of_the_host_stay_and_leave_its_method_in_place():
    model = adapted()
    with seam.installed():
        with pytest.raises(ValueError, match="missing"):
            model.add_weighted_adapter(["a0", "missing"], [1.0, 1.0], "merged", "linear")
        with pytest.raises(TypeError):
            merged(adapted(), "ties", density=None)
        assert "_generalized_task_arithmetic_weighted_adapter" not in vars(model.base_model)
        first = merged(model, "linear")
    assert len(first) > 8


def test_factors_of_linear_layers_are_created_without_values(monkeypatch):
    created = []
    make = creation._created
    monkeypatch.setattr(creation, "_created", lambda *a: created.append(a) or make(*a))
    with seam.installed():
        merged(adapted(), "ties")
    assert len(created) == 2


def test_after_an_error_of_the_host_factors_have_their_first_values():
    def state_after_error():
        model = adapted()
        with pytest.raises(TypeError):
            merged(model, "ties", density=None)
        state = {k: v for k, v in model.state_dict().items() if "merged" in k and "narrow" in k}
        return {**state, "generator": torch.get_rng_state()}

    expected = state_after_error()
    with seam.installed():
        found = state_after_error()
    assert len(found) == 3
    assert same_bits(found, expected)


class Doubling(peft.LoraModel):
    def _generalized_task_arithmetic_weighted_adapter(self, *arguments):
        factors = super()._generalized_task_arithmetic_weighted_adapter(*arguments)
        return [2 * one for one in factors]


def test_a_model_with_a_method_of_its_own_keeps_it():
    def doubled():
        model = adapted()
        model.base_model.__class__ = Doubling
        return merged(model, "ties")

    expected = doubled()
    assert not same_bits(expected, merged(adapted(), "ties"))
    with seam.installed():
        assert same_bits(doubled(), expected)
        assert seam.calls(ADAPTER) == {"ours": 0, "replaced": 1}


@pytest.mark.parametrize("name", ["dare_linear", "dare_ties"])
@pytest.mark.parametrize("weight", [float("inf"), float("nan")])
def test_weights_that_are_not_finite_draw_once(name, weight):
    arguments = list(task_vectors(normal, 2, (4, 8))), torch.tensor([weight, 1.0]), 0.5
    expected = outcome(getattr(merge_utils, name), *arguments)
    with seam.installed():
        assert same_bits(outcome(getattr(merge_utils, name), *arguments), expected)
        assert seam.calls(f"{UTILS}.{name}") == {"ours": 0, "weights": 1}


@pytest.mark.parametrize("name", ["dare_linear", "dare_ties"])
@pytest.mark.parametrize("error", [InputError("refused"), TypeError("refused")])
def test_a_refusal_after_the_draw_draws_once(name, error, monkeypatch):
    arguments = list(task_vectors(normal, 2, (4, 8))), torch.tensor([0.5, 1.0]), 0.5
    expected = outcome(getattr(merge_utils, name), *arguments)

    def refuse(*arguments, **keywords):
        raise error

    monkeypatch.setattr(functions, "merged", refuse)
    with seam.installed():
        assert same_bits(outcome(getattr(merge_utils, name), *arguments), expected)
        assert seam.calls(f"{UTILS}.{name}")["ours"] == 0


@pytest.mark.parametrize("combination", ["dare_linear", "dare_ties"])
def test_adapters_of_which_one_factor_cannot_be_merged_draw_once(combination, monkeypatch):
    expected = merged(adapted(), combination)
    original, drawn = functions.pruned, []

    def refuse_every_second(tensors, density):
        drawn.append(original(tensors, density))
        if len(drawn) % 2 == 0:
            raise TypeError
        return drawn[-1]

    monkeypatch.setattr(functions, "pruned", refuse_every_second)
    with seam.installed():
        assert same_bits(merged(adapted(), combination), expected)
    assert len(drawn) >= 8


@pytest.mark.parametrize("combination", ["ties", "linear"])
def test_threads_that_merge_adapters_of_one_model_get_their_own(combination):
    def in_threads(n_threads):
        model = adapted()
        started = threading.Barrier(n_threads)

        def run(number):
            if n_threads > 1:
                started.wait()
            model.add_weighted_adapter(
                ["a0", "a1"], [0.5, 0.1 * number], f"m{number}", combination, density=0.4
            )

        threads = [threading.Thread(target=run, args=(i,)) for i in range(1, 4)]
        for thread in threads:
            thread.start()
            if n_threads == 1:
                thread.join()
        for thread in threads:
            thread.join()
        return {
            k: v
            for k, v in sorted(model.state_dict().items())
            if ".m1" in k or ".m2" in k or ".m3" in k
        }

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        with seam.installed():
            expected = in_threads(1)
            assert len(expected) == 24
            for _ in range(3):
                found = in_threads(3)
                assert found.keys() == expected.keys() and same_bits(found, expected)
    finally:
        sys.setswitchinterval(interval)


@pytest.mark.filterwarnings("ignore:.torch.jit.script:DeprecationWarning")
def test_weights_and_masks_that_are_mapped_are_the_hosts():
    x = task_vectors(normal, 2, (4, 8))
    weights = torch.tensor([[0.5, 1.0], [2.0, -1.0], [0.0, 3.0]])
    masks = torch.stack([x > 0, x < 0.1])

    def by_weights(weight):
        return merge_utils.task_arithmetic(list(x), weight)

    def by_masks(mask):
        return merge_utils.disjoint_merge(x, mask)

    def by_both():
        tangent = torch.func.jvp(by_weights, (weights[0],), (weights[1],))
        return torch.vmap(by_weights)(weights), torch.vmap(by_masks)(masks), tangent

    expected = by_both()
    with seam.installed():
        assert same_bits(by_both(), expected)
        assert seam.calls()["ours"] == 0
