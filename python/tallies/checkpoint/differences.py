"""Find what a model lacks and what it has beside the template, and refuse what must not differ."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, Protocol

from ..errors import InputError
from ..messages import show
from ..spec.choices import Extra, Missing
from ..spec.dtypes import FLOATS
from .buffers import is_buffer, is_constant, is_counter
from .policy import Policy
from .prefixes import find_renaming
from .shapes import why_other_shape
from .tied import is_embedding, is_head

_NO_BASE: Final = "name the base of both (base_model, --base), whose tensor can stand for both"


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


@dataclass(frozen=True)
class Model:
    """A model by the name that messages give it, and its tensors."""

    label: str
    tensors: Mapping[str, Any]
    """Values are ``Tensor``; Any because mappings are invariant in what they hold."""
    tied: Mapping[str, str] = field(default_factory=dict)
    """Names that share their values with another name: alias to canonical name."""


@dataclass(frozen=True)
class Differences:
    """The tensors in which a model differs from the template, as it may."""

    missing: tuple[str, ...]
    """Tensors for which the template's stand."""
    dropped: tuple[str, ...]
    """Tensors that are left out."""
    buffers: tuple[str, ...]
    """Buffers that the template lacks."""


def differences(template: Model, model: Model, policy: Policy) -> Differences:
    """Compare the tensors of a model with those of the template.

    Raises:
        InputError: The model lacks a tensor or has another one, in name, shape or type, and the
            policy does not allow it.
    """
    lacks = [
        name
        for name, tensor in template.tensors.items()
        if name not in model.tensors
        and name not in template.tied
        and name not in policy.given
        and not is_buffer(name, tensor.shape)
    ]
    has = [n for n in model.tensors if n not in template.tensors and n not in model.tied]
    buffers = [name for name in has if is_buffer(name, model.tensors[name].shape)]
    has = [name for name in has if name not in set(buffers)]
    missing = [name for name in lacks if policy.missing(name) != Missing.BASE]
    extra = [name for name in has if policy.extra(name) != Extra.DROP]
    if missing or extra:
        _refuse_prefix(template, model, policy)
    if missing:
        _refuse_missing(template, model, policy, missing)
    if extra:
        raise InputError(
            f"{model.label}: has tensor {show(extra[0])}{_more(extra)}, which {template.label} "
            f"lacks; merge models of one architecture, or {policy.advice.extra}"
            f"{_heads_apart(extra, policy)}"
        )
    if lacks and not policy.has_base:
        raise InputError(
            f"{model.label}: lacks tensor {show(lacks[0])}{_more(lacks)}, which {template.label} "
            "has, and the merge has no base whose tensor could take its place; name one"
        )
    other = [name for name in template.tensors if _is_other(template, model, name, policy)]
    return Differences((*lacks, *other), (*has, *other), tuple(buffers))


def _refuse_prefix(template: Model, model: Model, policy: Policy) -> None:
    """Refuse names that differ by prefixes, with the renaming."""
    shapes, expected = (
        {name: tuple(tensor.shape) for name, tensor in one.tensors.items()}
        for one in (model, template)
    )
    may_differ = {
        *template.tied,
        *model.tied,
        *(
            name
            for one in (shapes, expected)
            for name, shape in one.items()
            if is_buffer(name, shape)
        ),
    }
    found = find_renaming(shapes, expected, may_differ)
    if found is None:
        return
    pairs = ", ".join(f"{old!r} here and {new!r} there" for old, new in found.rules.items())
    left = ""
    if found.missing or found.extra:
        verb, names = ("lacks", found.missing) if found.missing else ("has", found.extra)
        left = f"; then it still {verb} {show(names[0])}{_more(names)}"
    raise InputError(
        f"{model.label}: names differ from those of {template.label} by a prefix, {pairs}; "
        f"{policy.advice.rename(model.label, found.rules)}{left}"
    )


def _refuse_missing(template: Model, model: Model, policy: Policy, missing: Sequence[str]) -> None:
    way_out = f", or {policy.advice.missing}" if policy.has_base else ""
    raise InputError(
        f"{model.label}: lacks tensor {show(missing[0])}{_more(missing)}, which "
        f"{template.label} has; merge models of one architecture, all complete{way_out}"
        f"{_heads_apart(missing, policy)}"
    )


def _heads_apart(names: Sequence[str], policy: Policy) -> str:
    """Word the way out for output heads that only some of the models have."""
    return f"; {policy.advice.heads}" if policy.advice.heads and is_head(names[0]) else ""


def _is_other(template: Model, model: Model, name: str, policy: Policy) -> bool:
    """Return True for a tensor of another shape that the policy leaves out; refuse others."""
    found, expected = model.tensors.get(name), template.tensors[name]
    if found is None or (found.dtype, found.shape) == (expected.dtype, expected.shape):
        return False
    if is_settled(name, expected.shape, policy):
        return False
    if tuple(found.shape) != tuple(expected.shape):
        if policy.base_rows and has_other_rows(name, found, expected):
            return False
        takes_base = policy.has_base and policy.missing(name) == Missing.BASE
        if takes_base and policy.extra(name) == Extra.DROP:
            return True
        way = policy.advice if policy.has_base else replace(policy.advice, other_shape=_NO_BASE)
        why = why_other_shape(name, found.shape, expected.shape, way)
        raise InputError(
            f"{model.label}: tensor {show(name)} has shape {list(found.shape)}, "
            f"{template.label} has {list(expected.shape)}{why}"
        )
    if (found.dtype in FLOATS) != (expected.dtype in FLOATS) or (
        expected.dtype not in FLOATS and found.dtype != expected.dtype
    ):
        raise InputError(
            f"{model.label}: tensor {show(name)} is {found.dtype}, {template.label} has "
            f"{expected.dtype}; convert one of the models"
        )
    return False


def is_of_tokens(name: str) -> bool:
    """Tell if a tensor of this name has a row for each token of a vocabulary."""
    return is_embedding(name) or is_head(name)


def has_other_rows(name: str, found: Any, expected: Any) -> bool:
    """Return True for embeddings or heads that differ in their rows alone, and have no scales."""
    a, b = tuple(found.shape), tuple(expected.shape)
    is_scaled = any(getattr(one, "scale", None) for one in (found, expected))
    return (
        is_of_tokens(name)
        and not is_scaled
        and len(a) == len(b) == 2
        and a[1] == b[1]
        and a[0] != b[0]
    )


def is_settled(name: str, shape: Sequence[int], policy: Policy) -> bool:
    """Return True for a tensor that is the template's, whatever the other models have."""
    if name in policy.given:
        return True
    if is_counter(name):
        return policy.counters
    return policy.constants and is_constant(name, shape)


def _more(names: Sequence[str]) -> str:
    return f" and {len(names) - 1} more" if len(names) > 1 else ""
