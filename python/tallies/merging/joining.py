"""Give the models of a request the vocabulary, and their result the chat template, it asks for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from ..checkpoint.checkpoint import Checkpoint
from ..checkpoint.tokenizers import stated_template
from ..recipe.config import MergeConfig
from ..recipe.inputs import Inputs
from ..recipe.vocabulary import WORDS

if TYPE_CHECKING:
    from ..checkpoint.files import AuxiliaryFiles
    from .vocabulary import Vocabulary


def with_vocabulary(
    config: MergeConfig, inputs: Inputs, models: Sequence[Checkpoint], texts: Sequence[str]
) -> tuple[Vocabulary | None, list[Checkpoint]]:
    """Return the vocabulary of a request, and its models with the rows of that vocabulary.

    Args:
        config: The request.
        inputs: The models of the request.
        models: The template, the model that is compared in its place, and the experts.
        texts: The texts of the experts.

    Returns:
        None and the models where the request asks for no tokenizer.

    Raises:
        InputError: The request asks for tokens or rows that no model has.
        StorageError: A file cannot be read.
    """
    if config.tokenizer is None:
        return None, list(models)
    from .vocabulary import Member, files_beside, join, place

    template, first, *experts = models
    places, base = config.places, config.base_model
    rows = [*([(base, first)] if base is not None else []), *zip(texts, experts, strict=True)]
    members = [Member(text, one, files_beside(one, text, places)) for text, one in rows]
    named, source = config.tokenizer["source"], None
    if named not in WORDS:
        source = files_beside(inputs.open_donor(named), named, places)
    vocabulary = join(
        config.tokenizer, members, source, places, config.semantics, has_base=base is not None
    )
    placed = place(vocabulary, [one.model for one in members])
    first = _with_tensors(first, placed[0])
    template = _with_tensors(template, placed[0])
    return vocabulary, [template, first, *placed[len(placed) - len(experts) :]]


def _with_tensors(model: Checkpoint, placed: Checkpoint) -> Checkpoint:
    """Return a model with the tensors of ``placed`` that it has by name."""
    tensors = {name: placed.tensors.get(name, one) for name, one in model.tensors.items()}
    return replace(model, tensors=tensors)


def chat_template(config: MergeConfig, models: Sequence[Checkpoint]) -> str | None:
    """Return the text of the chat template of a result; None where it stays.

    Args:
        config: The request.
        models: The base, or the first model, then the others; their templates are counted once.
    """
    if config.chat_template is None:
        return None
    from ..vocabulary.templates import chosen

    unique = {one.path: stated_template(one.path) for one in models}
    return chosen(config.chat_template, unique.values())


def with_own_tokenizer(
    found: AuxiliaryFiles, vocabulary: Vocabulary | None, template: str | None
) -> AuxiliaryFiles:
    """Return the files beside a result with its tokenizer and chat template, if it has its own."""
    if vocabulary is None and template is None:
        return found
    from .vocabulary_files import with_tokenizer

    return with_tokenizer(found, vocabulary, template)
