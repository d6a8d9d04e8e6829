"""Float8 tensors that stand for their values times a scale, and the scales that belong to them.

A tensor ``NAME`` of float8 has its scale in ``NAME_scale_inv`` (DeepSeek, transformers) or
``NAME_scale`` (compressed-tensors, vLLM, FBGEMM), in any shard. The scale has one factor for the
tensor, for each row or column, or for each block of 128 rows and 128 columns or of the size that
config.json states, and multiplies in both spellings. Such a tensor is read as float32 value times
scale. Its result is no longer quantised: the tensor gets the dtype that config.json names
(``dtype`` or ``torch_dtype``), bfloat16 where config.json names none; the scale is not copied, the
factors of activations (``input_scale`` and the like) are not copied, and config.json loses its
``quantization_config``.

A float8 tensor without a scale stands for its values, unless another one has a scale or
config.json declares the model quantised.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

from ..errors import InputError
from ..messages import counted, either, show
from ..spec.dtypes import FLOAT8, named
from .checkpoint import Checkpoint
from .json_text import is_object
from .quantised import quantisation
from .tensors import Scale, TensorInfo

SUFFIXES: Final = ("_scale_inv", "_scale")
"""The ends of a scale's name, after the name of its tensor."""

_SCALE_DTYPES: Final = ("F32", "BF16", "F16")
"""The dtypes of scales, and of decoded tensors."""

_USUAL_BLOCK: Final = 128
"""Rows and columns of a block where config.json does not say."""

_ACTIVATIONS: Final = re.compile(
    r"(?:\A|[._])(?:input_scale|input_scale_ub|activation_scale|output_scale)\Z"
)
"""Factors for what a layer is given or gives, not for its weights."""

_DEQUANTISE: Final = "convert the checkpoint to BF16 first, or download it again"


def with_scales(checkpoint: Checkpoint) -> Checkpoint:
    """Give every scaled float8 tensor of a checkpoint its scale.

    Args:
        checkpoint: The tensors as the files have them.

    Returns:
        The checkpoint with ``TensorInfo.scale`` set, and without the scales as tensors of their
        own; the same checkpoint if nothing in it is scaled.

    Raises:
        InputError: For a scale of a wrong shape or dtype, a scale without its tensor, a float8
            tensor that lacks a scale, and a tensor with two scales.
    """
    found = list(map(_with_scales, checkpoint.by_part()))
    if not any(one.left_out for one in found):
        return checkpoint
    tensors = {name: tensor for one in found for name, tensor in one.tensors.items()}
    left_out = sorted(name for one in found for name in one.left_out)
    return replace(checkpoint, tensors=dict(sorted(tensors.items())), left_out=tuple(left_out))


def _with_scales(checkpoint: Checkpoint) -> Checkpoint:
    """Give the float8 tensors of a part their scales, as the part's config.json has them."""
    tensors = checkpoint.tensors
    scales = {
        name: found
        for name, tensor in tensors.items()
        if tensor.dtype in FLOAT8 and (found := _scale_of(tensor, tensors))
    }
    config = checkpoint.config()
    declared = quantisation(config)
    _refuse_strays(checkpoint, scales, declared)
    if not scales:
        return checkpoint
    blocks = _blocks(config)
    decoded = _decoded_dtype(config)
    taken = set(scales.values())
    left_out = {name for name in tensors if name in taken or _ACTIVATIONS.search(name)}
    scaled = {
        name: (
            replace(tensor, scale=_scale(tensor, tensors[scales[name]], blocks, decoded))
            if name in scales
            else tensor
        )
        for name, tensor in tensors.items()
        if name not in left_out
    }
    return replace(checkpoint, tensors=scaled, left_out=tuple(sorted(left_out)))


def is_scaled(checkpoint: Checkpoint) -> bool:
    """Tell if a checkpoint has tensors with scales."""
    return any(tensor.scale is not None for tensor in checkpoint.tensors.values())


def scaled_warning(checkpoint: Checkpoint) -> str:
    """Say of a checkpoint with scales what its result is."""
    n_scaled = sum(tensor.scale is not None for tensor in checkpoint.tensors.values())
    n_factors = len(checkpoint.left_out)
    return (
        f"{checkpoint.path}: reads {counted(n_scaled, 'float8 tensor')} as value times scale; the "
        f"result is not quantised and leaves out {counted(n_factors, 'tensor')} of factors"
    )


def _scale_of(tensor: TensorInfo, tensors: Mapping[str, TensorInfo]) -> str | None:
    """Find the name of a tensor's scale."""
    found = [name for suffix in SUFFIXES if (name := tensor.name + suffix) in tensors]
    if len(found) > 1:
        raise InputError(
            f"{tensor.path}: tensor {show(tensor.name)} has two scales, {show(found[0])} and "
            f"{show(found[1])}, expected one; {_DEQUANTISE}"
        )
    return found[0] if found else None


def _refuse_strays(checkpoint: Checkpoint, scales: Mapping[str, str], declared: str | None) -> None:
    """Refuse float8 tensors without scales, and scales without tensors, in a scaled model."""
    if not scales and not declared:
        return
    tensors = checkpoint.tensors
    taken = set(scales.values())
    for name, tensor in tensors.items():
        owner = _owner(name)
        if tensor.dtype in FLOAT8 and name not in scales and owner not in tensors:
            why = declared or f"scale {show(next(iter(taken)))}"
            raise InputError(
                f"{tensor.path}: tensor {show(name)} is {tensor.dtype} without a scale in a model "
                f"with a {why}, expected {show(name + SUFFIXES[0])} or {show(name + SUFFIXES[1])}; "
                f"{_DEQUANTISE}"
            )
        if scales and owner and owner.endswith("weight") and name not in taken:
            found = tensors.get(owner)
            what = f"is {found.dtype}, expected float8" if found else "is absent"
            raise InputError(
                f"{tensor.path}: tensor {show(name)} is the scale of {show(owner)}, which "
                f"{what}; {_DEQUANTISE}"
            )


def _owner(name: str) -> str | None:
    """Return the name of the tensor whose scale would go by this name."""
    for suffix in SUFFIXES:
        if name.endswith(suffix):
            return name.removesuffix(suffix)
    return None


def _scale(
    tensor: TensorInfo, scale: TensorInfo, blocks: tuple[int, int] | None, decoded: str
) -> Scale:
    """Say which elements of a tensor share a factor; InputError where the shapes do not fit."""
    if scale.dtype not in _SCALE_DTYPES:
        raise InputError(
            f"{scale.path}: tensor {show(scale.name)} is {scale.dtype}, expected a scale of "
            f"{either(_SCALE_DTYPES)}; {_DEQUANTISE}"
        )
    columns = tensor.shape[-1] if tensor.shape else 1
    rows = tensor.shape[-2] if len(tensor.shape) > 1 else 1
    if scale.n_elements == 1 and len(scale.shape) < 2:
        n_rows = tensor.n_elements // columns if columns else 1
        return Scale(scale, max(n_rows, 1), max(columns, 1), decoded)
    size = blocks or (_USUAL_BLOCK, _USUAL_BLOCK)
    grid = _grid(tensor.shape, scale.shape)
    block = _block((rows, columns), grid, size) if grid else None
    # Blocks must not reach from one matrix of a stack into the next.
    if block and (len(tensor.shape) < 3 or rows % block[0] == 0):
        return Scale(scale, *block, decoded)
    raise InputError(
        f"{scale.path}: tensor {show(scale.name)} has shape {list(scale.shape)}, which does not "
        f"fit {show(tensor.name)} of shape {list(tensor.shape)}; expected one factor, one for each "
        f"row or column, or one for each block of {size[0]} x {size[1]}; state the block size as "
        "quantization_config.weight_block_size in config.json, beside the quant_method 'fp8', or "
        f"{_DEQUANTISE}"
    )


def _grid(shape: tuple[int, ...], scale: tuple[int, ...]) -> tuple[int, int] | None:
    """Count the blocks of a matrix along its rows and its columns; None where ranks differ."""
    if len(shape) > 1 and len(scale) == len(shape) and scale[:-2] == shape[:-2]:
        return scale[-2], scale[-1]
    if len(shape) == 2 and scale == shape[:1]:
        return scale[0], 1
    return None


def _block(
    matrix: tuple[int, int], grid: tuple[int, int], size: tuple[int, int]
) -> tuple[int, int] | None:
    """Return the block of which a grid covers a matrix; None if there is none.

    A block is the matrix, a row, a column or of the size that config.json states, in this order.
    """
    rows, columns = matrix
    for height, width in (matrix, (1, columns), (rows, 1), size):
        block = max(min(height, rows), 1), max(min(width, columns), 1)
        if grid == (-(-rows // block[0]), -(-columns // block[1])):
            return block
    return None


def _blocks(config: Mapping[str, Any]) -> tuple[int, int] | None:
    """Return the rows and columns of a block, as config.json states them.

    A ``group_size`` of compressed-tensors is a block of one row.
    """
    for part in (config, *filter(is_object, config.values())):
        for key in ("quantization_config", "compression_config"):
            found = part.get(key)
            if is_object(found):
                groups = found.get("config_groups")
                weights = [
                    group.get("weights")
                    for group in (groups.values() if is_object(groups) else ())
                    if is_object(group)
                ]
                sizes = [found.get("weight_block_size")]
                for one in filter(is_object, weights):
                    sizes += [one.get("block_structure"), [1, one.get("group_size")]]
                for size in sizes:
                    if (
                        isinstance(size, list)
                        and len(size) == 2
                        and all(type(n) is int and n > 0 for n in size)
                    ):
                        return size[0], size[1]
    return None


def _decoded_dtype(config: Mapping[str, Any]) -> str:
    """Return the dtype that config.json, or a part of it, names for weights; bfloat16 without."""
    for part in (config, *filter(is_object, config.values())):
        for key in ("dtype", "torch_dtype"):
            found = named(str(part.get(key)))
            if found in _SCALE_DTYPES:
                return found
    return "BF16"
