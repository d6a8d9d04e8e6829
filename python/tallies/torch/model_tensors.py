"""The tensors of a model that a switcher writes, and what they must be."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final, TypeAlias

import torch

from ..checkpoint.buffers import is_buffer
from ..checkpoint.prefixes import find_renaming
from ..engine.arrays import new_array
from ..engine.odd_tensors import odd_kind
from ..errors import InputError
from ..messages import show
from ..store.opened import Store
from .file_names import as_in_files

Places: TypeAlias = tuple[tuple[int, torch.Size], ...]
"""Addresses and shapes of a model's tensors."""

WRAPPERS: Final = ("_orig_mod.", "module.")
"""The names that torch.compile and wrappers of distributed training put in front of a model's."""

_BUILD: Final = "build the model that the base was saved from"

_EXPERT: Final = re.compile(r"\.experts\.\d+\.")


def own_tensors(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Return parameters and buffers themselves, by the names of the state dict."""
    own: dict[str, torch.Tensor] = dict(model.named_parameters(remove_duplicate=False))
    own |= dict(model.named_buffers(remove_duplicate=False))
    names = list(model.state_dict())
    for name in names:
        if name not in own:
            raise InputError(
                f"model: its state dict has {show(name)}, which is no parameter or buffer of it; "
                "expected the names of its parameters and buffers; remove the hook"
            )
    for name in names:
        odd = odd_kind(own[name])
        if odd is not None and not own[name].is_meta:
            raise InputError(
                f"model: tensor {show(name)} is {odd[0]}, expected a dense tensor; {odd[1]}"
            )
    return {name: own[name] for name in names}


class StoreNames:
    """Finds the tensors of a model by the names of a store.

    Args:
        store: The store.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._found: tuple[Places, dict[str, torch.Tensor]] | None = None
        self.are_pieces = False
        """True if the tensors that were found last are pieces of the model's own."""

    def of(self, model: torch.nn.Module) -> dict[str, torch.Tensor]:
        """Return a model's tensors by the names of the store, and others by their own.

        The model may lack buffers of the store. Views of parts of its tensors stand for them where
        its files have the parts.

        Raises:
            InputError: The model lacks a tensor of the store.
        """
        own = own_tensors(model)
        known = [
            name
            for name, tensor in self._store.manifest.tensors.items()
            if not is_buffer(name, tensor.shape)
        ]
        self.are_pieces = not all(name in own for name in known)
        if not self.are_pieces:
            return own
        places = tuple((tensor.data_ptr(), tensor.shape) for tensor in own.values())
        if self._found is None or self._found[0] != places:
            views = as_in_files(model, own)
            if views is None or any(name not in views for name in known):
                raise self._refusal(own, views)
            self._found = places, views
        return self._found[1]

    def _refusal(
        self, own: Mapping[str, torch.Tensor], views: Mapping[str, torch.Tensor] | None
    ) -> InputError:
        known = self._store.manifest.tensors
        shapes = {name: tuple(tensor.shape) for name, tensor in known.items()}
        found = find_renaming({name: tuple(one.shape) for name, one in own.items()}, shapes)
        for old, new in () if found is None else found.rules.items():
            if old.endswith(new) or new.endswith(old) or new.startswith(old):
                inside = f"give the module inside: model.{old[:-1]}"
                way_out = inside if old in WRAPPERS else _BUILD
                return InputError(
                    f"model: names differ from those of {self._store.path} by a prefix, {old!r} "
                    f"here and {new!r} there; {way_out}"
                )
        name = next(one for one in known if one not in (own if views is None else views))
        return InputError(
            f"model: lacks tensor {show(name)}, which {self._store.path} has; "
            f"{_BUILD}{_stacked(name, own)}"
        )


def _stacked(name: str, own: Mapping[str, torch.Tensor]) -> str:
    """Word the cause where a model has one tensor for all experts of a layer."""
    parts = _EXPERT.split(name)
    if len(parts) != 2 or not any(".experts." in one and not _EXPERT.search(one) for one in own):
        return ""
    return (
        "; the model has one tensor for the experts of a layer, and the store one for each: a "
        "model of transformers 5 or newer is taken apart as transformers saves it"
    )


def refuse_unwritable(
    name: str,
    tensor: torch.Tensor,
    dtype: str,
    shape: tuple[int, ...],
    *,
    is_piece: bool = False,
) -> None:
    """Raise InputError unless a tensor can be written as it is in the store.

    Args:
        name: The name of the tensor.
        tensor: The tensor of the model.
        dtype: The dtype of the store's tensor.
        shape: The shape of the store's tensor.
        is_piece: The tensor is a piece of one of the model's, which may have gaps.
    """
    if tensor.device.type not in ("cpu", "cuda"):
        raise InputError(
            f"model: tensor {show(name)} is on device {tensor.device}, expected the CPU or a CUDA "
            "device; move the model to the CPU"
        )
    like: torch.Tensor = new_array(name, dtype, (0,), "torch")[0]
    if tensor.dtype != like.dtype or tuple(tensor.shape) != shape:
        raise InputError(
            f"model: tensor {show(name)} is {tensor.dtype} {list(tensor.shape)}, expected "
            f"{like.dtype} {list(shape)} as in the store; convert the model"
        )
    if tensor.layout != torch.strided or not (is_piece or tensor.is_contiguous()):
        raise InputError(
            f"model: tensor {show(name)} is not contiguous in memory; replace it by its "
            "contiguous()"
        )
