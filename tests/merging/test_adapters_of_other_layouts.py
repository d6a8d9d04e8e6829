"""Merges of models with adapters of other tools, and with those of models in another layout."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import tallies
from tests.reference.dtype import narrow, widen
from tests.support import adapters
from tests.support.checkpoints import Array, Model, assert_holds, assert_same_tensors, write

RNG = np.random.default_rng(0)


def bf16(*shape: int) -> Array:
    return narrow(RNG.standard_normal(shape), adapters.BF16)


UNET = {
    "conv_in.weight": bf16(4, 4, 3, 3),
    "down_blocks.0.resnets.0.conv1.weight": bf16(6, 4, 3, 3),
    "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q.weight": bf16(4, 6),
}
TEXT_ENCODER = {"text_model.encoder.layers.0.self_attn.q_proj.weight": bf16(4, 6)}


def write_pipeline(path: Path) -> Path:
    parts = {
        "unet": ("diffusion_pytorch_model", UNET, ["diffusers", "UNet2DConditionModel"]),
        "text_encoder": ("model", TEXT_ENCODER, ["transformers", "CLIPTextModel"]),
    }
    for folder, (stem, tensors, _) in parts.items():
        (path / folder).mkdir(parents=True)
        (path / folder / "config.json").write_text("{}")
        save_file(tensors, path / folder / f"{stem}.safetensors")
    classes = {folder: library for folder, (_, _, library) in parts.items()}
    index = {"_class_name": "StableDiffusionPipeline", **classes}
    (path / "model_index.json").write_text(json.dumps(index))
    return path


def merge(model: str, out: Path) -> Path:
    tallies.merge({"merge_method": "linear", "models": [{"model": model}]}, out=out)
    return out


@pytest.mark.parametrize("kind", ["lora", "loha", "lokr", "lokr_low", "diff"])
def test_a_pipeline_with_an_adapter_of_kohyas_scripts(tmp_path: Path, kind: str) -> None:
    base = write_pipeline(tmp_path / "base")
    on_unet = adapters.kohya(UNET, ("conv1", "to_q"), kind=kind, prefix="lora_unet")
    on_text = adapters.kohya(TEXT_ENCODER, ("q_proj",), prefix="lora_te")
    file = (on_unet | on_text).write(tmp_path / "style")
    out = merge(f"{base}+{file}", tmp_path / "out")
    unet = load_file(out / "unet" / "diffusion_pytorch_model.safetensors")
    assert_same_tensors(unet, adapters.merged(UNET, on_unet))
    text_encoder = load_file(out / "text_encoder" / "model.safetensors")
    assert_same_tensors(text_encoder, adapters.merged(TEXT_ENCODER, on_text))


LAYER = "model.layers.0"
N_EXPERTS, INNER, OUTER = 3, 4, 6


def experts() -> Model:
    return {
        f"{LAYER}.mlp.experts.{i}.{name}.weight": bf16(*shape)
        for i in range(N_EXPERTS)
        for name, shape in (
            ("gate_proj", (INNER, OUTER)),
            ("up_proj", (INNER, OUTER)),
            ("down_proj", (OUTER, INNER)),
        )
    }


def test_an_adapter_of_stacks_on_a_model_of_single_experts(tmp_path: Path) -> None:
    base = experts()
    path = write(tmp_path / "base", base)
    ends = ("gate_proj", "up_proj")
    rows = [base[f"{LAYER}.mlp.experts.{i}.{end}.weight"] for i in range(N_EXPERTS) for end in ends]
    name = f"{LAYER}.mlp.experts.gate_up_proj"
    stack = {name: np.concatenate(rows).reshape(N_EXPERTS, 2 * INNER, OUTER)}
    made = adapters.experts(stack, name)
    adapter = made.write(tmp_path / "adapter")
    out = merge(f"{path}+{adapter}", tmp_path / "out")
    merged = adapters.merged(stack, made)[name].reshape(-1, INNER, OUTER)
    expected = dict(base)
    for n, matrix in enumerate(merged):
        i, end = divmod(n, 2)
        expected[f"{LAYER}.mlp.experts.{i}.{ends[end]}.weight"] = matrix
    assert_holds(out, expected)


def test_an_adapter_of_queries_and_values_on_a_model_that_has_them_in_one(tmp_path: Path) -> None:
    name = f"{LAYER}.self_attn.qkv_proj.weight"
    base = {name: bf16(8 + 4 + 4, 6)}
    path = write(tmp_path / "base", base)
    apart = {
        f"{LAYER}.self_attn.{one}_proj.weight": base[name][begin:end]
        for one, begin, end in (("q", 0, 8), ("k", 8, 12), ("v", 12, 16))
    }
    made = adapters.lora(apart, ("q_proj", "v_proj"), rank=2)
    adapter = made.write(tmp_path / "adapter")
    out = merge(f"{path}+{adapter}", tmp_path / "out")
    assert_holds(out, {name: np.concatenate([*adapters.merged(apart, made).values()])})


def test_a_task_vector_of_an_adapter_of_another_layout(tmp_path: Path) -> None:
    name = f"{LAYER}.mlp.gate_up_proj.weight"
    base = {name: bf16(8, 6)}
    path = write(tmp_path / "base", base)
    apart = {f"{LAYER}.mlp.{one}_proj.weight": base[name][:4] for one in ("gate", "up")}
    made = adapters.lora(apart, ("gate_proj", "up_proj"), rank=2)
    adapter = made.write(tmp_path / "adapter")
    recipe = {
        "merge_method": "task_arithmetic",
        "base_model": str(path),
        "models": [{"model": f"{path}+{adapter}"}],
        "parameters": {"lambda": -0.5},
    }
    tallies.merge(recipe, out=tmp_path / "out")
    w = widen(base[name])
    halves = [made.changes[one](part) for one, part in zip(apart, (w[:4], w[4:]), strict=True)]
    expected = w + np.float32(-0.5) * (np.concatenate(halves) - w)
    assert_holds(tmp_path / "out", {name: narrow(expected, adapters.BF16)})
