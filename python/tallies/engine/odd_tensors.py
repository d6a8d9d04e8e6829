"""Torch tensors without plain values in memory: their kind in words, and the way out."""

from __future__ import annotations

from typing import Any

_LAZY = ("UninitializedParameter", "UninitializedBuffer")


def odd_kind(tensor: Any) -> tuple[str, str] | None:
    """Return the kind of a torch tensor that cannot be read as values, and what to do.

    Args:
        tensor: A torch tensor; torch is not imported.

    Returns:
        The kind and the way out; None for a dense tensor.
    """
    if type(tensor).__name__ in _LAZY:
        return "a tensor of a lazy module, which has no shape yet", "run the module once first"
    if tensor.is_meta:
        return "a meta tensor", "load its values first: it has none"
    if type(tensor).__module__.startswith("torch.distributed"):
        return f"a {type(tensor).__name__} spread over processes", "give its full_tensor()"
    if tensor.is_quantized:
        return f"a quantised tensor ({tensor.dtype})", "give its dequantize()"
    if tensor.is_nested:
        return "a nested tensor", "give the tensors of its unbind() one by one"
    if str(tensor.layout) != "torch.strided":
        return f"layout {tensor.layout}", "give its to_dense()"
    return None
