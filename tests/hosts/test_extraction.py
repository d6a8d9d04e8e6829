"""PEFT loads the adapters that were taken out of fine-tunes, and computes what those compute."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers import (
    AutoModelForCausalLM,
    ConvNextConfig,
    GPT2Config,
    GptOssConfig,
    LlamaConfig,
    MixtralConfig,
    PreTrainedModel,
    Qwen2MoeConfig,
    ResNetConfig,
)
from transformers import AutoModelForImageClassification as Images

import tallies

RANK = 4
TINY = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 64,
}


def llama(*, tied: bool = False) -> PreTrainedModel:
    return AutoModelForCausalLM.from_config(LlamaConfig(**TINY, tie_word_embeddings=tied))


def gpt2() -> PreTrainedModel:
    return AutoModelForCausalLM.from_config(
        GPT2Config(n_embd=32, n_layer=2, n_head=4, vocab_size=64, n_positions=32)
    )


def experts() -> PreTrainedModel:
    config = Qwen2MoeConfig(
        **TINY,
        num_experts=4,
        num_experts_per_tok=2,
        moe_intermediate_size=24,
        shared_expert_intermediate_size=24,
        decoder_sparse_step=1,
    )
    return AutoModelForCausalLM.from_config(config)


def mixtral() -> PreTrainedModel:
    config = MixtralConfig(**TINY, num_local_experts=4, num_experts_per_tok=2)
    return AutoModelForCausalLM.from_config(config)


def gpt_oss() -> PreTrainedModel:
    config = GptOssConfig(**TINY, head_dim=8, num_local_experts=4, num_experts_per_tok=2)
    return AutoModelForCausalLM.from_config(config)


def convolutions() -> PreTrainedModel:
    config = ResNetConfig(embedding_size=16, hidden_sizes=[16, 32], depths=[1, 1], num_labels=5)
    return Images.from_config(config)


def depthwise() -> PreTrainedModel:
    config = ConvNextConfig(hidden_sizes=[16, 32], depths=[1, 1], num_stages=2, num_labels=5)
    return Images.from_config(config)


def tune(model: PreTrainedModel, changes: Callable[[str, torch.Tensor], str]) -> None:
    """Change a model as ``changes`` says of each parameter: by low rank, fully or not at all."""
    generator = torch.Generator().manual_seed(1)
    for name, parameter in model.named_parameters():
        match changes(name, parameter):
            case "low":
                shape = parameter.shape
                size = shape[-2:] if "experts" in name else (shape[0], parameter[0].numel())
                many = shape[:1] if "experts" in name else ()
                left = torch.randn(*many, size[0], RANK, generator=generator)
                right = torch.randn(*many, RANK, size[1], generator=generator)
                parameter.data += 0.05 * (left @ right).reshape(shape)
            case "full":
                parameter.data += 0.05 * torch.randn(parameter.shape, generator=generator)


def saved(make: Callable[[], PreTrainedModel], changes: Any, directory: Path) -> PreTrainedModel:
    torch.manual_seed(0)
    model = make().eval()
    model.save_pretrained(directory / "base")
    tune(model, changes)
    model.save_pretrained(directory / "tuned")
    return model


def loaded(kind: Any, directory: Path) -> torch.nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # other warnings are errors
        base = kind.from_pretrained(directory / "base")
        return PeftModel.from_pretrained(base, str(directory / "adapter")).eval()


def logits(model: torch.nn.Module) -> torch.Tensor:
    config: Any = model.config
    with torch.no_grad():
        if hasattr(config, "vocab_size"):
            out = model(input_ids=torch.arange(24).reshape(2, 12) % 64)
        else:
            images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(3))
            out = model(pixel_values=images)
    found: torch.Tensor = out.logits
    return found


def low_or_full(name: str, parameter: torch.Tensor) -> str:
    # Parameters of modules in which others have factors.
    if "layer_scale" in name or "sinks" in name or name.endswith(("proj_bias", "router.bias")):
        return ""
    matrix = parameter.ndim > 1 and "embed_tokens" not in name and ".wte" not in name
    return "low" if matrix and ".wpe" not in name and "dwconv" not in name else "full"


CASES = {
    "llama": (llama, AutoModelForCausalLM),
    "tied": (lambda: llama(tied=True), AutoModelForCausalLM),
    "gpt2": (gpt2, AutoModelForCausalLM),
    "experts": (experts, AutoModelForCausalLM),
    "mixtral": (mixtral, AutoModelForCausalLM),
    "gpt_oss": (gpt_oss, AutoModelForCausalLM),
    "convolutions": (convolutions, Images),
    "depthwise": (depthwise, Images),
}


@pytest.mark.parametrize("case", CASES)
def test_an_adapter_computes_what_the_fine_tune_computes(case: str, tmp_path: Path) -> None:
    make, kind = CASES[case]
    tuned = saved(make, low_or_full, tmp_path)
    report = tallies.extract_lora(
        tmp_path / "tuned",
        tmp_path / "base",
        tmp_path / "adapter",
        rank=RANK,
        save_modules=True,
    )
    assert report.left_out == []
    assert report.error < 1e-5
    base = kind.from_pretrained(tmp_path / "base").eval()
    expected, found = logits(tuned), logits(loaded(kind, tmp_path))
    assert float((expected - logits(base)).abs().max()) > 0.05
    assert torch.allclose(found, expected, atol=2e-4, rtol=1e-3)


def test_merged_weights_are_those_of_the_fine_tune_but_for_the_stated_error(tmp_path: Path) -> None:
    tuned = saved(llama, lambda name, one: "full" if one.ndim > 1 else "", tmp_path)
    report = tallies.extract_lora(
        tmp_path / "tuned", tmp_path / "base", tmp_path / "adapter", rank=0.7, alpha=12
    )
    assert len({one.rank for one in report.matrices}) > 1
    base = AutoModelForCausalLM.from_pretrained(tmp_path / "base").state_dict()
    model: Any = loaded(AutoModelForCausalLM, tmp_path)
    merged = model.merge_and_unload().state_dict()
    expected = tuned.state_dict()
    for one in report.matrices:
        delta = expected[one.name] - base[one.name]
        rest = expected[one.name] - merged[one.name]
        assert float(delta.norm()) == pytest.approx(one.norm, rel=1e-5)
        assert float(rest.norm() / delta.norm()) == pytest.approx(one.error, rel=1e-4)
        assert one.error <= 0.3**0.5 + 1e-6
    assert report.left_out == ["model.embed_tokens.weight"]


def test_an_embedding_that_a_target_names_has_factors(tmp_path: Path) -> None:
    tuned = saved(llama, lambda name, one: "low" if one.ndim > 1 else "", tmp_path)
    report = tallies.extract_lora(
        tmp_path / "tuned", tmp_path / "base", tmp_path / "adapter", rank=RANK, target="weight"
    )
    assert "model.embed_tokens.weight" in [one.name for one in report.matrices]
    found = logits(loaded(AutoModelForCausalLM, tmp_path))
    assert torch.allclose(found, logits(tuned), atol=2e-4, rtol=1e-3)
