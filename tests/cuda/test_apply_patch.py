"""Patches on models of a device."""

from __future__ import annotations

import pytest
import torch

import tallies
from tallies.torch import apply_patch
from tests.support.cuda_place import Place


@pytest.mark.cuda
@pytest.mark.parametrize("values", ["xor", "difference"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float8_e4m3fn])
def test_there_and_back(device: Place, values: str, dtype: torch.dtype) -> None:
    del device
    torch.manual_seed(0)
    old = {"w": torch.randn(300, 517).to(dtype), "n": torch.arange(9)}
    new = {name: tensor.clone() for name, tensor in old.items()}
    new["n"][3] = -1
    new["w"].view(torch.uint8)[::7, ::3] ^= 1
    data = tallies.make_patch(old, new, values=values).data
    model = {name: tensor.cuda() for name, tensor in old.items()}
    for undo, expected in ((False, new), (True, old)):
        apply_patch(model, data, undo=undo, verify=True)
        for name, tensor in expected.items():
            assert torch.equal(model[name].cpu().view(torch.uint8), tensor.view(torch.uint8))
