"""PEFT loads the adapters that we write, and computes the products that we gave."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import peft
import pytest
import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from tallies.lora.targets import Kept, Kind, Target
from tallies.lora.writer import AdapterWriter


class Experts(nn.Module):
    def __init__(self, is_transposed: bool) -> None:
        super().__init__()
        self.is_transposed = is_transposed
        self.up = nn.Parameter(torch.zeros(3, 8, 6))
        self.down = nn.Parameter(torch.zeros(3, 6, 8))


class Model(nn.Module):
    """One module of each kind."""

    def __init__(self, is_transposed: bool = False) -> None:
        super().__init__()
        self.embed = nn.Embedding(9, 6)
        self.layers = nn.ModuleList(nn.ModuleDict({"up": nn.Linear(6, 8)}) for _ in range(3))
        self.transposed = Conv1D(8, 6)
        self.conv = nn.Conv2d(4, 6, 3)
        self.norm = nn.LayerNorm(6)
        self.experts = Experts(is_transposed)


KINDS = {
    "embed.weight": Kind.EMBEDDING,
    "layers.0.up.weight": Kind.LINEAR,
    "layers.2.up.weight": Kind.LINEAR,
    "transposed.weight": Kind.TRANSPOSED,
    "conv.weight": Kind.CONVOLUTION,
    "experts.up": Kind.STACK,
    "experts.down": Kind.STACK,
}


@pytest.mark.parametrize("is_transposed", [False, True])
@pytest.mark.parametrize("alpha", [None, 6.0])
@pytest.mark.parametrize("shortened", [False, True])
def test_merged_by_peft_is_what_was_given(
    tmp_path: Path, is_transposed: bool, alpha: float | None, shortened: bool
) -> None:
    model = Model(is_transposed)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    names = [name for name, _ in model.named_modules()] + [
        name for name, _ in model.named_parameters()
    ]
    rng = np.random.default_rng(0)
    writer = AdapterWriter(tmp_path, alpha=alpha, modules=names if shortened else None)
    changes = {}
    for number, (name, kind) in enumerate(KINDS.items()):
        # PEFT refuses transposed weights beside stacks.
        if kind is Kind.TRANSPOSED:
            continue
        shape, rank = tuple(before[name].shape), 1 + number % 3
        stack = shape[:1] if kind is Kind.STACK else ()
        rows, columns = shape[1:] if stack else (shape[0], int(np.prod(shape[1:])))
        left = rng.normal(size=(*stack, rows, rank)).astype("f4")
        right = rng.normal(size=(*stack, rank, columns)).astype("f4")
        kind = Kind.TRANSPOSED_STACK if stack and is_transposed else kind
        stored = "experts.base_layer" if name == "experts.up" else None
        writer.add(Target(name, shape, kind, stored), left, right)
        changes[name] = (left @ right).reshape(shape)
    kept = {"norm.weight": 2.0, "norm.bias": 3.0, "layers.0.up.bias": 4.0}
    for name, value in kept.items():
        values = torch.full_like(before[name], value)
        writer.keep(Kept(name, "F32", tuple(values.shape)), [values.numpy().tobytes()])
    writer.finish()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        # PEFT looks for patterns among modules alone, and then obeys those of parameters too.
        warnings.filterwarnings("ignore", ".*_pattern keys did not match")
        loaded = peft.PeftModel.from_pretrained(model, str(tmp_path))
    merged = loaded.merge_and_unload().state_dict()
    assert merged.keys() == before.keys()
    for name, tensor in before.items():
        expected = tensor.numpy() + changes.get(name, 0)
        if name in kept:
            expected = np.full_like(expected, kept[name])
        np.testing.assert_allclose(merged[name].numpy(), expected, 1e-5, 1e-5, err_msg=name)


def test_transposed_weights_are_merged_by_peft(tmp_path: Path) -> None:
    model = Model()
    before = model.transposed.weight.detach().numpy().copy()
    left, right = np.ones((6, 2), "f4"), np.arange(16, dtype="f4").reshape(2, 8)
    writer = AdapterWriter(tmp_path)
    writer.add(Target("transposed.weight", (6, 8), Kind.TRANSPOSED), left, right)
    writer.finish()
    merged = peft.PeftModel.from_pretrained(model, str(tmp_path)).merge_and_unload()
    found = merged.transposed.weight.detach().numpy()
    np.testing.assert_allclose(found, before + left @ right, 1e-6)
