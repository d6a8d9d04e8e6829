"""Mixtures of experts against mergekit-moe: names, configuration, and bytes but for the gates."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as tf
from safetensors.torch import load_file

from tallies.moe.building import build_moe
from tests.support.mergekit_host import build_mixture
from tests.support.worded_llama import tokenizer_of_words

SIZES: dict[str, Any] = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_hidden_layers": 2,
}
FAMILIES = {
    "llama": (tf.LlamaConfig, tf.LlamaForCausalLM),
    "mistral": (tf.MistralConfig, tf.MistralForCausalLM),
    "qwen2": (tf.Qwen2Config, tf.Qwen2ForCausalLM),
    "qwen3": (tf.Qwen3Config, tf.Qwen3ForCausalLM),
}


def save(path: Path, family: str, seed: int, **more: Any) -> None:
    torch.manual_seed(seed)
    config, model_class = FAMILIES[family]
    model = model_class(config(**SIZES, **more))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    model.save_pretrained(path)
    tokenizer_of_words({"<s>": 0, "</s>": 1, "<unk>": 2}).save_pretrained(path)


@pytest.mark.parametrize(
    ("family", "more", "tied"),
    [
        ("llama", {}, False),
        ("llama", {"dtype": "bfloat16"}, True),
        ("mistral", {"dtype": "float16"}, False),
        ("llama", {"architecture": "deepseek"}, False),
        ("llama", {"shared_experts": [{"source_model": "1"}], "dtype": "bfloat16"}, False),
        ("llama", {"shared_experts": [{"source_model": "1"}], "architecture": "qwen"}, False),
        ("qwen2", {"shared_experts": [{"source_model": "1"}]}, True),
        ("qwen3", {"dtype": "bfloat16", "experts_per_token": 1}, False),
        ("qwen3", {}, True),
    ],
)
def test_mergekit_moe(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    family: str,
    more: dict[str, Any],
    tied: bool,
) -> None:
    monkeypatch.chdir(tmp_path)
    for seed in range(3):
        save(Path(str(seed)), family, seed, tie_word_embeddings=tied)
    experts = [{"source_model": "1"}, {"source_model": "2", "residual_scale": 0.5}]
    request = {"base_model": "0", "gate_mode": "random", "experts": experts, **more}
    build_mixture(request, Path("theirs"))
    build_moe(request, "ours")
    theirs, ours = (load_file(f"{one}/model.safetensors") for one in ("theirs", "ours"))
    assert ours.keys() == theirs.keys()
    for name, tensor in theirs.items():
        if name.endswith("gate.weight"):
            assert (ours[name].dtype, ours[name].shape) == (tensor.dtype, tensor.shape)
        else:
            assert torch.equal(ours[name], tensor), name
    config = json.loads(Path("ours/config.json").read_text())
    if config["model_type"] == "deepseek":
        stated = json.loads(Path("theirs/config.json").read_text())
        assert {key: stated.get(key) for key in config if "dtype" not in key} == {
            key: one for key, one in config.items() if "dtype" not in key
        }
        return
    stated, own = (tf.AutoConfig.from_pretrained(one).to_dict() for one in ("theirs", "ours"))
    assert {**own, "_name_or_path": ""} == {**stated, "_name_or_path": ""}
    model, said = tf.AutoModelForCausalLM.from_pretrained(
        "ours", dtype="auto", output_loading_info=True
    )
    assert not any(said.values()), said
    with torch.no_grad():
        assert model(torch.tensor([[1, 2, 3]])).logits.isfinite().all()
