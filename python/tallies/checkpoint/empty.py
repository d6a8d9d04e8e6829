"""Find weights without elements: placeholders that sharded training leaves in a checkpoint."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from ..messages import counted, some
from .checkpoint import Checkpoint

GATHER: Final = (
    "ZeRO-3 training leaves such placeholders; save with gathered weights (save_16bit_model, "
    "stage3_gather_16bit_weights_on_model_save) or convert the shards with zero_to_fp32.py"
)
"""The cause of empty weights, and the way out."""


def empty_weights(checkpoint: Checkpoint) -> list[str]:
    """List the tensors of a checkpoint that have no elements, by name."""
    return [name for name, tensor in checkpoint.tensors.items() if not tensor.n_elements]


def empty_warning(path: object, empty: Sequence[str]) -> str:
    """Word a warning of empty weights, at least one."""
    verb = "is" if len(empty) == 1 else "are"
    return (
        f"{path}: {counted(len(empty), 'tensor')} {verb} empty (no elements): {some(empty)}; "
        f"{GATHER}"
    )
