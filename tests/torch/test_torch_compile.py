"""The operators keep torch's rules: opcheck, compile, fake tensors, gradients."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import tallies.torch as functions
from tests.support.operators import CASES, FLAT, IN_PLACE, OF_NUMBERS, X, Y, same, tensors_in


def test_every_function_is_an_operator_and_has_a_case() -> None:
    registered = {
        name.removeprefix("tallies::")
        for name in torch._C._dispatch_get_all_op_names()
        if name.startswith("tallies::")
    }
    assert registered == CASES.keys() | IN_PLACE.keys() | OF_NUMBERS.keys()
    assert CASES.keys() <= set(functions.__all__)


@pytest.mark.parametrize("name", [*CASES, *IN_PLACE, *OF_NUMBERS])
def test_opcheck(name: str) -> None:
    arguments, keywords = {**CASES, **FLAT, **IN_PLACE, **OF_NUMBERS}[name]
    torch.library.opcheck(getattr(torch.ops.tallies, name).default, arguments, keywords)


@pytest.mark.parametrize("name", CASES)
def test_compile_without_graph_breaks(name: str) -> None:
    arguments, keywords = CASES[name]
    function = getattr(functions, name)
    torch._dynamo.reset()
    compiled = torch.compile(
        lambda *args: function(*args, **keywords), backend="aot_eager", fullgraph=True
    )
    assert same(compiled(*arguments), function(*arguments, **keywords))


def test_a_graph_has_the_words_of_a_merge_and_not_its_number() -> None:
    targets: list[str] = []

    def seen(module: torch.fx.GraphModule, _: Any) -> Any:
        targets.extend(
            str(node.target) for node in module.graph.nodes if node.op == "call_function"
        )
        return module

    def merged(x: Tensor, y: Tensor) -> list[Tensor]:
        ties = functions.ties(x, [x, y], density=0.5)
        return [ties, functions.combine(None, [x, y], density=0.5, vote="count")]

    torch._dynamo.reset()
    compiled = torch.compile(merged, backend=seen, fullgraph=True)
    assert same(compiled(X, Y), merged(X, Y))
    assert targets == ["tallies.ties.default", "tallies.combine.default"]


@pytest.mark.parametrize("name", CASES)
def test_functions_and_operators_take_the_same_arguments(name: str) -> None:
    arguments, keywords = CASES[name]
    flat, of_flat = FLAT.get(name, CASES[name])
    expected = getattr(torch.ops.tallies, name)(*flat, **of_flat)
    assert same(getattr(functions, name)(*arguments, **keywords), expected)


@pytest.mark.parametrize("name", CASES)
def test_a_default_device_changes_nothing(name: str) -> None:
    arguments, keywords = CASES[name]
    flat, of_flat = FLAT.get(name, CASES[name])
    for call in (
        lambda: getattr(functions, name)(*arguments, **keywords),
        lambda: getattr(torch.ops.tallies, name)(*flat, **of_flat),
    ):
        expected = call()
        with torch.device("meta"):
            result = call()
        assert same(result, expected)


def test_compile_takes_tensors_of_any_size() -> None:
    torch._dynamo.reset()

    def merge(rows: list[Tensor]) -> Tensor:
        return functions.disjoint_merge(rows, functions.elect_signs(rows)) + 1

    compiled = torch.compile(merge, backend="aot_eager", fullgraph=True, dynamic=True)
    for n in (3, 5, 9):
        rows = [X[:n], Y[:n]]
        assert same(compiled(rows), merge(rows))


def test_compile_takes_any_density() -> None:
    torch._dynamo.reset()
    compiled = torch.compile(functions.trim, backend="aot_eager", fullgraph=True)
    for density in (0.2, 0.5, 0.7, 1):
        assert same(compiled(X, density), functions.trim(X, density))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch's own modules
def test_inductor_runs_an_operator_between_its_own() -> None:
    torch._dynamo.reset()
    compiled = torch.compile(lambda x: functions.trim(x * 2, 0.3) + 1, fullgraph=True)
    assert same(compiled(X), functions.trim(X * 2, 0.3) + 1)


def test_numbers_may_come_as_tensors() -> None:
    half, ones = torch.full((2,), 0.5), torch.ones(2, dtype=torch.float64)
    assert same(
        functions.ties(X, [X, Y], density=half, weights=ones),
        functions.ties(X, [X, Y], density=0.5),
    )


def test_results_carry_no_gradient() -> None:
    x = X.clone().requires_grad_()
    for result in (functions.trim(x, 0.5), torch.ops.tallies.ties(x, [x], density=[0.5])):
        assert not result.requires_grad


@pytest.mark.parametrize("name", CASES)
def test_tensors_without_values_give_one_of_the_same_shape(name: str) -> None:
    def moved(value: Any) -> Any:
        if isinstance(value, list):
            return [moved(one) for one in value]
        return value.to("meta") if isinstance(value, Tensor) else value

    arguments, keywords = CASES[name]
    expected = getattr(functions, name)(*arguments, **keywords)
    found = getattr(functions, name)(*map(moved, arguments), **keywords)
    assert [(x.device.type, x.dtype, x.shape) for x in tensors_in(found)] == [
        ("meta", x.dtype, x.shape) for x in tensors_in(expected)
    ]


@pytest.mark.parametrize("shape", [(), (0,), (0, 4), (1, 1, 1), (2, 3, 4)])
def test_any_shape_comes_back(shape: tuple[int, ...]) -> None:
    x = torch.full(shape, -2.0, dtype=torch.bfloat16)
    signs = functions.elect_signs([x, x])
    assert torch.equal(signs, torch.full(shape, -1, dtype=torch.int8))
    assert torch.equal(functions.disjoint_merge([x, x], signs), x)
    assert torch.equal(functions.trim(x, 1.0), x)
    assert torch.equal(functions.ties(x, [x], density=1.0), x)
    full = functions.magnitude_mask(x, 0)
    assert torch.equal(functions.unpack_bits(full, x.numel()).view(shape), x < 0)
    assert torch.equal(functions.apply_mask(x, x, full), 2 * x)
    assert functions.block_dots(x, [x, x]).tolist() == [4 * x.numel()] * 2


def test_a_transposed_tensor_counts_in_the_order_of_its_own_rows() -> None:
    x = torch.tensor([[1.0, 2.0], [2.0, 1.0]]).t().contiguous().t()
    assert not x.is_contiguous()
    assert functions.trim(x, 0.25, equal="first").tolist() == [[0, 2], [0, 0]]
    assert functions.pack_bits(x == 2).tolist() == [0b0110]


@pytest.mark.parametrize("name", ["trim", "apply_mask", "ties", "disjoint_merge"])
def test_results_are_new_tensors_and_inputs_stay(name: str) -> None:
    arguments, keywords = CASES[name]
    flat = [one for value in arguments for one in (value if isinstance(value, list) else [value])]
    given_ = [one for one in flat if isinstance(one, Tensor)]
    before = [one.clone() for one in given_]
    result = getattr(torch.ops.tallies, name)(*arguments, **keywords)
    assert result.data_ptr() not in {one.data_ptr() for one in given_}
    result.zero_()
    assert all(torch.equal(a, b) for a, b in zip(given_, before, strict=True))
