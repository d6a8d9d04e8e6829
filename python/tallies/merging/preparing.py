"""Prepares the models of a merge: their heads, vocabularies, and the layers that are taken."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..checkpoint.checkpoint import Checkpoint
from ..checkpoint.common_rows import common_rows, truncated, truncation_warnings
from ..checkpoint.heads import arranged
from ..checkpoint.opening import check_variant
from ..errors import InputError
from ..recipe.config import MergeConfig
from ..recipe.inputs import Inputs
from ..recipe.models import ModelEntry
from ..spec.choices import Embeddings, Tied
from .joining import with_vocabulary

if TYPE_CHECKING:
    from .stack import Stack
    from .vocabulary import Vocabulary


@dataclass(frozen=True)
class Prepared:
    """The models of a merge as its plan takes them."""

    template: Checkpoint
    """The model whose names and dtypes the result has."""
    first: Checkpoint
    """The base as it is compared with the experts, where task vectors are formed."""
    experts: tuple[Checkpoint, ...]
    vocabulary: Vocabulary | None
    stack: Stack | None
    warnings: Sequence[str]


def prepared(config: MergeConfig, inputs: Inputs, entries: Sequence[ModelEntry]) -> Prepared:
    """Open the models of a request and give them the tensors that its result is made of.

    Args:
        config: The request.
        inputs: The models of the request.
        entries: The models that take part.

    Raises:
        InputError: A model cannot be read, or lacks what the request asks for.
        StorageError: A file cannot be read.
    """
    base = inputs.open(config.base_model) if config.base_model else None
    opened = config.models if config.stack else entries
    experts = [inputs.open(entry.model, entry.rename) for entry in opened]
    if config.variant:
        check_variant(config.variant, inputs.opened.values())
    template = base or experts[0]
    if config.embeddings is Embeddings.BASE_ROWS and base is None:
        raise InputError(
            "embeddings: found 'base-rows', and the merge has no base; add 'base_model: DIR' "
            "(--base DIR)"
        )
    warnings: list[str] = []
    if config.tokenizer and config.embeddings in (Embeddings.TRUNCATE, Embeddings.BASE_ROWS):
        warnings.append(
            f"embeddings: {config.embeddings} has no effect: the rows are those of 'tokenizer'"
        )
    own = template
    template, experts = arranged(template, experts, config.tied)
    if config.embeddings is Embeddings.TRUNCATE and config.tokenizer is None:
        stored = (template, *experts)
        rows = common_rows(stored)
        warnings += truncation_warnings(stored, rows)
        template, own, *experts = (truncated(one, rows) for one in (template, own, *experts))
    # A head that is not written must still be the embedding.
    first = own if config.tied is Tied.TIE else template
    texts = [entry.model for entry in opened]
    vocabulary, (template, first, *experts) = with_vocabulary(
        config, inputs, (template, first, *experts), texts
    )
    made = None
    if config.stack:
        from .stack_planning import stack_of

        made = stack_of(config, texts, experts, template)
        template, first, experts = made.template, made.base, [*made.experts]
        warnings += made.warnings
    return Prepared(template, first, tuple(experts), vocabulary, made, warnings)
