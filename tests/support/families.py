"""Tiny random models of the families that people merge, saved as their own libraries save them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers as tf

Inputs = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Family:
    """A model class with a configuration, and inputs that its forward pass takes."""

    model_class: Any
    config: Any
    inputs: Callable[[], Inputs]

    def save(self, path: Path, seed: int, dtype: torch.dtype) -> None:
        """Save a model of random weights."""
        torch.manual_seed(seed)
        model = self.model_class(self.config)
        model.to(dtype).save_pretrained(path)

    def load(self, path: Path) -> tuple[Any, dict[str, Any]]:
        """Load a model as its file says, and what transformers says of missing and extra names."""
        model, said = self.model_class.from_pretrained(path, dtype="auto", output_loading_info=True)
        for parameter in model.parameters():
            # Kernels round by alignment, and a file's tensors lie where its header ends.
            parameter.data = parameter.data.clone()
        return model.eval(), said

    def outputs(self, model: Any) -> list[torch.Tensor]:
        """Return the floating-point tensors of a forward pass, flattened."""
        given = {
            name: value.to(model.dtype) if value.is_floating_point() else value
            for name, value in self.inputs().items()
        }
        with torch.no_grad():
            found = model(**given)
        tensors = [value for value in found.values() if isinstance(value, torch.Tensor)]
        return [value.float() for value in tensors]


def _tokens(vocabulary: int = 64) -> Inputs:
    ids = torch.arange(12).reshape(1, 12) % (vocabulary - 8)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def _pixels(size: int = 16) -> torch.Tensor:
    return torch.linspace(-1, 1, 3 * size * size).reshape(1, 3, size, size)


_DECODER = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_ENCODER = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
}
_VISION = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "image_size": 16,
    "patch_size": 8,
}


def _llava() -> Family:
    config = tf.LlavaConfig(
        vision_config=tf.CLIPVisionConfig(**_VISION, projection_dim=32),
        text_config=tf.LlamaConfig(**_DECODER),
        image_token_index=63,
        vision_feature_layer=-1,
    )
    ids = torch.tensor([[1, 63, 63, 63, 63, 5, 6]])
    return Family(
        tf.LlavaForConditionalGeneration,
        config,
        lambda: {
            "input_ids": ids,
            "attention_mask": torch.ones_like(ids),
            "pixel_values": _pixels(),
        },
    )


def _qwen_vl() -> Family:
    text = {**_DECODER, "rope_scaling": {"type": "mrope", "mrope_section": [1, 1, 2]}}
    config = tf.Qwen2VLConfig(
        text_config=text,
        vision_config={
            "depth": 2,
            "embed_dim": 32,
            "hidden_size": 32,
            "num_heads": 4,
            "patch_size": 8,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
        },
        image_token_id=60,
        video_token_id=61,
        vision_start_token_id=62,
        vision_end_token_id=63,
    )
    return Family(tf.Qwen2VLForConditionalGeneration, config, _tokens)


def _whisper() -> Family:
    config = tf.WhisperConfig(
        vocab_size=64,
        d_model=32,
        encoder_layers=2,
        decoder_layers=2,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        encoder_ffn_dim=48,
        decoder_ffn_dim=48,
        num_mel_bins=8,
        max_source_positions=16,
        max_target_positions=16,
        decoder_start_token_id=1,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        suppress_tokens=None,
        begin_suppress_tokens=None,
    )
    features = torch.linspace(-1, 1, 8 * 32).reshape(1, 8, 32)
    return Family(
        tf.WhisperForConditionalGeneration,
        config,
        lambda: {"input_features": features, "decoder_input_ids": torch.tensor([[1, 4, 5]])},
    )


def _t5() -> Family:
    config = tf.T5Config(
        vocab_size=64, d_model=32, d_kv=8, d_ff=48, num_layers=2, num_heads=4, pad_token_id=0,
        decoder_start_token_id=0,
    )  # fmt: skip
    return Family(
        tf.T5ForConditionalGeneration,
        config,
        lambda: {**_tokens(), "decoder_input_ids": torch.tensor([[0, 4, 5]])},
    )


def _clip() -> Family:
    config = tf.CLIPConfig(
        text_config=dict(_ENCODER, eos_token_id=2, bos_token_id=1),
        vision_config=dict(_VISION),
        projection_dim=16,
    )
    return Family(tf.CLIPModel, config, lambda: {**_tokens(), "pixel_values": _pixels()})


def families() -> dict[str, Family]:
    """Return the families by name."""
    moe = {"moe_intermediate_size": 24, "num_experts": 4, "num_experts_per_tok": 2}
    return {
        "llama": Family(tf.LlamaForCausalLM, tf.LlamaConfig(**_DECODER), _tokens),
        "llama_tied": Family(
            tf.LlamaForCausalLM, tf.LlamaConfig(**_DECODER, tie_word_embeddings=True), _tokens
        ),
        "qwen3": Family(tf.Qwen3ForCausalLM, tf.Qwen3Config(**_DECODER, head_dim=8), _tokens),
        "mistral": Family(tf.MistralForCausalLM, tf.MistralConfig(**_DECODER), _tokens),
        "gemma3": Family(
            tf.Gemma3ForCausalLM, tf.Gemma3TextConfig(**_DECODER, head_dim=8), _tokens
        ),
        "phi3": Family(tf.Phi3ForCausalLM, tf.Phi3Config(**_DECODER), _tokens),
        "mixtral": Family(
            tf.MixtralForCausalLM, tf.MixtralConfig(**_DECODER, num_local_experts=4), _tokens
        ),
        "qwen3_moe": Family(
            tf.Qwen3MoeForCausalLM, tf.Qwen3MoeConfig(**_DECODER, **moe, head_dim=8), _tokens
        ),
        "gpt2": Family(
            tf.GPT2LMHeadModel,
            tf.GPT2Config(vocab_size=64, n_embd=32, n_layer=3, n_head=4, n_positions=64),
            _tokens,
        ),
        "bert": Family(tf.BertForMaskedLM, tf.BertConfig(**_ENCODER), _tokens),
        "roberta": Family(
            tf.RobertaForSequenceClassification, tf.RobertaConfig(**_ENCODER), _tokens
        ),
        "t5": _t5(),
        "vit": Family(
            tf.ViTForImageClassification,
            tf.ViTConfig(**_VISION),
            lambda: {"pixel_values": _pixels()},
        ),
        "clip": _clip(),
        "whisper": _whisper(),
        "mamba": Family(
            tf.MambaForCausalLM,
            tf.MambaConfig(vocab_size=64, hidden_size=32, num_hidden_layers=2, state_size=4),
            lambda: {"input_ids": _tokens()["input_ids"]},
        ),
        "llava": _llava(),
        "qwen2_vl": _qwen_vl(),
    }
