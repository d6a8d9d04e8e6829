"""The tensors of a model that a switcher writes, and what they must be."""

from __future__ import annotations

import torch

from ..engine.arrays import new_array
from ..errors import InputError
from ..messages import show


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
    return {name: own[name] for name in names}


def refuse_unwritable(name: str, tensor: torch.Tensor, dtype: str, shape: tuple[int, ...]) -> None:
    """Raise InputError unless a tensor can be written as it is in the store.

    Args:
        name: The name of the tensor.
        tensor: The tensor of the model.
        dtype: The dtype of the store's tensor.
        shape: The shape of the store's tensor.
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
    if tensor.layout != torch.strided or not tensor.is_contiguous():
        raise InputError(
            f"model: tensor {show(name)} is not contiguous in memory; replace it by its "
            "contiguous()"
        )
