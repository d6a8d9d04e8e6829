"""Tensors that are another tensor under another name."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import replace
from itertools import takewhile
from typing import Final

from .checkpoint import Checkpoint
from .json_text import is_object
from .tensors import TensorInfo

_HEAD: Final = re.compile(r"(?:(?:\A|/)(?:output|embed_out)|(?:\A|[./])lm_head)\.weight\Z")

_EMBEDDING: Final = re.compile(
    r"(?:\A|[./])(?:embed_tokens|wte|word_embeddings|tok_embeddings|shared|embed_in)\.weight\Z"
)

_ALSO_BY_TOKEN: Final = re.compile(
    r"(?:\A|\.)(?:"
    r"lm_head(?:\.linear|\.decoder)?\.(?:weight|bias)"
    r"|cls\.predictions\.(?:bias|decoder\.(?:weight|bias))"
    r"|vocab_projector\.(?:weight|bias)"
    r"|final_logits_bias"
    r"|output_layer\.weight"
    r"|backbone\.embeddings\.weight"
    r")\Z"
)
"""Heads, and their biases, beside those that may be tied to an embedding."""


def is_head(name: str) -> bool:
    """Tell if a tensor of this name is an output head over a vocabulary."""
    return _HEAD.search(name) is not None


def is_embedding(name: str) -> bool:
    """Tell if a tensor of this name is an input embedding of a vocabulary."""
    return _EMBEDDING.search(name) is not None


def is_by_token(name: str) -> bool:
    """Tell if a tensor of this name has a row, or an element, for each token."""
    return is_embedding(name) or is_head(name) or _ALSO_BY_TOKEN.search(name) is not None


def tied_pairs(checkpoint: Checkpoint) -> list[tuple[str, str]]:
    """Find the names of a checkpoint that share their values with another name.

    An output head and the input embedding are tied if both are stored, agree in shape and dtype,
    and config.json, or its text model's part, says ``tie_word_embeddings``. Headers cannot show
    that the bits of the two are equal: compare them. Two names for the same bytes of a torch file
    are tied as well.

    Returns:
        Pairs of the alias and the canonical name.
    """
    pairs = [pair for part in checkpoint.by_part() for pair in _tied_heads(part)]
    aliases = {alias for alias, _ in pairs}
    return pairs + [pair for pair in _same_places(checkpoint) if pair[0] not in aliases]


def _same_places(checkpoint: Checkpoint) -> list[tuple[str, str]]:
    """Pair names for the same bytes: an embedding, or else the first name, is canonical."""
    # Few begin where another one does: only those are compared in full.
    n_at = Counter((tensor.path, tensor.offset) for tensor in checkpoint.tensors.values())
    by_place: dict[object, list[str]] = {}
    for name, tensor in checkpoint.tensors.items():
        if n_at[tensor.path, tensor.offset] > 1 and tensor.n_elements:
            by_place.setdefault(replace(tensor, name=""), []).append(name)
    pairs = []
    for names in by_place.values():
        canonical = min(names, key=lambda name: (not _EMBEDDING.search(name), name))
        pairs += [(name, canonical) for name in names if name != canonical]
    return pairs


def _tied_heads(checkpoint: Checkpoint) -> list[tuple[str, str]]:
    config = checkpoint.config()
    parts = (config, *(config.get(key) for key in ("text_config", "llm_config")))
    if not any(is_object(part) and part.get("tie_word_embeddings") is True for part in parts):
        return []
    return head_pairs(checkpoint.tensors)


def head_pairs(tensors: Mapping[str, TensorInfo]) -> list[tuple[str, str]]:
    """Pair each output head with the embedding that could be it, by shape, dtype and name."""
    pairs = []
    for head in filter(_HEAD.search, tensors):
        shape, dtype = tensors[head].shape, tensors[head].dtype
        fitting = {
            name: one for name, one in tensors.items() if (one.shape, one.dtype) == (shape, dtype)
        }
        embedding = nearest_embedding(head, fitting)
        if embedding is not None:
            pairs.append((head, embedding))
    return pairs


def nearest_embedding(head: str, names: Iterable[str]) -> str | None:
    """Return the input embedding that is nearest to a head; None if there is none."""
    embeddings = [name for name in names if _EMBEDDING.search(name)]
    # Several: the nearest in the module tree (one model of many), else T5's "shared".
    rank = {name: (_kinship(name, head), "shared" in name) for name in embeddings}
    return max(embeddings, key=rank.__getitem__, default=None)


def _kinship(a: str, b: str) -> int:
    """Return how many leading components two dotted names share."""
    pairs = zip(a.split("."), b.split("."), strict=False)
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
