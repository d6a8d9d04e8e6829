"""Choose the tensors of a model that an adapter taken out of it changes by factors."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any, Final

from ..checkpoint.tied import is_head
from ..errors import InputError
from ..messages import show, some
from .experts import is_one_expert
from .targets import Kind, Target

_TABLE: Final = re.compile(
    r"(?:\A|[./])(?:\w*embed\w*|\w*embd|wte|wpe|shared|relative_attention_bias)\.weight\Z"
)
"""Weights of which a row is looked up, not multiplied."""

_STACKED: Final = re.compile(r"(?:\A|[./])(?:\w*experts?|input_linear|output_linear)[./]")
"""Modules whose parameters of three dimensions are stacks of matrices."""

_ROUTER: Final = re.compile(r"(?:\A|[./])(?:gate|router)\.weight\Z")
"""Weights of routers, which some versions of transformers keep in modules that are no linear layer.

PEFT reaches them as parameters in all versions.
"""

_TRANSPOSED_LINEAR: Final = ("gpt2", "openai-gpt", "imagegpt", "decision_transformer", "clvp")
"""Model types whose linear layers are Conv1D of transformers, which keeps [in, out]."""
_CONV1D: Final = re.compile(r"(?:\A|[./])(?:c_attn|q_attn|c_proj|c_fc)\.weight\Z")

_TRANSPOSED_STACKS: Final = ("gpt_oss", "aria", "aria_text", "openai_privacy_filter")
"""Model types whose modules of experts say ``is_transposed``."""


def kind_of(name: str, shape: tuple[int, ...], model_types: Collection[str]) -> Kind | None:
    """Return the kind of a tensor that factors can change; None for one that they cannot.

    Args:
        name: The tensor as the model calls it.
        shape: Its shape.
        model_types: The ``model_type`` of the configuration, and those of its parts.

    >>> print(kind_of("model.layers.0.mlp.up_proj.weight", (8, 4), ()))
    linear
    """
    if len(shape) < 2 or 0 in shape or is_one_expert(name):
        return None
    if len(shape) == 3 and _STACKED.search(name):
        turned = any(one in _TRANSPOSED_STACKS for one in model_types)
        return Kind.TRANSPOSED_STACK if turned else Kind.STACK
    if not name.endswith(".weight"):
        return Kind.PARAMETER if len(shape) == 2 else None
    if len(shape) == 2:
        if _TABLE.search(name) and not is_head(name):
            return Kind.EMBEDDING
        if _ROUTER.search(name):
            return Kind.PARAMETER
        turned = any(one in _TRANSPOSED_LINEAR for one in model_types)
        return Kind.TRANSPOSED if turned and _CONV1D.search(name) else Kind.LINEAR
    # A depthwise convolution multiplies each channel by itself: it is no product of two layers.
    return Kind.CONVOLUTION if shape[1] > 1 and len(shape) <= 5 else None


def targets(
    shapes: Mapping[str, tuple[int, ...]], config: Mapping[str, Any], pattern: str | None
) -> list[Target]:
    """Choose the tensors to change by factors.

    Args:
        shapes: The shapes of the tensors by name.
        config: The configuration of the model.
        pattern: A regular expression that finds a part of the wanted names; None for all weights
            of linear layers and convolutions, and all stacks of experts.

    Raises:
        InputError: The pattern is none, or finds no tensor that factors can change.
    """
    types = set(_model_types(config))
    kinds = {name: kind_of(name, shape, types) for name, shape in shapes.items()}
    if pattern is None:
        wanted = {
            name
            for name, kind in kinds.items()
            if kind is not Kind.EMBEDDING and (kind is not Kind.PARAMETER or _ROUTER.search(name))
        }
    else:
        wanted = set(_found(shapes, pattern))
        if not any(kinds[name] for name in wanted):
            held = f"only {some(sorted(wanted))}, no matrix" if wanted else "no tensor"
            raise InputError(
                f"target {show(pattern)}: finds {held}; expected a regular expression that finds a "
                f"part of names such as {some([n for n, kind in kinds.items() if kind])}"
            )
    return [
        Target(name, shapes[name], kind)
        for name, kind in kinds.items()
        if kind is not None and name in wanted
    ]


def _found(names: Iterable[str], pattern: str) -> Iterator[str]:
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise InputError(
            f"target {show(pattern)}: is no regular expression ({error}); expected one that finds "
            "a part of the names of tensors, such as 'self_attn|mlp'"
        ) from None
    return (name for name in names if compiled.search(name))


def _model_types(config: Mapping[str, Any]) -> Iterator[str]:
    for part in (config, *config.values()):
        if isinstance(part, dict) and isinstance(part.get("model_type"), str):
            yield part["model_type"]


def module_names(names: Iterable[str]) -> set[str]:
    """Return the modules of a model, by the names of its tensors, and these names themselves."""
    found: set[str] = set()
    for name in names:
        parts = name.split(".")
        found.update(".".join(parts[:n]) for n in range(1, len(parts) + 1))
    return found


def saved_whole(
    names: Iterable[str], known: Iterable[str], changed: Iterable[Target]
) -> tuple[list[str], list[str]]:
    """Tell which tensors PEFT can hold whole, beside the factors of others.

    It saves the bias of a layer that factors change. Otherwise it saves all of a module, in which
    nothing can be changed by factors.

    Args:
        names: The tensors to hold.
        known: All tensors of the model.
        changed: The tensors that factors change.

    Returns:
        The tensors to save, sorted: those that can be held, and the others of their modules. Then
        the tensors that cannot be held.

    >>> saved_whole(["norm.weight"], ["norm.bias", "norm.weight"], [Target("up.weight", (8, 4))])
    (['norm.bias', 'norm.weight'], [])
    """
    known, layers = list(known), list(changed)
    plain = {one.module for one in layers if not one.is_parameter}
    inside = {f"{one.module}." for one in layers}
    biases, modules, hopeless = set(), set(), []
    for name in names:
        module, _, last = name.rpartition(".")
        if last == "bias" and module in plain:
            biases.add(name)
        elif module and not any(one.startswith(f"{module}.") for one in inside):
            modules.add(f"{module}.")
        else:
            hopeless.append(name)
    saved = {name for name in known if any(name.startswith(module) for module in modules)}
    return sorted(biases | saved), hopeless
