"""Small random models under the names of the hub's: a pytest plugin for other tools' own tests.

``-p local_models`` makes ``AutoModel.from_pretrained`` and its kin build the models
of the table below from their configuration, seeded by their name, so that the tests of a host run
without the hub.
"""

from __future__ import annotations

import zlib
from typing import Any

SMALL = {
    "vocab_size": 1000,
    "hidden_size": 32,
    "intermediate_size": 37,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 512,
}
GPT = {"vocab_size": 1000, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 512}

# The last part of a name of the hub, the kind of its configuration, and what is smaller there.
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "tiny-random-OPTForCausalLM": (
        "OPTConfig",
        {"vocab_size": 1000, "hidden_size": 16, "ffn_dim": 32, "num_hidden_layers": 2,
         "num_attention_heads": 4, "word_embed_proj_dim": 16, "max_position_embeddings": 100},
    ),
    "tiny-random-GPT2LMHeadModel": ("GPT2Config", GPT),
    "tiny-random-gpt2": ("GPT2Config", GPT),
    "tiny-random-GPTJForCausalLM": ("GPTJConfig", {**GPT, "rotary_dim": 4}),
    "tiny-random-LlamaForCausalLM": ("LlamaConfig", SMALL),
    "tiny-random-MistralForCausalLM": ("MistralConfig", {**SMALL, "num_key_value_heads": 2}),
    "tiny-dummy-qwen2": ("Qwen2Config", {**SMALL, "num_key_value_heads": 2}),
    "tiny-random-Gemma3ForCausalLM": (
        "Gemma3TextConfig",
        {**SMALL, "num_key_value_heads": 2, "head_dim": 8},
    ),
    "tiny-random-T5ForConditionalGeneration-calibrated": (
        "T5Config",
        {"vocab_size": 1000, "d_model": 32, "d_ff": 37, "d_kv": 8, "num_layers": 2,
         "num_heads": 4, "decoder_start_token_id": 0},
    ),
    "tiny-random-BartForConditionalGeneration": (
        "BartConfig",
        {"vocab_size": 1000, "d_model": 32, "encoder_layers": 2, "decoder_layers": 2,
         "encoder_attention_heads": 4, "decoder_attention_heads": 4, "encoder_ffn_dim": 37,
         "decoder_ffn_dim": 37, "max_position_embeddings": 100},
    ),
    "tiny-random-BertModel": ("BertConfig", SMALL),
    "tiny-random-RobertaModel": ("RobertaConfig", SMALL),
    "tiny-random-DebertaModel": ("DebertaConfig", SMALL),
    "tiny-random-DebertaV2Model": ("DebertaV2Config", SMALL),
}  # fmt: skip


def pytest_configure(config: Any) -> None:
    from transformers.models.auto import modeling_auto
    from transformers.models.auto.auto_factory import _BaseAutoModelClass

    # PEFT asks transformers 5.24 by a name that it is about to drop, and takes warnings for errors.
    config.addinivalue_line(
        "filterwarnings", "ignore:.is_gradient_checkpointing. is deprecated:FutureWarning"
    )
    for kind in list(vars(modeling_auto).values()):
        if isinstance(kind, type) and issubclass(kind, _BaseAutoModelClass):
            kind.from_pretrained = classmethod(loader(kind.from_pretrained))


def loader(theirs: Any) -> Any:
    """Return a function that makes the models of the table and has others loaded."""

    def from_pretrained(cls: Any, name: Any, *args: Any, **options: Any) -> Any:
        import torch
        import transformers

        found = MODELS.get(str(name).rpartition("/")[2])
        if found is None:
            return theirs(name, *args, **options)
        kind, sizes = found
        torch.manual_seed(zlib.crc32(str(name).encode()))
        config = getattr(transformers, kind)(**sizes)
        return cls.from_config(config).eval()

    return from_pretrained
