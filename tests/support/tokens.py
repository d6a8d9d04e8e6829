"""Tokenizers of a few tokens, beside models of a few rows."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import AddedToken, Tokenizer
from tokenizers.models import BPE, WordPiece

from tests.support.checkpoints import Model, write
from tests.support.merges import dyadic

EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"
SPECIAL = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}


def tokenizer(
    plain: Iterable[str], added: Mapping[str, bool] | None = None, *, pieces: bool = False
) -> Tokenizer:
    """A tokenizer of plain tokens, and added ones that are special or not."""
    vocabulary = {token: number for number, token in enumerate(plain)}
    made = Tokenizer(WordPiece(vocabulary) if pieces else BPE(vocabulary, []))
    made.add_tokens(
        [
            AddedToken(token, special=special, normalized=not special)
            for token, special in (added or {}).items()
        ]
    )
    return made


def write_tokenizer(folder: Path, made: Tokenizer, config: Mapping[str, Any] | None = None) -> None:
    """Write a tokenizer beside a model."""
    (folder / "tokenizer.json").write_text(made.to_str(pretty=True), encoding="utf-8")
    said = {"tokenizer_class": "PreTrainedTokenizerFast", **(config or {})}
    (folder / "tokenizer_config.json").write_text(json.dumps(said, indent=2), encoding="utf-8")


def rows_model(seed: int, n_rows: int, dtype: Any = np.float32, width: int = 4) -> Model:
    """A model of an embedding, a head and a norm."""
    rng = np.random.default_rng(seed)
    shapes = {EMBEDDING: (n_rows, width), HEAD: (n_rows, width), "model.norm.weight": (width,)}
    return {name: dyadic(rng, *shape).astype(dtype) for name, shape in shapes.items()}


def write_model(
    folder: Path,
    tensors: Model,
    made: Tokenizer | None,
    *,
    config: Mapping[str, Any] | None = None,
    **of_tokenizer: Any,
) -> Path:
    """A model with its tokenizer and a configuration that says the rows of its embedding."""
    said = {"model_type": "llama", "vocab_size": len(tensors[EMBEDDING]), **(config or {})}
    write(folder, tensors, config=said)
    if made is not None:
        write_tokenizer(folder, made, of_tokenizer)
    return folder
