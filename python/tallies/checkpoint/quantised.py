"""Refuse quantised models of kinds whose values are not read."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

from ..errors import InputError
from ..messages import show
from ..spec.dtypes import FLOAT8
from .checkpoint import Checkpoint
from .json_text import is_object
from .tensors import TensorInfo

_QUANTISED: Final = {
    "bitsandbytes": re.compile(
        r"\.(?:SCB|weight_format|(?:nested_)?(?:absmax|quant_map)|quant_state\.\w+)\Z"
    ),
    "GPTQ or AWQ": re.compile(r"\.(?:qweight|qzeros)\Z"),
    "compressed-tensors": re.compile(r"\.weight_packed\Z"),
    "HQQ": re.compile(r"\.W_q\Z"),
    "AQLM": re.compile(r"\.codebooks\Z"),
}

_ANY: Final = re.compile("|".join(one.pattern for one in _QUANTISED.values()))
"""One search for the many names that no tool gives."""

_PACKED: Final = ("I8", "U8", "U32")

_TOOLS: Final = {
    "_scales": "MXFP4",
    ".scales": "MLX",
    ".SCB": "bitsandbytes",
}
"""Ends of the names of scales, and whose they are."""

_DEQUANTISE: Final = {
    "bitsandbytes": "transformers' model.dequantize() and save_pretrained",
    "mxfp4": "transformers' Mxfp4Config(dequantize=True) and save_pretrained",
    "compressed-tensors": "transformers' CompressedTensorsConfig(dequantize=True) and "
    "save_pretrained",
    "mlx": "mlx_lm.convert --dequantize",
}
"""By the beginning of a tool's name, what turns its weights into plain ones."""

_KEYS: Final = ("quantization_config", "compression_config")

_READ: Final = ("fp8", "fbgemm_fp8", "compressed-tensors", "modelopt")
"""Methods of quantisation that may mean no more than float8 tensors with scales that are read."""


def refuse_other_scales(checkpoint: Checkpoint) -> None:
    """Raise ``InputError`` if a float8 tensor has a scale of a kind that is not read.

    ``checkpoint`` has been given the scales that are read. Float8 tensors whose values stand for
    themselves pass.
    """
    for name, tensor in checkpoint.tensors.items():
        if tensor.dtype in FLOAT8 and tensor.scale is None:
            scale = _scale_of(name, checkpoint.tensors)
            if scale:
                raise InputError(
                    f"{tensor.path}: tensor {show(name)} is {tensor.dtype} with a scale tensor "
                    f"{show(scale)}; scales of this name are not supported; dequantise the "
                    "checkpoint to BF16 first"
                )


def refuse_quantised(checkpoint: Checkpoint) -> None:
    """Raise ``InputError`` if the weights are quantised (bitsandbytes, GPTQ, AWQ, MXFP4 ...).

    Told by config.json and by the names and dtypes these tools give their tensors. Float8 tensors
    that have been given their scales pass.
    """
    for part in checkpoint.by_part():
        _refuse_configured(part)
    for name, tensor in checkpoint.tensors.items():
        if _ANY.search(name):
            tool = next(tool for tool, pattern in _QUANTISED.items() if pattern.search(name))
            raise InputError(
                f"{tensor.path}: tensor {show(name)} was written by {tool}; {_way_out(tool)}"
            )
        if tensor.dtype in _PACKED and (scale := _scale_of(name, checkpoint.tensors)):
            tool = next((tool for end, tool in _TOOLS.items() if scale.endswith(end)), "")
            raise InputError(
                f"{tensor.path}: tensor {show(name)} is {tensor.dtype} with the scale tensor "
                f"{show(scale)}{f', as {tool} writes them' if tool else ''}; {_way_out(tool)}"
            )


def _refuse_configured(checkpoint: Checkpoint) -> None:
    """Refuse a part whose config.json declares a quantisation that is not read."""
    config = checkpoint.config()
    methods = _methods(config)
    is_read = bool(checkpoint.left_out) and methods <= set(_READ)
    if (configured := quantisation(config)) and not is_read:
        raise InputError(
            f"{checkpoint.path / 'config.json'}: has a {configured}; "
            f"{_way_out(next(iter(methods)))}, or remove the key if the weights are no longer "
            "quantised"
        )


def _way_out(tool: str) -> str:
    """Say what to do with weights that a tool, or a method of config.json, quantised."""
    how = next((how for name, how in _DEQUANTISE.items() if tool.lower().startswith(name)), "")
    return (
        "quantised weights cannot be merged; merge the original (bf16, fp16, fp32) checkpoint"
        + (f", or one that {how} made" if how else "")
    )


def quantisation(config: Mapping[str, Any]) -> str | None:
    """Return the key by which config.json, or a part of it, declares quantised weights."""
    for key, found in _declarations(config):
        return f"{key} ({show(_method(found))})"
    return None


def without_quantisation(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a config.json, and its parts, without the keys that declare quantised weights."""
    return {
        key: without_quantisation(value) if is_object(value) else value
        for key, value in config.items()
        if key not in _KEYS
    }


def _methods(config: Mapping[str, Any]) -> set[str]:
    return {str(_method(found)) for _, found in _declarations(config)}


def _method(declared: object) -> object:
    return declared.get("quant_method") if is_object(declared) else declared


def _declarations(config: Mapping[str, Any]) -> Iterator[tuple[str, object]]:
    for part in (config, *filter(is_object, config.values())):
        for key in _KEYS:
            if found := part.get(key):
                yield key, found


def _scale_of(name: str, tensors: Mapping[str, TensorInfo]) -> str | None:
    """Find the scale of a tensor, as DeepSeek, vLLM, ModelOpt, ComfyUI and MXFP4 name it."""
    names = [name + suffix for suffix in ("_scale", "_scale_inv")]
    names.append(name.removesuffix("_blocks") + "_scales")
    if name.endswith(".weight"):
        module = name.removesuffix("weight")
        names += [module + suffix for suffix in ("scale", "scales", "scale_weight", "input_scale")]
    return next((scale for scale in names if scale in tensors), None)
