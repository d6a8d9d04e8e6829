"""Models and adapters that PEFT writes, and the values that PEFT merges."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import peft
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import nn

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


@dataclass(frozen=True)
class Written:
    """A model and adapters of it on disk, and the values that PEFT merges."""

    base: Path
    adapters: list[Path]
    merged: dict[str, torch.Tensor]

    @property
    def text(self) -> str:
        """The model with its adapters, as recipes name it."""
        return "+".join(map(str, (self.base, *self.adapters)))


def write(
    case: Case, folder: Path, *, n_adapters: int = 1, dtype: torch.dtype = torch.float32
) -> Written:
    """Write a model and adapters of it; merge them one after the other with PEFT, in float32.

    ``dtype`` is that of the model's file.
    """
    torch.manual_seed(7)
    model = case.model().to(dtype).float().eval()
    base = folder / "base"
    save(model, base, dtype)
    adapters = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for number in range(n_adapters):
            config = dict(case.config)
            if case.kind is peft.LoraConfig:
                config.setdefault("init_lora_weights", False)
            adapted = peft.get_peft_model(model, case.kind(**config))
            disturb(adapted, seed=number)
            adapters.append(folder / f"adapter{number}")
            adapted.save_pretrained(adapters[-1], **case.saved)
            model = adapted.merge_and_unload()
    save(model, folder / "merged")
    before, merged = (read(path) for path in (base, folder / "merged"))
    assert merged.keys() == before.keys()
    assert any(not torch.equal(before[name].float(), merged[name]) for name in merged)
    return Written(base, adapters, merged)


def save(model: nn.Module, path: Path, dtype: torch.dtype = torch.float32) -> None:
    if isinstance(model, transformers.PreTrainedModel):
        model.to(dtype).save_pretrained(path)
        model.float()
        return
    path.mkdir()
    state = {name: tensor.to(dtype) for name, tensor in model.state_dict().items()}
    save_file(state, path / "model.safetensors")


def read(path: Path) -> dict[str, torch.Tensor]:
    return load_file(path / "model.safetensors")


def disturb(model: nn.Module, seed: int) -> None:
    """Give all that is trained values as training might."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter += 0.2 * torch.randn(parameter.shape, generator=generator)
