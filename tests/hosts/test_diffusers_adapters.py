"""Adapters of diffusion models change the weights as diffusers fuses them."""

from __future__ import annotations

from pathlib import Path

import diffusers
import numpy as np
import peft
import pytest
import torch
from diffusers.utils import convert_state_dict_to_diffusers
from safetensors.torch import save_file

from tallies.checkpoint.adapters.opening import open_adapter
from tallies.checkpoint.adapters.placing import place
from tallies.checkpoint.adapters.unet_names import diffusers_name, original_names
from tallies.checkpoint.checkpoint import Checkpoint
from tests.support.pipelines import save_pipeline
from tests.support.placed import values

LINEAR = ("to_q", "to_k", "to_v", "to_out.0", "proj_in", "proj", "net.2")
OF_TEXT = ("q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2")


def loaded(path: Path) -> diffusers.StableDiffusionPipeline:
    return diffusers.StableDiffusionPipeline.from_pretrained(
        path, safety_checker=None, tokenizer=None, requires_safety_checker=False
    )


def fused(path: Path, adapter: Path) -> dict[str, torch.Tensor]:
    """The weights of a pipeline into which diffusers fused an adapter."""
    pipeline = loaded(path)
    pipeline.load_lora_weights(adapter.parent, weight_name=adapter.name)
    pipeline.fuse_lora(components=["unet", "text_encoder"])
    pipeline.unload_lora_weights()
    return {
        f"{folder}/{name}": tensor
        for folder in ("unet", "text_encoder")
        for name, tensor in getattr(pipeline, folder).state_dict().items()
    }


def assert_fused_alike(path: Path, adapter: Path, n_changed: int) -> None:
    base = Checkpoint.open(path)
    placed = place(base, open_adapter(adapter))
    assert sum(bool(one.changes) for one in placed.tensors.values()) == n_changed
    ours = values(placed)
    theirs = fused(path, adapter)
    assert theirs.keys() <= ours.keys()
    for name, tensor in theirs.items():
        np.testing.assert_allclose(ours[name], tensor.numpy(), rtol=2e-6, atol=2e-6, err_msg=name)


def weights(module: torch.nn.Module, ends: tuple[str, ...]) -> dict[str, torch.Tensor]:
    return {
        name.removesuffix(".weight"): tensor
        for name, tensor in module.state_dict().items()
        if name.endswith(tuple(f"{end}.weight" for end in ends)) and tensor.dim() > 1
    }


@pytest.fixture
def pipeline(tmp_path: Path) -> Path:
    save_pipeline(tmp_path / "pipeline", 0)
    return tmp_path / "pipeline"


@pytest.mark.parametrize("with_alpha", [False, True])
def test_kohya(pipeline: Path, tmp_path: Path, with_alpha: bool) -> None:
    torch.manual_seed(1)
    models = loaded(pipeline)
    tensors, n = {}, 0
    for prefix, module, ends in (
        ("lora_unet", models.unet, LINEAR),
        ("lora_te", models.text_encoder, OF_TEXT),
    ):
        for name, weight in weights(module, ends).items():
            if prefix == "lora_te" and not name.startswith("text_model"):
                name = f"text_model.{name}"
            stem = f"{prefix}_{name.replace('.', '_')}"
            rank, ones = 2, (1,) * (weight.dim() - 2)
            tensors[f"{stem}.lora_down.weight"] = torch.randn(rank, *weight.shape[1:])
            tensors[f"{stem}.lora_up.weight"] = torch.randn(len(weight), rank, *ones)
            if with_alpha:
                tensors[f"{stem}.alpha"] = torch.tensor(1.0)
            n += 1
    save_file(tensors, tmp_path / "style.safetensors")
    assert n > 20
    assert_fused_alike(pipeline, tmp_path / "style.safetensors", n)


@pytest.mark.parametrize("dora", [False, True])
@pytest.mark.parametrize("old", [False, True])
def test_saved_by_diffusers(pipeline: Path, tmp_path: Path, dora: bool, old: bool) -> None:
    torch.manual_seed(2)
    module = loaded(pipeline).unet
    targets = ["to_q", "to_out.0", *([] if old else ["conv1", "time_emb_proj"])]
    config = peft.LoraConfig(r=2, lora_alpha=3, target_modules=targets, use_dora=dora)
    config.rank_pattern = {"to_out.0": 3}
    module.add_adapter(config)
    n = 0
    for name, parameter in module.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter)
            n += 1
        if "magnitude" in name:
            parameter.data *= 1.5
    state = peft.get_peft_model_state_dict(module)
    layers = {
        "unet_lora_layers": convert_state_dict_to_diffusers(state) if old else state,
        "unet_lora_adapter_metadata": module.peft_config["default"].to_dict(),
    }
    diffusers.StableDiffusionPipeline.save_lora_weights(tmp_path / "lora", **layers)
    (file,) = (tmp_path / "lora").glob("*.safetensors")
    assert_fused_alike(pipeline, file, n)


def test_the_names_of_an_original_unet_are_those_that_diffusers_converts() -> None:
    from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint

    unet = diffusers.UNet2DConditionModel(
        block_out_channels=(8, 16, 16),
        layers_per_block=2,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=32,
        attention_head_dim=4,
        norm_num_groups=4,
    )
    names = [*unet.state_dict()]
    original = {}
    for name in names:
        found = original_names(name)
        # A sampler stands behind the attention of its block, where the block has one.
        is_plain = name.startswith("up_blocks.2.") or len(found) == 1
        original[found[0] if is_plain else found[1]] = name
    assert len(original) == len(names)
    prefix = "model.diffusion_model."
    given = {f"{prefix}{one}": torch.tensor(i) for i, one in enumerate(original)}
    converted = convert_ldm_unet_checkpoint(dict(given), dict(unet.config))
    expected = {name: int(given[f"{prefix}{one}"]) for one, name in original.items()}
    assert {name: int(one) for name, one in converted.items()} == expected
    assert all(diffusers_name(one) == name for one, name in original.items())
