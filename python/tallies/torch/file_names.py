"""The tensors of a transformers model under the names, and in the pieces, that its files have.

Version 5 of transformers holds some models in other tensors than their files do, such as the
experts of a mixture, which are one tensor a layer. It knows how to take them apart for saving.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

_COPIES = (torch.Tensor.contiguous, torch.Tensor.clone)


class _WithoutCopies(TorchFunctionMode):
    """Makes of a saver's copies the views that it takes them of."""

    def __torch_function__(
        self,
        function: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        if function in _COPIES:
            return args[0]
        return function(*args, **(kwargs or {}))


def as_in_files(
    model: torch.nn.Module, own: Mapping[str, torch.Tensor]
) -> dict[str, torch.Tensor] | None:
    """Return a model's tensors as its files name and divide them, as views of the model's memory.

    Args:
        model: The model.
        own: Its tensors by the names of its state dict.

    Returns:
        Views by the names of files; None where the model is none of transformers, or where its
        files hold something else than pieces of its tensors.
    """
    revert = _saver(model)
    if revert is None:
        return None
    tensors = {name: tensor.detach() for name, tensor in own.items()}
    try:
        with torch.no_grad(), _WithoutCopies():
            views: dict[str, torch.Tensor] = revert(model, tensors)
    except Exception:  # whatever a strange model makes of it: its names do not fit then
        return None
    places = {tensor.untyped_storage().data_ptr() for tensor in tensors.values()}
    if any(view.untyped_storage().data_ptr() not in places for view in views.values()):
        return None
    whole, parts = (sum(one.numel() for one in of.values()) for of in (tensors, views))
    return views if whole == parts else None


def _saver(model: torch.nn.Module) -> Callable[..., Any] | None:
    """Return transformers' function that takes a state dict apart; None for other models."""
    modeling = sys.modules.get("transformers.modeling_utils")
    if modeling is None or not isinstance(model, modeling.PreTrainedModel):
        return None
    loading = sys.modules.get("transformers.core_model_loading")
    return getattr(loading, "revert_weight_conversion", None)
