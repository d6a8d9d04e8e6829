"""Match names, shapes and types across models: tensors are merged, copied, or refused."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from ..errors import InputError
from ..messages import show
from ..spec.dtypes import FLOATS


class Tensor(Protocol):
    """The part of a tensor's description that matching needs."""

    @property
    def dtype(self) -> str:
        """Return the safetensors name of the dtype."""
        ...

    @property
    def shape(self) -> tuple[int, ...]:
        """Return the sizes of all dimensions."""
        ...


def row_length(tensor: Tensor) -> int:
    """Return the elements of a row: of the last dimension, or 1 for a scalar."""
    return tensor.shape[-1] if tensor.shape else 1


@dataclass(frozen=True)
class Model:
    """A model by the name that messages give it, and its tensors."""

    label: str
    tensors: Mapping[str, Any]
    """Values are ``Tensor``; Any because mappings are invariant in what they hold."""
    tied: Mapping[str, str] = field(default_factory=dict)
    """Names that share their values with another name: alias to canonical name."""


@dataclass(frozen=True)
class Match:
    """How the tensors of the template (the base, or the first model) are made.

    Names are in the order of their UTF-8 bytes.
    """

    merged: tuple[str, ...]
    """Floating-point tensors, each merged from all models."""
    copied: tuple[str, ...]
    """Integer and boolean tensors, taken from the template."""
    tied: Mapping[str, str]
    """Aliases, written with the values of another name and counted once."""
    stands_for: Mapping[str, str]
    """Aliases of the template, which a model may lack, and the names that hold their values."""

    def source(self, model: Model, name: str) -> Any:
        """Return the tensor that stands for ``name`` in one of the models."""
        return model.tensors[name if name in model.tensors else self.stands_for[name]]


def match(template: Model, others: Sequence[Model]) -> Match:
    """Match every tensor of every model; InputError that names the first tensor without a match.

    A tensor that a model lacks is found under the name it is tied to, if it is.
    """
    tied = {
        alias: canonical
        for alias, canonical in template.tied.items()
        if all(_is_tied(model, alias, canonical) for model in others)
    }
    for model in others:
        _check(template, model)
    names = sorted(template.tensors, key=str.encode)
    merges = {name for name in names if template.tensors[name].dtype in FLOATS}
    return Match(
        merged=tuple(name for name in names if name in merges and name not in tied),
        copied=tuple(name for name in names if name not in merges),
        tied=tied,
        stands_for=template.tied,
    )


def _is_tied(model: Model, alias: str, canonical: str) -> bool:
    return alias not in model.tensors or model.tied.get(alias) == canonical


def _check(template: Model, model: Model) -> None:
    missing = [n for n in template.tensors if n not in model.tensors and n not in template.tied]
    if missing:
        raise InputError(
            f"{model.label}: lacks tensor {show(missing[0])}{_more(missing)}, which "
            f"{template.label} has; merge models of one architecture, all complete"
        )
    extra = [n for n in model.tensors if n not in template.tensors and n not in model.tied]
    if extra:
        raise InputError(
            f"{model.label}: has tensor {show(extra[0])}{_more(extra)}, which {template.label} "
            "lacks; merge models of one architecture, or remove it from the file"
        )
    for name, expected in template.tensors.items():
        found = model.tensors.get(name)
        if found is None:
            continue
        if tuple(found.shape) != tuple(expected.shape):
            raise InputError(
                f"{model.label}: tensor {show(name)} has shape {list(found.shape)}, "
                f"{template.label} has {list(expected.shape)}{_rows(found, expected)}"
            )
        if (found.dtype in FLOATS) != (expected.dtype in FLOATS) or (
            expected.dtype not in FLOATS and found.dtype != expected.dtype
        ):
            raise InputError(
                f"{model.label}: tensor {show(name)} is {found.dtype}, {template.label} has "
                f"{expected.dtype}; convert one of the models"
            )


def _more(names: Sequence[str]) -> str:
    return f" and {len(names) - 1} more" if len(names) > 1 else ""


def _rows(found: Tensor, expected: Tensor) -> str:
    """Word the difference of matrices in their rows alone, as those of two vocabularies have it."""
    a, b = tuple(found.shape), tuple(expected.shape)
    if len(a) != 2 or len(b) != 2 or a[1] != b[1]:
        return "; shapes must be equal"
    first, last = min(a[0], b[0]), max(a[0], b[0]) - 1
    who = "the former" if a[0] > b[0] else "the latter"
    return (
        f": rows {first} to {last} are only in {who} (vocabularies of {a[0]} and {b[0]} tokens); "
        "resize the embeddings of all models to one vocabulary first"
    )
