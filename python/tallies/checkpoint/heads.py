"""Give models an output head of its own, or take it away, where it is the input embedding."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Final

from ..errors import InputError
from ..spec.choices import Tied
from .checkpoint import Checkpoint
from .json_text import is_object
from .tied import is_embedding, is_head, nearest_embedding

# Families whose configuration ties where it does not say; those of them that are merged most.
_TIED_UNLESS_SAID: Final = frozenset(
    [
        "bart",
        "bloom",
        "cohere",
        "cohere2",
        "falcon",
        "gemma",
        "gemma2",
        "gemma3",
        "gemma3_text",
        "gemma3n",
        "gemma3n_text",
        "gpt-sw3",
        "gpt2",
        "gpt_bigcode",
        "gpt_neo",
        "lfm2",
        "longt5",
        "m2m_100",
        "mamba",
        "marian",
        "mbart",
        "mpt",
        "mt5",
        "openai-gpt",
        "opt",
        "pegasus",
        "recurrent_gemma",
        "smollm3",
        "starcoder2",
        "switch_transformers",
        "t5",
        "umt5",
    ]
)


def arranged(
    template: Checkpoint, experts: Sequence[Checkpoint], tied: Tied
) -> tuple[Checkpoint, list[Checkpoint]]:
    """Return the models of a merge with the heads that its result is to have.

    Args:
        template: The base, or the first model.
        experts: The models that are merged.
        tied: The state of the result.

    Returns:
        The template with the tensors of the result, and the experts. A model whose head is its
        embedding has that under the name of the head where the template has a head of its own.

    Raises:
        InputError: The template has no embedding for the head.
    """
    if tied is Tied.TIE:
        return _without_heads(template), [*experts]
    heads = [name for name in template.tensors if is_head(name)]
    if tied is Tied.AS_BASE:
        return template, [_with_heads(one, heads) if _is_tied(one) else one for one in experts]
    heads = heads or list(dict.fromkeys(n for one in experts for n in one.tensors if is_head(n)))
    heads = heads or [_usual_head(template)]
    return _with_heads(template, heads), [_with_heads(one, heads) for one in experts]


def _with_heads(checkpoint: Checkpoint, heads: Iterable[str]) -> Checkpoint:
    found = {
        head: checkpoint.tensors[embedding]
        for head in heads
        if head not in checkpoint.tensors
        and (embedding := nearest_embedding(head, checkpoint.tensors)) is not None
    }
    if not found:
        return checkpoint
    return replace(checkpoint, tensors=dict(sorted((checkpoint.tensors | found).items())))


def _without_heads(checkpoint: Checkpoint) -> Checkpoint:
    kept = {name: one for name, one in checkpoint.tensors.items() if not is_head(name)}
    _refuse_without_embedding(checkpoint)
    return replace(checkpoint, tensors=kept)


def _usual_head(checkpoint: Checkpoint) -> str:
    _refuse_without_embedding(checkpoint)
    is_neox = any(name.endswith("embed_in.weight") for name in checkpoint.tensors)
    return "embed_out.weight" if is_neox else "lm_head.weight"


def _refuse_without_embedding(checkpoint: Checkpoint) -> None:
    if not any(map(is_embedding, checkpoint.tensors)):
        raise InputError(
            f"{checkpoint.path}: tied: found no input embedding among its tensors, which a head "
            "could be; leave 'tied' out"
        )


def _is_tied(checkpoint: Checkpoint) -> bool:
    """Tell if a model that stores no head has its embedding for one."""
    if any(map(is_head, checkpoint.tensors)):
        return False
    config = checkpoint.config()
    parts = [config, *(config.get(key) for key in ("text_config", "llm_config"))]
    stated = [part.get("tie_word_embeddings") for part in parts if is_object(part)]
    if any(isinstance(one, bool) for one in stated):
        return True in stated
    family = config.get("model_type")
    return isinstance(family, str) and family in _TIED_UNLESS_SAID
