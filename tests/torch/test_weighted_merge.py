"""Weighted merges and their gradients."""

from __future__ import annotations

import doctest
import importlib
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tallies import InputError, Store
from tallies.torch import store_deltas, weighted, weighted_sum
from tallies.torch.weighted import weighted_merge
from tests.support.switching import TILE, Net, Tensors, bits

DTYPES = (torch.float32, torch.float16, torch.bfloat16)


def reference(
    base: torch.Tensor, deltas: list[torch.Tensor], factors: np.ndarray[Any, Any]
) -> torch.Tensor:
    """In NumPy, one operation and one rounding at a time."""
    total = base.float().numpy().copy()
    for factor, delta in zip(factors.astype(np.float32), deltas, strict=True):
        product = (delta.float().numpy() * factor).astype(np.float32)
        total = (total + product).astype(np.float32)
    return torch.from_numpy(np.ascontiguousarray(total)).to(base.dtype)


def drawn(data: st.DataObject, shape: tuple[int, ...], seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    tensor = torch.randn(shape, generator=generator).to(data.draw(st.sampled_from(DTYPES)))
    if len(shape) == 2 and data.draw(st.booleans()):
        return tensor.t().contiguous().t()
    return tensor


@given(data=st.data())
@settings(max_examples=40)
def test_merge_and_gradient(data: st.DataObject) -> None:
    shapes = data.draw(
        st.lists(
            st.sampled_from([(), (0,), (3,), (5, 4), (TILE - 1,), (TILE + 3,), (2, TILE)]),
            min_size=1,
            max_size=3,
        )
    )
    n_tasks = data.draw(st.integers(1, 3))
    base = {str(i): drawn(data, shape, i) for i, shape in enumerate(shapes)}
    deltas = [
        {str(i): drawn(data, shape, 10 * t + i + 7) for i, shape in enumerate(shapes)}
        for t in range(n_tasks)
    ]
    given = {name: tensor.clone() for name, tensor in base.items()}
    per_tensor = data.draw(st.booleans())
    dtype = data.draw(st.sampled_from([torch.float32, torch.float64]))
    shape = (n_tasks, len(shapes)) if per_tensor else (n_tasks,)
    coefficients = torch.randn(shape, dtype=dtype).requires_grad_()
    merged = weighted_merge(base, deltas, coefficients)
    assert list(merged) == list(base)
    seeds = {name: torch.randn(t.shape).to(t.dtype) for name, t in base.items()}
    torch.autograd.backward(list(merged.values()), list(seeds.values()))
    dots = np.zeros((n_tasks, len(shapes)))
    sizes = np.zeros_like(dots)
    for j, name in enumerate(base):
        row = [delta[name] for delta in deltas]
        column = coefficients[:, j] if per_tensor else coefficients
        expected = reference(base[name], row, column.detach().numpy())
        assert merged[name].dtype == base[name].dtype
        assert bits(merged[name]) == bits(expected)
        for t, delta in enumerate(row):
            products = (seeds[name].double() * delta.double()).reshape(-1).numpy()
            dots[t, j], sizes[t, j] = products.sum(), np.abs(products).sum()
        assert bits(base[name]) == bits(given[name])
    assert coefficients.grad is not None and coefficients.grad.dtype == dtype
    if not per_tensor:
        dots, sizes = dots.sum(1), sizes.sum(1)
    # Each tensor's number is rounded to the coefficients' dtype, and so is the numbers' sum.
    unit = torch.finfo(dtype).eps * (len(shapes) if not per_tensor else 1)
    bound = (unit + 1e-10) * sizes
    assert np.all(np.abs(coefficients.grad.numpy() - dots) <= bound)


@pytest.mark.parametrize("n_blocks", [None, 1, 3, 50])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_what_a_device_does_has_the_bits_of_the_processor(
    monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype, n_blocks: int | None
) -> None:
    shapes: dict[str, tuple[int, ...]] = {
        "w": (7, 41),
        "v": (),
        "none": (0, 3),
        "long": (TILE + 9,),
    }
    if n_blocks == 50:
        del shapes["long"]
    base = {name: torch.randn(shape).to(dtype) for name, shape in shapes.items()}
    deltas = [{name: torch.randn(t.shape).half() for name, t in base.items()} for _ in range(3)]
    deltas[1]["w"] = torch.randn(41, 7).t()
    shape = (3,) if n_blocks is None else (3, len(base), n_blocks)
    coefficients = torch.randn(shape, dtype=torch.float64)
    seeds = {name: torch.randn(t.shape).to(t.dtype) for name, t in base.items()}

    def run() -> tuple[Tensors, torch.Tensor]:
        given = coefficients.clone().requires_grad_()
        merged = weighted_merge(base, deltas, given)
        torch.autograd.backward(list(merged.values()), list(seeds.values()))
        assert given.grad is not None
        return merged, given.grad

    expected, expected_grad = run()
    monkeypatch.setattr(weighted_sum, "_on_host", lambda _: False)
    found, grad = run()
    for name, tensor in expected.items():
        assert bits(found[name]) == bits(tensor), name
    if n_blocks in (None, 1):
        assert bits(grad) == bits(expected_grad)
    assert torch.allclose(grad, expected_grad, rtol=0, atol=1e-9)


def test_a_delta_of_a_store_is_not_taken_on_a_device(store: Store, model: Net) -> None:
    delta = store_deltas(store)[0]["gain"]
    with pytest.raises(InputError, match=r"deltas\[0\]: found a delta of a store.*base on cuda:0"):
        weighted._check_delta("deltas[0]", delta, torch.device("cuda", 0))


def test_one_tensor_and_the_gradient_of_the_base() -> None:
    base = torch.randn(5, requires_grad=True)
    deltas = [torch.randn(5, requires_grad=True), torch.randn(5)]
    coefficients = torch.tensor([0.5, -2.0], requires_grad=True)
    merged = weighted_merge(base, deltas, coefficients)
    seed = torch.randn(5)
    merged.backward(seed)
    assert base.grad is not None and bits(base.grad) == bits(seed)
    assert deltas[0].grad is None
    assert not weighted_merge(base.detach(), deltas[1:], torch.ones(1)).requires_grad


def test_several_losses_add_up() -> None:
    base, delta = torch.randn(4), torch.randn(4)
    coefficients = torch.tensor([0.3], requires_grad=True)
    merged = weighted_merge(base, [delta], coefficients)
    for _ in range(3):
        merged.sum().backward(retain_graph=True)
    assert coefficients.grad is not None
    assert torch.allclose(coefficients.grad, 3 * delta.sum())


def test_tensors_that_no_delta_has_are_the_base_s() -> None:
    base = {"ids": torch.arange(3), "w": torch.ones(2), "b": torch.ones(1)}
    merged = weighted_merge(base, [{"w": torch.ones(2)}], torch.tensor([[2.0]]))
    assert merged["ids"] is base["ids"] and merged["b"] is base["b"]
    assert merged["w"].tolist() == [3.0, 3.0]


def test_zero_times_infinity_is_nan() -> None:
    merged = weighted_merge(torch.ones(2), [torch.tensor([1.0, torch.inf])], torch.zeros(1))
    assert merged[0] == 1 and merged[1].isnan()


def test_the_example_of_the_documentation() -> None:
    # By its name, which in the package is the function's.
    module = importlib.import_module("tallies.torch.weighted")
    failed, attempted = doctest.testmod(module)
    assert (failed, attempted) == (0, 5)


ONE = torch.ones(2)

ODD_MERGES = [
    ((ONE, [], ONE), r"deltas: found none"),
    ((ONE, ONE, ONE), r"deltas: found Tensor, expected a sequence"),
    ((ONE, [{"w": ONE}], ONE), r"deltas\[0\]: found dict, expected a tensor"),
    (({"w": ONE}, [ONE], ONE), r"deltas\[0\]: found Tensor, expected a dict"),
    ((ONE, [ONE], ONE), r"coefficients: found shape \[2\], expected \[1\].*\[1, 1\]"),
    ((ONE, [ONE], 0.5), r"coefficients: found float"),
    ((ONE, [ONE], torch.ones(1).half()), r"coefficients: found torch\.float16"),
    (
        (ONE, [ONE], torch.ones(1, device="meta")),
        r"coefficients: found device meta, expected the CPU",
    ),
    ((ONE, [ONE.to("meta")], torch.ones(1)), r"deltas\[0\]: found device meta, expected cpu"),
    ((ONE.to("meta"), [ONE], torch.ones(1)), r"base: found device meta, expected the CPU"),
    (
        ({"w": ONE, "v": ONE.to("meta")}, [{"w": ONE, "v": ONE}], torch.ones(1)),
        r"base: tensor 'v': found device meta, expected the CPU",
    ),
    ((ONE, [torch.ones(3)], torch.ones(1)), r"deltas\[0\]: found shape \[3\].*\[2\]"),
    ((ONE.double(), [ONE], torch.ones(1)), r"base: found torch\.float64"),
    (({"w": ONE.int()}, [{"w": ONE}], torch.ones(1)), r"base: tensor 'w': found torch\.int32"),
    (({"w": ONE}, [{"v": ONE}], torch.ones(1)), r"deltas\[0\]: tensor 'v' is not known"),
    (
        ({"w": ONE, "v": ONE}, [{"w": ONE, "v": ONE}, {"w": ONE}], ONE),
        r"deltas\[1\]: lacks tensor 'v'",
    ),
    (
        ({"w": ONE, "v": ONE}, [{"w": ONE}, {"w": ONE, "v": ONE}], ONE),
        r"deltas\[0\]: lacks tensor 'v'",
    ),
]


@pytest.mark.parametrize(("arguments", "message"), ODD_MERGES)
def test_arguments_that_do_not_fit(arguments: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        weighted_merge(*arguments)
