"""What is refused of quantised models: values that stand for others."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from ..errors import InputError
from ..messages import show
from .checkpoint import Checkpoint
from .json_text import is_object
from .safetensors import TensorInfo

_QUANTISED: Final = {
    "bitsandbytes": re.compile(
        r"\.(?:SCB|weight_format|(?:nested_)?(?:absmax|quant_map)|quant_state\.\w+)\Z"
    ),
    "GPTQ or AWQ": re.compile(r"\.(?:qweight|qzeros)\Z"),
    "compressed-tensors": re.compile(r"\.weight_packed\Z"),
}


def refuse_scaled_fp8(checkpoint: Checkpoint) -> None:
    """Raise ``InputError`` if a float8 tensor has a scale, in any shard, or by config.json.

    Float8 tensors whose values stand for themselves pass.
    """
    configured = _quantisation(checkpoint.config())
    for name, tensor in checkpoint.tensors.items():
        if tensor.dtype in ("F8_E4M3", "F8_E5M2"):
            scale = _scale_of(name, checkpoint.tensors)
            found = f"scale tensor {show(scale)}" if scale else configured
            if found:
                raise InputError(
                    f"{tensor.path}: tensor {show(name)} is {tensor.dtype} with a {found}; scaled "
                    "float8 is not supported; dequantise the checkpoint to BF16 first"
                )


def refuse_quantised(checkpoint: Checkpoint) -> None:
    """Raise ``InputError`` if the weights are quantised (bitsandbytes, GPTQ, AWQ, MXFP4 ...).

    Told by config.json and by the names and dtypes these tools give their tensors.
    """
    way_out = "quantised weights cannot be merged; merge the original (bf16, fp16, fp32) checkpoint"
    if configured := _quantisation(checkpoint.config()):
        raise InputError(
            f"{checkpoint.path / 'config.json'}: has a {configured}; {way_out}, or remove the key "
            "if the weights are no longer quantised"
        )
    for name, tensor in checkpoint.tensors.items():
        for tool, pattern in _QUANTISED.items():
            if pattern.search(name):
                raise InputError(
                    f"{tensor.path}: tensor {show(name)} was written by {tool}; {way_out}"
                )
        if tensor.dtype in ("I8", "U8") and (scale := _scale_of(name, checkpoint.tensors)):
            raise InputError(
                f"{tensor.path}: tensor {show(name)} is {tensor.dtype} with the scale tensor "
                f"{show(scale)}; {way_out}"
            )


def _quantisation(config: Mapping[str, Any]) -> str | None:
    """The key by which config.json, or the part of a sub-model, declares quantised weights."""
    for part in (config, *filter(is_object, config.values())):
        for key in ("quantization_config", "compression_config"):
            if found := part.get(key):
                method = found.get("quant_method") if is_object(found) else found
                return f"{key} ({show(method)})"
    return None


def _scale_of(name: str, tensors: Mapping[str, TensorInfo]) -> str | None:
    """The scale of a tensor, as DeepSeek, vLLM, ModelOpt, ComfyUI and MXFP4 name it."""
    names = [name + suffix for suffix in ("_scale", "_scale_inv")]
    names.append(name.removesuffix("_blocks") + "_scales")
    if name.endswith(".weight"):
        module = name.removesuffix("weight")
        names += [module + suffix for suffix in ("scale", "scale_weight", "input_scale")]
    return next((scale for scale in names if scale in tensors), None)
