"""The names of the tensors of PEFT's adapters: the module that is changed, and the piece it is."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final, NoReturn

from ...errors import InputError
from ...messages import show, some
from ..tensors import TensorInfo
from .kinds import kind_of_piece

PREFIX: Final = "base_model.model."

_PIECE: Final = re.compile(
    r"(?P<module>.+)\.(?P<piece>lora_embedding_[AB]|lora_[AB]|lora_magnitude_vector"
    r"|hada_[wt]\d(?:_[ab])?|lokr_[wt]\d(?:_[ab])?|trainable_tokens_delta)"
    r"(?:\.(?P<adapter>(?!(?:weight|bias)\Z)[^.]+))?(?:\.(?P<part>weight|bias))?\Z"
)
_SAVED: Final = re.compile(r"\.modules_to_save(?:\.default(?=\.)|\.[^.]+(?=\.[^.]+\Z))?(?=\.)")
_COPIES: Final = re.compile(r"\.original_module\.|\.trainable_tokens_original(?:\.|\Z)")
"""Copies of the model's own values, which some tools leave in the file."""

_WRAPPER: Final = re.compile(r"\.base_layer(?=\.|\Z)")
_INSIDE: Final = re.compile(r"\.base_layer\.(?!base_layer(?:\.|\Z))[^.]+")
_OF_TOKENS: Final = re.compile(r"\.token_adapter(?=\.|\Z)")


@dataclass
class Pieces:
    """The tensors of one changed module, by the names of the pieces: ``lora_A``, ``lora_B.bias``.

    A module whose parameters are changed one by one has a module within a module for each.
    """

    module: str
    """Without prefix and wrappers: ``model.layers.0.mlp.experts``."""
    depth: int = 0
    """The wrappers around the module itself."""
    tensors: dict[str, TensorInfo] = field(default_factory=dict)


@dataclass(frozen=True)
class Sorted:
    """The tensors of an adapter by what they are for."""

    modules: list[Pieces]
    """In the order in which the file names them, which is that of names."""
    whole: dict[str, TensorInfo]
    """The tensors that replace the model's, by the model's names."""


def sort_names(tensors: Iterable[TensorInfo]) -> Sorted:
    """Sort the tensors of an adapter of PEFT by their names.

    Args:
        tensors: The tensors of the file.

    Raises:
        InputError: The file has several adapters, or two tensors for one piece.
    """
    modules: dict[tuple[str, int], Pieces] = {}
    whole: dict[str, TensorInfo] = {}
    adapters: dict[str, TensorInfo] = {}
    for tensor in tensors:
        if _COPIES.search(tensor.name):
            continue
        name = tensor.name.removeprefix(PREFIX)
        found = _PIECE.match(name)
        if found is None:
            if kind := kind_of_piece(name):
                _refuse_piece(tensor, kind)
            plain = _SAVED.sub("", _WRAPPER.sub("", _OF_TOKENS.sub("", name)))
            _keep(whole, plain, tensor)
            continue
        if found["adapter"]:
            adapters[found["adapter"]] = tensor
            _refuse_several(adapters)
        if _INSIDE.search(found["module"]):
            raise InputError(
                f"{tensor.path}: tensor {show(tensor.name)} changes a part of a layer that another "
                "pair changes, torch's MultiheadAttention: PEFT up to 0.21 adds the change of its "
                "out_proj twice (PEFT's issue 3774), so that the file does not say the model; "
                "merge it with the PEFT that trained it (merge_and_unload)"
            )
        path, depth = _WRAPPER.subn("", _OF_TOKENS.sub("", found["module"]))
        key = (path, depth)
        piece = f"{found['piece']}.bias" if found["part"] == "bias" else found["piece"]
        _keep(modules.setdefault(key, Pieces(*key)).tensors, piece, tensor)
    return Sorted(list(modules.values()), whole)


def _refuse_several(adapters: dict[str, TensorInfo]) -> None:
    if len(adapters) > 1:
        last = next(reversed(adapters.values()))
        raise InputError(
            f"{last.path}: tensor {show(last.name)}: the file has adapters of several names "
            f"({some([*adapters])}), expected one; save each by itself (PEFT: save_pretrained with "
            "selected_adapters), or merge them into the model (PEFT: merge_and_unload)"
        )


def _refuse_piece(tensor: TensorInfo, kind: str) -> NoReturn:
    raise InputError(
        f"{tensor.path}: tensor {show(tensor.name)} is a piece of an adapter of another kind "
        f"({kind}), or of a variant that is not merged; merge it into its model first (PEFT: "
        "merge_and_unload)"
    )


def _keep(found: dict[str, TensorInfo], key: str, tensor: TensorInfo) -> None:
    other = found.setdefault(key, tensor)
    if other is not tensor:
        raise InputError(
            f"{tensor.path}: tensors {show(other.name)} and {show(tensor.name)} are both for "
            f"{show(key)}; save the adapter again (PEFT: save_pretrained), or merge it into its "
            "model (PEFT: merge_and_unload)"
        )
