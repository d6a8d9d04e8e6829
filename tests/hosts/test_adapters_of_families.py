"""Adapters find the tensors of the families that people merge, as transformers stores them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import peft
import pytest
import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from tallies.checkpoint.adapters.opening import open_adapter
from tallies.checkpoint.adapters.placing import place
from tallies.checkpoint.checkpoint import Checkpoint
from tests.support.families import families
from tests.support.placed import values

pytestmark = pytest.mark.filterwarnings("ignore")  # PEFT uses names that transformers gives up

FAMILIES = families()


@pytest.mark.parametrize("name", FAMILIES)
def test_an_adapter_of_all_linear_layers_changes_what_peft_changes(
    name: str, tmp_path: Path
) -> None:
    family = FAMILIES[name]
    family.save(tmp_path / "base", 0, torch.float32)
    model, _ = family.load(tmp_path / "base")
    targets = [
        one
        for one, module in model.named_modules()
        if isinstance(module, nn.Linear | Conv1D | nn.Conv2d)
    ]
    if name == "mamba":  # whose fused kernels PEFT would not see
        targets = [one for one in targets if not one.endswith("out_proj")]
    transposed = any(isinstance(module, Conv1D) for module in model.modules())
    config = peft.LoraConfig(r=2, target_modules=targets, fan_in_fan_out=transposed)
    torch.manual_seed(1)
    adapted = peft.get_peft_model(model, config)
    for one, parameter in adapted.named_parameters():
        if "lora_B" in one:
            nn.init.normal_(parameter, std=0.1)
    adapted.save_pretrained(tmp_path / "adapter")
    adapted.merge_and_unload().save_pretrained(tmp_path / "merged")
    placed = place(Checkpoint.open(tmp_path / "base"), open_adapter(tmp_path / "adapter"))
    assert sum(bool(one.changes) for one in placed.tensors.values()) == len(targets) > 0
    ours, theirs = values(placed), values(Checkpoint.open(tmp_path / "merged"))
    assert ours.keys() == theirs.keys()
    for one, array in theirs.items():
        np.testing.assert_allclose(ours[one], array, rtol=2e-6, atol=2e-6, err_msg=one)
