"""Finds the stack of layers that a module of a recipe means, and the tensors beside the stack."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any, Final

from ..checkpoint.checkpoint import Checkpoint
from ..checkpoint.json_text import is_object
from ..checkpoint.tied import is_embedding, is_head
from ..errors import InputError
from ..messages import show, some
from ..recipe.layers import Layers

_OUTSIDE: Final = "default"
"""mergekit's module of all tensors outside of layers, for models that it has no description of."""

_COUNTS: Final = ("num_hidden_layers", "n_layer", "num_layers", "n_layers")

_VISION: Final = r"(?:vision|visual|image|vit)"
_WORDS: Final[Mapping[str, str]] = {
    "text": r"(?:language_model|text_model|text|llm)",
    "language": r"(?:language_model|text_model|text|llm)",
    "vision": _VISION,
    "visual": _VISION,
    "encoder": r"encoder",
    "decoder": r"decoder",
}
"""Words in the names of modules, and the components of tensors' names that they mean."""

_NESTED: Final[Mapping[str, tuple[str, ...]]] = {
    "text": ("text_config", "llm_config"),
    "vision": ("vision_config",),
}
_KEYS: Final[Mapping[str, tuple[str, ...]]] = {
    "encoder": ("encoder_layers", "num_layers", *_COUNTS),
    "decoder": ("decoder_layers", "num_decoder_layers"),
    "vision": ("depth", *_COUNTS),
}


@dataclass(frozen=True)
class Part:
    """A module: the stack of layers that it has, if any, and how config.json tells of it."""

    name: str
    stack: str
    """The beginning of its layers' names, such as ``model.layers.``; empty without layers."""
    kind: str = "text"
    """``text``, ``vision``, ``encoder`` or ``decoder``."""

    def place(self, config: Mapping[str, Any]) -> tuple[str, str] | None:
        """Return the nested configuration, and the key, of the number of layers; None without."""
        for nested in (*_NESTED.get(self.kind, ()), ""):
            held = config.get(nested) if nested else config
            for key in _KEYS.get(self.kind, _COUNTS):
                if is_object(held) and type(held.get(key)) is int:
                    return nested, key
        return None

    def config(self, checkpoint: Checkpoint) -> Mapping[str, Any]:
        """Return the part of a model's configuration that counts the layers, or all of it."""
        config = checkpoint.config()
        place = self.place(config)
        held = config[place[0]] if place and place[0] else config
        assert isinstance(held, dict)
        return held


def parts_of(layers: Layers, checkpoint: Checkpoint, names: Sequence[str]) -> dict[str, Part]:
    """Return the parts of a model by the names that a recipe has for them.

    Args:
        layers: The layers in the names of the model's tensors.
        checkpoint: The model.
        names: The modules of the recipe; none where it has ``slices`` alone.

    Raises:
        InputError: The model has no layers, or several stacks of which none is the module's.
    """
    stacks = layers.stacks()
    if not names:
        return {"": Part("", _only(stacks, checkpoint))}
    return {name: _named(name, stacks) for name in names}


def owner(name: str, parts: Mapping[str, Part]) -> str:
    """Return the module that a tensor outside of the layers belongs to.

    It is the one whose stack is nearest in the tree of names; embeddings and heads over a
    vocabulary belong to the text. A module without layers has what is near to none.
    """
    if len(parts) == 1:
        return next(iter(parts))
    shared = {key: _kinship(name, part.stack) for key, part in parts.items() if part.stack}
    bare = [key for key, part in parts.items() if not part.stack]
    if _OUTSIDE in bare:
        return _OUTSIDE
    for key in bare:
        if name.startswith(key) or f".{key}." in name:
            return key
    nearest = max(shared, key=shared.__getitem__)
    if shared[nearest] and list(shared.values()).count(shared[nearest]) == 1:
        return nearest
    if bare and not (is_head(name) or is_embedding(name)):
        return bare[0]
    texts = [key for key, part in parts.items() if part.kind in ("text", "decoder")]
    return (texts or [nearest])[0]


def _only(stacks: Mapping[str, int], checkpoint: Checkpoint) -> str:
    """Return the stack of a model, or that with the number of layers that config.json states."""
    if not stacks:
        raise InputError(
            f"slices: {checkpoint.path}: no layers found in the names of its tensors; list whole "
            "models under 'models'"
        )
    if len(stacks) == 1:
        return next(iter(stacks))
    config = checkpoint.config()
    place = Part("", "").place(config)
    stated = (config[place[0]] if place[0] else config)[place[1]] if place else None
    texts = [one for one in stacks if not re.search(_VISION, one)]
    found = [one for one in texts if stacks[one] == stated]
    halves = [
        any(word in re.split("[._]", one) for one in texts) for word in ("encoder", "decoder")
    ]
    if len(found) != 1 or all(halves):
        raise InputError(
            f"slices: {checkpoint.path} has several stacks of layers ({some([*stacks])}); say "
            "which is meant: 'modules: {text_decoder: {slices: [...]}, vision_tower: {models: "
            "[...]}}', or encoder and decoder"
        )
    return found[0]


def _named(name: str, stacks: Mapping[str, int]) -> Part:
    if (same := next((one for one in stacks if one.rstrip(".") == name), None)) is not None:
        return Part(name, same, "vision" if re.search(_VISION, name) else "text")
    for word in re.split("[._]", name.lower()):
        pattern = _WORDS.get(word)
        if pattern is None:
            continue
        kind = {"language": "text", "visual": "vision"}.get(word, word)
        found = [one for one in stacks if re.search(rf"(?:\A|[._]){pattern}(?:[._]|\Z)", one)]
        if kind == "text":
            found = [one for one in found if not re.search(_VISION, one)]
            found = found or [one for one in stacks if not re.search(_VISION, one)]
        if len(found) == 1:
            return Part(name, found[0], kind)
        if len(found) > 1:
            raise InputError(f"modules: {show(name)}: may mean each of {some(found)}")
    return Part(name, "")


def _kinship(name: str, stack: str) -> int:
    """Return how many leading components a name shares with a stack."""
    pairs = zip(name.split("."), stack.split("."), strict=False)
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
