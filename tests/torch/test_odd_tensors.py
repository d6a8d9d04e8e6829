"""Tensors of several devices, and tensors without plain values, are refused by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

import tallies.torch as functions
from tallies import InputError, merge_state_dicts
from tallies.torch.merged_module import MergedModule
from tallies.torch.ops import SHAPES
from tallies.torch.weighted import weighted_merge
from tests.support.operators import CASES, FLAT, IN_PLACE, OF_NUMBERS, X

META = X.to("meta")


def _moved(value: Any, number: list[int], which: int) -> Any:
    """Return arguments with the tensor of this number, in order, moved to the meta device."""
    if isinstance(value, torch.Tensor):
        number[0] += 1
        return value.to("meta") if number[0] - 1 == which else value
    if isinstance(value, (list, tuple)):
        return [_moved(one, number, which) for one in value]
    return value


@pytest.mark.parametrize("name", SHAPES)
def test_an_operator_refuses_tensors_of_two_devices(name: str) -> None:
    operator = getattr(torch.ops.tallies, name)
    args, keywords = {**CASES, **FLAT, **IN_PLACE, **OF_NUMBERS}[name]
    count = [0]
    _moved(args, count, -1)
    for which in range(count[0]) if count[0] > 1 else ():
        with pytest.raises(RuntimeError, match=f"tallies::{name}: .*found a tensor on .*expected"):
            operator(*_moved(args, [0], which), **keywords)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: functions.ties(X, [META], density=0.5), r"experts\[0\]: found a tensor on meta"),
        (lambda: functions.ties(META, [X], density=0.5), r"experts\[0\]: found a tensor on cpu"),
        (
            lambda: functions.gram([X, X, META]),
            r"deltas\[2\]: found a tensor on meta, expected all",
        ),
        (lambda: functions.tall_mask(X, META, 0.5), "merged_delta: found a tensor on meta"),
        (lambda: functions.block_dots(X, [META]), r"deltas\[0\]: found a tensor on meta"),
    ],
)
def test_a_function_names_the_tensor_on_another_device(
    call: Callable[[], Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        call()


def test_shapes_of_meta_tensors_alone_are_still_found() -> None:
    assert functions.trim(META, 0.5).shape == X.shape
    assert functions.elect_signs([META, META]).device.type == "meta"


ODD: dict[str, tuple[Callable[[], torch.Tensor], str]] = {
    "lazy": (lambda: torch.nn.LazyLinear(3).weight, "a tensor of a lazy module.*run the module"),
    "quantised": (
        lambda: torch.quantize_per_tensor(torch.ones(4), 0.1, 0, torch.qint8),
        r"a quantised tensor \(torch\.qint8\).*dequantize",
    ),
    "nested": (lambda: torch.nested.nested_tensor([torch.ones(2)]), "a nested tensor.*unbind"),
    "sparse": (lambda: torch.ones(4).to_sparse(), "layout torch.sparse_coo.*to_dense"),
    "complex": (lambda: torch.ones(4, dtype=torch.complex128), "complex128"),
}


@pytest.mark.parametrize(("make", "message"), ODD.values(), ids=ODD)
@pytest.mark.filterwarnings("ignore")
def test_odd_tensors_are_named(make: Callable[[], torch.Tensor], message: str) -> None:
    odd, plain = make(), torch.ones(4)
    with pytest.raises(InputError, match=f"x: found .*{message}"):
        functions.trim(odd, 0.5)
    with pytest.raises(InputError, match=f"expert 0: tensor 'w': found .*{message}"):
        merge_state_dicts({"w": plain}, [{"w": odd}])
    with pytest.raises(InputError, match=f"tensor 'w': found .*{message}"):
        weighted_merge({"w": plain}, [{"w": odd}], torch.ones(1))
    module = torch.nn.Module()
    module.w = torch.nn.Parameter(plain)
    with pytest.raises(InputError, match=f"tensor 'w': found .*{message}"):
        MergedModule(module, {"w": odd}, [{"w": plain}])


def test_a_lazily_negated_tensor_has_its_values() -> None:
    values = torch.tensor([1 + 2j]).conj().imag
    assert merge_state_dicts(None, [{"w": values}], method="linear")["w"].tolist() == [-2.0]
