"""The names of the tensors in adapters of kohya's scripts, diffusers and LyCORIS, taken apart."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from ...errors import InputError
from ...messages import show
from ..tensors import TensorInfo

_ADAPTER: Final = r"(?:\.(?!weight\Z|bias\Z)\w+)?"
_LORA: Final = re.compile(
    rf"(?P<module>.+)\.lora_(?P<piece>down|up|mid|A|B){_ADAPTER}(?:\.(?P<part>weight|bias))?\Z"
)
"""kohya's ``lora_down`` and ``lora_up``, and PEFT's ``lora_A`` and ``lora_B``."""

_OF_DIFFUSERS: Final = re.compile(
    r"(?P<module>.+)(?P<joint>[._])lora(?:_linear_layer)?\.(?P<piece>down|up)\.weight\Z"
)
"""``to_q_lora.down``, ``to_q.lora.down`` and ``q_proj.lora_linear_layer.down``."""

_OTHER: Final = re.compile(
    r"(?P<module>.+)\.(?P<piece>alpha|dora_scale|lora_magnitude_vector|diff|diff_b|w_norm|b_norm"
    r"|hada_[wt]\d(?:_[ab])?|lokr_[wt]\d(?:_[ab])?)"
    rf"{_ADAPTER}(?:\.weight)?\Z"
)
_PIECES: Final = {"down": "A", "up": "B"}

_OLD_OF_TEXT: Final = {
    "to_q": "q_proj",
    "to_k": "k_proj",
    "to_v": "v_proj",
    "to_out": "out_proj",
}
"""The modules of a text encoder's attention, as old files of diffusers call them."""

_EMBEDDINGS: Final = re.compile(r"(?:bundle_emb\.|emb_params\Z|clip_[lg]\Z|text_encoders_\d+\Z)")
"""Trained embeddings of new tokens, which lie beside the factors in some files."""


@dataclass
class Module:
    """The tensors of one changed module, by their pieces."""

    name: str
    """As the file has it: ``lora_unet_mid_block_attentions_0_proj_in``, ``unet.conv_in``."""
    pieces: dict[str, TensorInfo] = field(default_factory=dict)
    """``A``, ``B``, ``mid``, ``B.bias``, ``alpha``, ``magnitude``, ``hada_w1_a`` and the like."""


@dataclass(frozen=True)
class Sorted:
    """The tensors of a file by what they are for."""

    modules: list[Module]
    """In the order of the file's names."""
    unknown: list[TensorInfo]
    embeddings: list[TensorInfo]
    """Embeddings of new tokens, which are no weights of a model."""


def sort_names(tensors: Iterable[TensorInfo]) -> Sorted:
    """Sort the tensors of an adapter by module and piece.

    Args:
        tensors: The tensors of the file.

    Raises:
        InputError: Two tensors are the same piece of a module.
    """
    modules: dict[str, Module] = {}
    unknown: list[TensorInfo] = []
    embeddings: list[TensorInfo] = []
    for tensor in tensors:
        found = take_apart(tensor.name)
        if found is None:
            is_new = _EMBEDDINGS.match(tensor.name) is not None
            (embeddings if is_new else unknown).append(tensor)
            continue
        name, piece = found
        pieces = modules.setdefault(name, Module(name)).pieces
        if piece in pieces:
            raise InputError(
                f"{tensor.path}: tensors {show(pieces[piece].name)} and {show(tensor.name)} are "
                "the same piece of one module, expected one adapter in a file; save one of them "
                "alone, or merge them where they load (diffusers: fuse_lora; PEFT: "
                "merge_and_unload)"
            )
        pieces[piece] = tensor
    return Sorted([*modules.values()], unknown, embeddings)


def take_apart(name: str) -> tuple[str, str] | None:
    """Return the module and the piece that a tensor is; None for a name of another kind.

    >>> take_apart("lora_unet_conv_in.lora_down.weight")
    ('lora_unet_conv_in', 'A')
    >>> take_apart("unet.mid_block.attn1.processor.to_out_lora.up.weight")
    ('unet.mid_block.attn1.to_out.0', 'B')
    """
    plain = name.replace(".processor.", ".")
    if found := _LORA.match(plain):
        piece = _PIECES.get(found["piece"], found["piece"])
        if found["part"] == "bias":
            return (found["module"], f"{piece}.bias") if piece == "B" else None
        return _module(found["module"]), piece
    if found := _OF_DIFFUSERS.match(plain):
        return _module(found["module"], old=found["joint"] == "_"), _PIECES[found["piece"]]
    if found := _OTHER.match(plain):
        piece = found["piece"]
        if piece == "lora_magnitude_vector":
            return _module(found["module"], old=True), "magnitude"
        return _module(found["module"].removesuffix("_lora")), piece
    return None


def _module(name: str, *, old: bool = False) -> str:
    """Return a module's name; old files of diffusers have others for those of the attention."""
    if not old:
        return name
    parent, _, last = name.rpartition(".")
    if last in _OLD_OF_TEXT and ".self_attn" in f".{parent}":
        return f"{parent}.{_OLD_OF_TEXT[last]}"
    return f"{name}.0" if last == "to_out" else name
