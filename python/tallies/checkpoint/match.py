"""Match names, shapes and types across models: tensors are merged, copied, or refused."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from ..spec.dtypes import FLOATS
from .buffers import is_buffer
from .differences import Model, Tensor, differences, is_of_tokens, is_settled
from .policy import STRICT, Policy

__all__ = ["Match", "Model", "match", "row_length"]


def row_length(tensor: Tensor) -> int:
    """Return the elements of a row: of the last dimension, or 1 for a scalar."""
    return tensor.shape[-1] if tensor.shape else 1


@dataclass(frozen=True)
class Match:
    """How the tensors of the template (the base, or the first model) are made.

    Names are in the order of their UTF-8 bytes.
    """

    merged: tuple[str, ...]
    """Floating-point tensors, each merged from all models."""
    copied: tuple[str, ...]
    """Tensors that are the template's: integers, booleans, buffers of merges without a base, and
    tensors that the request gives."""
    tied: Mapping[str, str]
    """Aliases, written with the values of another name and counted once."""
    stands_for: Mapping[str, str]
    """Aliases of the template, which a model may lack, and the names that hold their values."""
    template: Mapping[str, Any]
    """The template's tensors, which stand for those that a model lacks."""
    settled: frozenset[str] = frozenset()
    """Tensors that are the template's, whatever the other models have."""
    buffers: tuple[str, ...] = ()
    """Buffers that a model has: the template's are kept, others are left out."""
    missing: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """By label of a model, tensors that it lacks, and that are the base's instead."""
    rows: Mapping[str, int] = field(default_factory=dict)
    """Rows that all models have, of embeddings and heads that not all have in one size."""
    dropped: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """By label of a model, tensors that it has and the result is made without."""

    def source(self, model: Model, name: str) -> Any:
        """Return the tensor that stands for ``name`` in one of the models."""
        own = self.own(model, name)
        return self.template[name] if own is None else own

    def own(self, model: Model, name: str) -> Any:
        """Return the model's own tensor for ``name``; None where the template's stands for it."""
        if name in self.settled or name in self.missing.get(model.label, ()):
            return None
        alias = self.stands_for.get(name)
        return model.tensors.get(name, model.tensors.get(alias) if alias else None)


def match(
    template: Model, others: Sequence[Model], policy: Policy = STRICT, *, of_parts: bool = False
) -> Match:
    """Match every tensor of every model; InputError that names the first tensor without a match.

    A tensor that a model lacks is found under the name it is tied to, if it is. Models may differ
    in their buffers: the template's count.

    Args:
        template: The model that names the tensors.
        others: The models that are merged.
        policy: The treatment of tensors that not all models have.
        of_parts: Each model is compared with the part of the template whose names it has.
    """
    tied = {
        alias: canonical
        for alias, canonical in template.tied.items()
        if alias not in policy.given and all(_is_tied(model, alias, canonical) for model in others)
    }
    found = [
        (model.label, differences(_part(template, model) if of_parts else template, model, policy))
        for model in others
    ]
    names = sorted(template.tensors, key=str.encode)
    shapes = {name: template.tensors[name].shape for name in names}
    buffers = {name for name in names if is_buffer(name, shapes[name])}
    settled = frozenset(
        name
        for name in names
        if (name in buffers or name in policy.given) and is_settled(name, shapes[name], policy)
    )
    merges = {
        name
        for name in names
        if template.tensors[name].dtype in FLOATS
        and (policy.merges or name not in settled)
        and name not in policy.given
    }
    buffers.update(name for _, one in found for name in one.buffers)
    made = Match(
        merged=tuple(name for name in names if name in merges and name not in tied),
        copied=tuple(name for name in names if name not in merges),
        tied=tied,
        stands_for=template.tied,
        template=template.tensors,
        settled=settled,
        buffers=tuple(sorted(buffers, key=str.encode)),
        missing={label: one.missing for label, one in found if one.missing},
        dropped={label: one.dropped for label, one in found if one.dropped},
    )
    rows = {}
    for name in filter(is_of_tokens, made.merged if policy.base_rows else ()):
        sizes = {tuple(made.source(model, name).shape) for model in (template, *others)}
        if len(sizes) > 1:
            rows[name] = min(shape[0] for shape in sizes)
    return replace(made, rows=rows)


def _part(template: Model, model: Model) -> Model:
    """Return the template with the tensors whose names a model has."""
    return replace(
        template, tensors={name: template.tensors[name] for name in model.tensors}, tied={}
    )


def _is_tied(model: Model, alias: str, canonical: str) -> bool:
    return alias not in model.tensors or model.tied.get(alias) == canonical
