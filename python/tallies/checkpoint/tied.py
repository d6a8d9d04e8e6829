"""Output heads that are the input embedding under another name."""

from __future__ import annotations

import re
from itertools import takewhile
from typing import Final

from .checkpoint import Checkpoint
from .json_text import is_object

_HEAD: Final = re.compile(r"(?:\A(?:output|embed_out)|(?:\A|\.)lm_head)\.weight\Z")

_EMBEDDING: Final = re.compile(
    r"(?:\A|\.)(?:embed_tokens|wte|word_embeddings|tok_embeddings|shared|embed_in)\.weight\Z"
)


def tied_pairs(checkpoint: Checkpoint) -> list[tuple[str, str]]:
    """Pairs (alias, canonical) of an output head and the input embedding it may share.

    Both are stored, agree in shape and dtype, and config.json, or its text model's part, says
    ``tie_word_embeddings``. Headers cannot show whether the bits are equal: compare them.
    """
    config = checkpoint.config()
    parts = (config, *(config.get(key) for key in ("text_config", "llm_config")))
    if not any(is_object(part) and part.get("tie_word_embeddings") is True for part in parts):
        return []
    tensors = checkpoint.tensors
    embeddings = [name for name in tensors if _EMBEDDING.search(name)]
    pairs = []
    for head in filter(_HEAD.search, tensors):
        shape, dtype = tensors[head].shape, tensors[head].dtype
        fitting = [
            name
            for name in embeddings
            if tensors[name].shape == shape and tensors[name].dtype == dtype
        ]
        if fitting:
            # Several: the nearest in the module tree (one model of many), else T5's "shared".
            rank = {name: (_kinship(name, head), "shared" in name) for name in fitting}
            pairs.append((head, max(fitting, key=rank.__getitem__)))
    return pairs


def _kinship(a: str, b: str) -> int:
    """How many leading components two dotted names share."""
    pairs = zip(a.split("."), b.split("."), strict=False)
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
