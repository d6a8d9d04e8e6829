"""Small Llamas, and tokenizers of whole words, as hosts load them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import transformers as tf
from tokenizers import Tokenizer, models


def tiny_llama(n_words: int, n_layers: int, intermediate_size: int = 24) -> Any:
    """Return a Llama of this many words and layers with random weights."""
    return tf.LlamaForCausalLM(
        tf.LlamaConfig(
            vocab_size=n_words,
            hidden_size=16,
            intermediate_size=intermediate_size,
            num_attention_heads=2,
            num_key_value_heads=1,
            num_hidden_layers=n_layers,
        )
    )


def tokenizer_of_words(words: Mapping[str, int]) -> Any:
    """Return a tokenizer of whole words; ``<s>``, ``</s>`` and ``<unk>`` are among the words."""
    return tf.PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel(dict(words), unk_token="<unk>")),
        **{"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"},
    )
