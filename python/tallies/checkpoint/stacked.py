"""Give tensors of several models the names that they have in a stack of layers."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, TypeAlias

from ..errors import InputError
from .checkpoint import Checkpoint
from .tensors import TensorInfo

_FIRST: Final = re.compile(
    r"(?:\A|[./_])(?:embed(?!_out)|emb(?:_|d|\b)|embeddings?|tok_embeddings|wte|wpe|rotary|relative_pe|"
    r"positional|class_embedding|patch|conv[12]\b|ln_pre|layernorm_pre|position_ids|inv_freq|shared\b)"
    r"|_embeddings?\b|pos_embed"
)


def is_before_layers(name: str) -> bool:
    """Tell if a tensor outside the layers works before the first of them, as embeddings do.

    Norms behind the last layer and output heads do not.

    >>> is_before_layers("model.embed_tokens.weight"), is_before_layers("model.norm.weight")
    (True, False)
    """
    return _FIRST.search(name) is not None


@dataclass(frozen=True)
class LayerOf:
    """A layer of a stack: the number that it has in a model, and that model's configuration."""

    config: Mapping[str, Any]
    number: int


LayersOf: TypeAlias = tuple[str, str, Sequence[LayerOf]]
"""The layers that a part of config.json counts: its key, that of the number, and the layers."""


def stacked(checkpoint: Checkpoint, names: Mapping[str, str]) -> Checkpoint:
    """Return the part of a checkpoint that a stack takes, under the stack's names.

    Args:
        checkpoint: The model.
        names: The model's own names by those in the stack.
    """
    return with_tensors(checkpoint, {new: checkpoint.tensors[own] for new, own in names.items()})


def with_tensors(checkpoint: Checkpoint, tensors: Mapping[str, TensorInfo]) -> Checkpoint:
    """Return a checkpoint with other tensors, in the order of their names."""
    return replace(checkpoint, tensors=dict(sorted(tensors.items())))


_NUMBERS: Final = frozenset(
    {"mlp_only_layers", "cross_attention_layers", "attn_layer_indices", "full_attn_idxs"}
)
"""Keys whose lists name layers by their numbers."""


def with_layers(config: Mapping[str, Any], key: str, layers: Sequence[LayerOf]) -> dict[str, Any]:
    """Return a configuration, or a nested one, that tells of the layers of a stack.

    The number of layers becomes theirs, and so do lists with as many items as the model has
    layers: each layer has the item of the model that it was taken from.

    Args:
        config: The configuration of the model whose files the result gets.
        key: The key of the number of layers.
        layers: The layers in their order.

    Raises:
        InputError: The configuration states the kind of each layer, and that of one is not known.
    """
    found = dict(config)
    found[key] = len(layers)
    for name, value in config.items():
        if isinstance(value, list) and name in _NUMBERS:
            found[name] = [
                at for at, one in enumerate(layers) if one.number in _list(one.config, name)
            ]
        elif isinstance(value, list) and len(value) == config[key]:
            items = [_list(one.config, name)[one.number : one.number + 1] for one in layers]
            if all(items):
                found[name] = [item for (item,) in items]
            elif all(item == value[0] for item in value):
                found[name] = value[:1] * len(layers)
            elif name == "layer_types":
                raise InputError(
                    f"{name}: the configuration beside the result has a kind for each of "
                    f"{len(value)} layers, and a model of the slices states none; take the files "
                    "of a model that has one for each layer (--files-from), or add the key to "
                    "that model's config.json"
                )
    return found


def _list(config: Mapping[str, Any], name: str) -> list[Any]:
    value = config.get(name)
    return value if isinstance(value, list) else []
