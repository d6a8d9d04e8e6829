"""Merges of torch tensors in memory: the same bits as arrays."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tallies import InputError, merge_state_dicts
from tests.support import strategies
from tests.support.everywhere import assert_same_bits
from tests.support.state_dicts import Array, assert_same, mixed_models
from tests.support.strategies import Models

# Torch.


INTEGERS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}

TORCH_DTYPES = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "float64": torch.float64,
    "float8_e4m3fn": torch.float8_e4m3fn,
    "float8_e5m2": torch.float8_e5m2,
}


def to_torch(x: Array) -> torch.Tensor:
    """The same bits as a tensor that owns its memory."""
    words = torch.from_numpy(x.reshape(-1).view(f"i{x.dtype.itemsize}").copy())
    return words.view(TORCH_DTYPES[x.dtype.name]).reshape(x.shape)


def to_numpy(x: torch.Tensor, dtype: np.dtype[Any]) -> Array:
    assert x.dtype == TORCH_DTYPES[dtype.name]
    words = x.contiguous().reshape(-1).view(INTEGERS[dtype.itemsize])
    return words.numpy().view(dtype).reshape(tuple(x.shape))


def torch_model(model: Mapping[str, Array]) -> dict[str, torch.Tensor]:
    return {name: to_torch(tensor) for name, tensor in model.items()}


@given(mixed_models(), strategies.densities(), st.sampled_from(["ties", "task_arithmetic"]))
def test_tensors_merge_to_the_same_bits_as_arrays(
    models: Models, density: float, method: str
) -> None:
    options: dict[str, Any] = {"density": density} if method == "ties" else {}
    expected = merge_state_dicts(
        models.base, models.experts, method=method, nonfinite="propagate", **options
    )
    base, experts = torch_model(models.base), [torch_model(x) for x in models.experts]
    merged = merge_state_dicts(base, experts, method=method, nonfinite="propagate", **options)
    assert list(merged) == list(expected)
    for name, tensor in merged.items():
        assert isinstance(tensor, torch.Tensor)
        assert_same_bits(to_numpy(tensor, expected[name].dtype), expected[name])
        assert_same_bits(to_numpy(base[name], expected[name].dtype), models.base[name])
    # Kinds may be mixed; the result is of the base's.
    mixed = merge_state_dicts(base, models.experts, method=method, nonfinite="propagate", **options)
    for name, tensor in mixed.items():
        assert_same_bits(to_numpy(tensor, expected[name].dtype), expected[name])
    mixed = merge_state_dicts(models.base, experts, method=method, nonfinite="propagate", **options)
    assert_same(mixed, expected)


def test_the_state_dict_of_a_module_merges_and_loads() -> None:
    def module(seed: int) -> torch.nn.Module:
        torch.manual_seed(seed)
        made = torch.nn.Sequential(torch.nn.Embedding(7, 5), torch.nn.BatchNorm1d(5))
        head = torch.nn.Linear(5, 7, bias=False)
        head.weight = made[0].weight  # type: ignore[assignment]
        return made.append(head)

    base, *experts = (module(seed).state_dict() for seed in range(3))
    merged = merge_state_dicts(base, experts, density=0.5)
    assert merged["0.weight"] is merged["2.weight"]
    assert merged["0.weight"].data_ptr() != base["0.weight"].data_ptr()
    assert merged["1.num_batches_tracked"].dtype == torch.int64
    assert not any(tensor.requires_grad for tensor in merged.values())
    target = module(9)
    target.load_state_dict(merged)
    assert torch.equal(target.state_dict()["2.weight"], merged["0.weight"])


def test_parameters_and_strided_tensors_merge_like_plain_ones() -> None:
    torch.manual_seed(0)
    base, *experts = ({"w": torch.randn(6, 9)} for _ in range(3))
    expected = merge_state_dicts(base, experts, density=0.4)["w"]
    transposed = {"w": base["w"].t().contiguous().t()}
    as_parameters = [{"w": torch.nn.Parameter(x["w"])} for x in experts]
    merged = merge_state_dicts(transposed, as_parameters, density=0.4)["w"]
    assert torch.equal(merged, expected)
    assert merged.is_contiguous()
    shared = transposed["w"]
    both = merge_state_dicts({"a": shared, "b": shared}, [{"a": shared, "b": shared}])
    assert both["a"] is both["b"]


@pytest.mark.parametrize(
    ("tensor", "message"),
    [
        (torch.ones(2, device="meta"), "tensor 'w': found a meta tensor, expected a dense tensor"),
        (torch.eye(2).to_sparse(), "tensor 'w': found layout torch.sparse_coo, expected a dense"),
        (
            torch.ones(2, dtype=torch.complex128),
            "tensor 'w': found dtype complex128, expected an int",
        ),
    ],
    ids=["meta", "sparse", "complex"],
)
def test_tensors_that_cannot_merge(tensor: torch.Tensor, message: str) -> None:
    with pytest.raises(InputError, match=message):
        merge_state_dicts({"w": tensor}, [{"w": tensor}])
