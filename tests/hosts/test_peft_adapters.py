"""Adapters that PEFT writes change a model as PEFT's own merge_and_unload does."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import peft
import pytest
import torch
import transformers
from hypothesis import given
from hypothesis import strategies as st
from peft.utils.other import get_pattern_key
from safetensors.numpy import load_file
from safetensors.torch import save_file
from torch import nn

from tallies.checkpoint.adapters.opening import open_adapter
from tallies.checkpoint.adapters.peft_config import lora_config
from tallies.checkpoint.adapters.placing import place
from tallies.checkpoint.adapters.recognising import is_adapter
from tallies.checkpoint.opening import open_model
from tallies.errors import InputError
from tests.support.placed import value

SIZES = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 64,
    "pad_token_id": 0,
}


def llama(**more: Any) -> nn.Module:
    config = transformers.LlamaConfig(**{**SIZES, "tie_word_embeddings": False, **more})
    return transformers.LlamaForCausalLM(config)


def classifier() -> nn.Module:
    config = transformers.LlamaConfig(**SIZES, num_labels=3)
    return transformers.LlamaForSequenceClassification(config)


def qwen2() -> nn.Module:
    config = transformers.Qwen2Config(**SIZES, tie_word_embeddings=False)
    return transformers.Qwen2ForCausalLM(config)


def gpt2() -> nn.Module:
    config = transformers.GPT2Config(n_embd=32, n_layer=2, n_head=4, vocab_size=64)
    return transformers.GPT2LMHeadModel(config)


def experts(name: str, **more: Any) -> Callable[[], nn.Module]:
    """A model of stacked experts, by the name that its classes begin with."""
    sizes = {**SIZES, "num_local_experts": 3, "num_experts": 3, "head_dim": 8, **more}
    config = getattr(transformers, f"{name}TextConfig", None)
    config = config or getattr(transformers, f"{name}Config")
    return lambda: getattr(transformers, f"{name}ForCausalLM")(config(**sizes))


class Convolutions(nn.Module):
    """Convolutions of one, two and three dimensions, with kernels of one and more."""

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Conv1d(6, 8, 3)
        self.point = nn.Conv2d(6, 8, 1)
        self.two = nn.Conv2d(6, 8, (3, 2))
        self.three = nn.Conv3d(4, 6, 2)


class Attention(nn.Module):
    """An attention of torch, which keeps queries, keys and values in one parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.attn = nn.MultiheadAttention(16, 4)


@dataclass(frozen=True)
class Case:
    """A model and an adapter of it."""

    model: Callable[[], nn.Module]
    config: Mapping[str, Any]
    kind: type[Any] = peft.LoraConfig
    saved: Mapping[str, Any] = field(default_factory=dict)


ALL = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
STACKS = ["experts.gate_up_proj", "experts.down_proj"]
CONVOLUTIONS = ["one", "point", "two", "three"]

CASES = {
    "linear": Case(llama, {"target_modules": ALL, "r": 4, "lora_alpha": 6}),
    "rank-stabilised": Case(llama, {"target_modules": ["q_proj"], "r": 3, "use_rslora": True}),
    "patterns": Case(
        llama,
        {
            "target_modules": ALL,
            "r": 4,
            "lora_alpha": 7,
            "rank_pattern": {"layers.1.*": 2, "q_proj": 5, r"^model\.layers\.0\.mlp.*": 3},
            "alpha_pattern": {r".*\.0\.mlp\.down_proj": 3, "v_proj": 1.5, "_proj": 100},
        },
    ),
    "pickled": Case(llama, {"target_modules": ALL}, saved={"safe_serialization": False}),
    "embeddings": Case(
        llama, {"target_modules": ["embed_tokens", "q_proj", "lm_head"], "r": 4, "lora_alpha": 6}
    ),
    "transposed layers": Case(
        gpt2, {"target_modules": ["c_attn", "c_proj", "wte"], "fan_in_fan_out": True}
    ),
    "transposed layers, not stated": Case(gpt2, {"target_modules": ["c_attn", "c_fc"]}),
    "DoRA": Case(llama, {"target_modules": [*ALL, "embed_tokens"], "use_dora": True, "r": 4}),
    "DoRA, transposed": Case(gpt2, {"target_modules": ["c_attn", "c_proj"], "use_dora": True}),
    "DoRA, convolutions": Case(Convolutions, {"target_modules": CONVOLUTIONS, "use_dora": True}),
    "convolutions": Case(Convolutions, {"target_modules": CONVOLUTIONS, "r": 3, "lora_alpha": 5}),
    "bias": Case(
        qwen2, {"target_modules": ["q_proj", "v_proj"], "lora_bias": True, "lora_alpha": 5}
    ),
    "biases trained": Case(qwen2, {"target_modules": ["q_proj"], "bias": "all"}),
    "biases of targets trained": Case(qwen2, {"target_modules": ["q_proj"], "bias": "lora_only"}),
    "all biases": Case(qwen2, {"target_modules": ["q_proj"], "bias": "all", "lora_bias": True}),
    "saved modules": Case(
        llama, {"target_modules": ["q_proj"], "modules_to_save": ["norm", "lm_head"]}
    ),
    "classifier": Case(classifier, {"target_modules": ["q_proj"], "task_type": "SEQ_CLS"}),
    "tokens": Case(llama, {"target_modules": ["q_proj"], "trainable_token_indices": [3, 9, 60]}),
    "tokens out of order": Case(
        llama,
        {
            "target_modules": ["q_proj"],
            "trainable_token_indices": {"embed_tokens": [9, 3, 60], "lm_head": [1, 2]},
        },
    ),
    "LoHa": Case(
        llama,
        {
            "target_modules": ["q_proj", "up_proj"],
            "r": 3,
            "alpha": 5,
            "rank_pattern": {"q_proj": 2},
        },
        peft.LoHaConfig,
    ),
    "LoHa, convolutions": Case(
        Convolutions, {"target_modules": ["one", "point", "two"], "r": 2}, peft.LoHaConfig
    ),
    "LoKr": Case(
        llama,
        {
            "target_modules": ["q_proj", "up_proj"],
            "r": 2,
            "alpha": 5,
            "alpha_pattern": {"q_proj": 1},
        },
        peft.LoKrConfig,
    ),
    "LoKr of four factors": Case(
        llama,
        {"target_modules": ["down_proj"], "r": 1, "decompose_both": True, "decompose_factor": 4},
        peft.LoKrConfig,
    ),
    "LoKr, whole factors": Case(llama, {"target_modules": ["down_proj"], "r": 64}, peft.LoKrConfig),
    "LoKr, convolutions": Case(
        Convolutions, {"target_modules": ["point", "two"], "r": 2}, peft.LoKrConfig
    ),
    "stacks of experts, one by one in the file": Case(
        experts("Qwen3Moe", moe_intermediate_size=24),
        {"target_modules": ["q_proj"], "target_parameters": STACKS, "r": 2},
    ),
    "stacks of experts, renamed in the file": Case(
        experts("Mixtral"), {"target_modules": ["q_proj"], "target_parameters": STACKS, "r": 2}
    ),
    "stacks of experts": Case(
        experts("Llama4", intermediate_size_mlp=48),
        {"target_modules": [], "target_parameters": STACKS, "r": 2, "lora_alpha": 3},
    ),
    "one stack of experts": Case(
        experts("Llama4", intermediate_size_mlp=48),
        {
            "target_modules": ["q_proj"],
            "target_parameters": STACKS[1:],
            "rank_pattern": {"down_proj": 5},
        },
    ),
    "square stacks, transposed": Case(
        experts("GptOss", intermediate_size=32),
        {"target_modules": ["q_proj"], "target_parameters": STACKS, "r": 2},
    ),
    "square stack alone, transposed": Case(
        experts("GptOss", intermediate_size=32),
        {"target_modules": [], "target_parameters": STACKS[1:], "r": 2},
    ),
    "parameter of a layer": Case(
        llama, {"target_modules": [], "target_parameters": ["q_proj.weight"], "r": 2}
    ),
    "tokens alone": Case(
        llama,
        {"target_modules": ["embed_tokens"], "token_indices": [5, 2]},
        peft.TrainableTokensConfig,
    ),
}


@dataclass(frozen=True)
class Written:
    """A model and adapters of it on disk, and the values that PEFT merges."""

    base: Path
    adapters: list[Path]
    merged: dict[str, np.ndarray[Any, Any]]


def write(case: Case, folder: Path, *, n_adapters: int = 1) -> Written:
    """Write a model and adapters of it; merge them one after the other with PEFT."""
    torch.manual_seed(7)
    model = case.model().float().eval()
    base = folder / "base"
    save(model, base)
    adapters = []
    for number in range(n_adapters):
        config = dict(case.config)
        if case.kind is peft.LoraConfig:
            config |= {"init_lora_weights": False}
        adapted = peft.get_peft_model(model, case.kind(**config))
        disturb(adapted, seed=number)
        adapters.append(folder / f"adapter{number}")
        adapted.save_pretrained(adapters[-1], **case.saved)
        model = adapted.merge_and_unload()
    save(model, folder / "merged")
    before, merged = (load_file(path / "model.safetensors") for path in (base, folder / "merged"))
    assert merged.keys() == before.keys()
    assert any(not np.array_equal(before[name], merged[name]) for name in merged)
    return Written(base, adapters, merged)


def save(model: nn.Module, path: Path) -> None:
    if isinstance(model, transformers.PreTrainedModel):
        model.save_pretrained(path)
        return
    path.mkdir()
    save_file(model.state_dict(), path / "model.safetensors")


def disturb(model: nn.Module, seed: int) -> None:
    """Give all that is trained values as training might."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter += 0.2 * torch.randn(parameter.shape, generator=generator)


def ours(written: Written) -> dict[str, np.ndarray[Any, Any]]:
    checkpoint = open_model(str(written.base))
    for adapter in written.adapters:
        assert is_adapter(str(adapter))
        checkpoint = place(checkpoint, open_adapter(adapter))
    return {name: value(tensor) for name, tensor in checkpoint.tensors.items()}


def assert_as_merged_by_peft(written: Written) -> None:
    """Compare values: those that no adapter changes are equal, sums may be in another order."""
    found = ours(written)
    assert found.keys() == written.merged.keys()
    for name, expected in written.merged.items():
        bound = 4e-6 * max(1.0, float(np.abs(expected).max()))
        np.testing.assert_allclose(found[name], expected, rtol=0, atol=bound, err_msg=name)


@pytest.mark.parametrize("name", CASES)
def test_a_model_changes_as_peft_merges_it(name: str, tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        written = write(CASES[name], tmp_path)
    assert_as_merged_by_peft(written)


NAMES = st.lists(
    st.sampled_from(["model", "layers", "0", "10", "q_proj", "mlp"]), min_size=1, max_size=4
).map(".".join)
PATTERNS = st.dictionaries(
    NAMES
    | st.sampled_from(["^model.*", r".*\.0", r"layers\.\d+\.q_proj", "(0|10)", "q", "^q_proj"]),
    st.integers(1, 9),
    max_size=3,
)


@given(PATTERNS, PATTERNS, NAMES)
def test_patterns_are_those_of_peft(
    ranks: dict[str, int], alphas: dict[str, int], module: str
) -> None:
    config = {"r": 11, "lora_alpha": 13, "rank_pattern": ranks, "alpha_pattern": alphas}
    ours = lora_config(config, Path("adapter_config.json"))
    rank = ranks.get(get_pattern_key(ranks.keys(), module), 11)
    assert ours.rank_of(module) == rank
    alpha = alphas.get(get_pattern_key(alphas.keys(), module), 13)
    assert ours.scale_of(module, rank) == alpha / rank


TIED = {
    "embedding": {"target_modules": ["embed_tokens", "q_proj"]},
    "head": {"target_modules": ["lm_head", "q_proj"]},
    "both": {"target_modules": ["embed_tokens", "lm_head"]},
    "tokens": {"target_modules": ["q_proj"], "trainable_token_indices": [4, 7]},
}


@pytest.mark.parametrize("name", TIED)
def test_a_tied_tensor_changes_as_peft_merges_it(name: str, tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        written = write(Case(lambda: llama(tie_word_embeddings=True), TIED[name]), tmp_path)
    assert "lm_head.weight" not in written.merged
    assert_as_merged_by_peft(written)
    placed = place(open_model(str(written.base)), open_adapter(written.adapters[0]))
    said = [text for text in placed.adapters[0].warnings if "ties to it, as PEFT's merge" in text]
    assert len(said) == (name != "tokens")


@pytest.mark.parametrize("targets", [["embed_tokens"], ["embed_tokens", "lm_head"]])
def test_factors_tied_by_peft_change_a_tensor_once(targets: list[str], tmp_path: Path) -> None:
    """PEFT 0.21 merges them twice; its unmerged model changes the tensor once."""
    torch.manual_seed(0)
    model = llama(tie_word_embeddings=True).eval()
    save(model, tmp_path / "base")
    before = model.state_dict()["lm_head.weight"].clone()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        config = peft.LoraConfig(
            target_modules=targets, r=2, ensure_weight_tying=True, init_lora_weights=False
        )
        adapted = peft.get_peft_model(model, config)
        adapted.save_pretrained(tmp_path / "adapter")
    layer = adapted.base_model.model.model.embed_tokens
    expected = (before + layer.get_delta_weight("default")).detach().numpy()
    placed = place(open_model(str(tmp_path / "base")), open_adapter(tmp_path / "adapter"))
    found = value(placed.tensors["model.embed_tokens.weight"])
    np.testing.assert_allclose(found, expected, rtol=0, atol=4e-6 * np.abs(expected).max())
    assert placed.adapters[0].warnings == ()


def test_a_trained_head_of_a_tied_model_is_refused(tmp_path: Path) -> None:
    model = llama(tie_word_embeddings=True)
    save(model, tmp_path / "base")
    config = peft.LoraConfig(target_modules=["q_proj"], modules_to_save=["lm_head"])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        peft.get_peft_model(model, config).save_pretrained(tmp_path / "adapter")
    with pytest.raises(InputError, match=r"lm_head\.weight' replaces the head, .*tied: untie"):
        place(open_model(str(tmp_path / "base")), open_adapter(tmp_path / "adapter"))


def test_attention_in_one_is_refused(tmp_path: Path) -> None:
    """PEFT 0.21 adds the change of the output twice, in forward passes as well."""
    torch.manual_seed(0)
    model = Attention().eval()
    config = peft.LoraConfig(target_modules=["attn"], r=3, init_lora_weights=False)
    peft.get_peft_model(model, config).save_pretrained(tmp_path)
    with pytest.raises(InputError, match=r"out_proj.lora_A.* adds the change .*merge_and_unload"):
        open_adapter(tmp_path)


def test_kronecker_products_of_convolutions_of_one_dimension_are_refused(tmp_path: Path) -> None:
    """PEFT 0.21 makes another product of them than the one of two dimensions."""
    config = peft.LoKrConfig(target_modules=["one"], r=2, init_weights=False)
    peft.get_peft_model(Convolutions(), config).save_pretrained(tmp_path)
    with pytest.raises(InputError, match=r"lokr_w2' is the factor of a conv.*merge_and_unload"):
        open_adapter(tmp_path)


def test_adapters_one_after_the_other(tmp_path: Path) -> None:
    case = Case(llama, {"target_modules": ALL, "use_dora": True, "modules_to_save": ["norm"]})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        written = write(case, tmp_path, n_adapters=2)
    assert_as_merged_by_peft(written)
