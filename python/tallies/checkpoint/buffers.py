"""Recognise buffers: tensors that are not learned, and that come and go with library versions."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

_ROTARY: Final = r"(?:\w+_)?inv_freq|rotary_emb\w*\.(?:cos|sin|cos_cached|sin_cached)|rope\.freqs"
_WINDOWS: Final = r"relative_coords_table|relative_position_index|attn_mask"
_CONSTANT: Final = re.compile(rf"(?:\A|[./])(?:{_ROTARY}|{_WINDOWS}|\w*_float_tensor)\Z")

_IDS: Final = re.compile(r"(?:\A|[./])(?:position_ids|token_type_ids)\Z")

_COUNTER: Final = re.compile(r"(?:\A|[./])num_batches_tracked\Z")

# GPT-2's, GPT-Neo's and GPT-NeoX's causal masks; a learned bias has one dimension.
_MASK: Final = re.compile(
    r"(?:\A|[./])(?:self_?attn|attn|self_attention|attention|crossattention)\."
    r"(?:bias|causal_mask)\Z"
)
_MASKED: Final = re.compile(r"(?:\A|[./])masked_bias\Z")

_ENDS: Final = (
    *("inv_freq", "cos", "sin", "cos_cached", "sin_cached", "freqs", "float_tensor"),
    *("relative_coords_table", "relative_position_index", "mask", "_ids", "_tracked", "bias"),
)
"""The ends of all such names; they are looked for first, since that is quick."""


def is_buffer(name: str, shape: Sequence[int]) -> bool:
    """Return True for a tensor that the model's code makes or counts, and no training learns."""
    return name.endswith(_ENDS) and (
        is_constant(name, shape) or bool(_IDS.search(name) or _COUNTER.search(name))
    )


def is_constant(name: str, shape: Sequence[int]) -> bool:
    """Return True for a buffer of which versions differ in dtype, rounding or length."""
    if _MASK.search(name):
        return len(shape) == 4 and shape[0] == shape[1] == 1 and shape[2] == shape[3]
    if _MASKED.search(name):
        return len(shape) <= 1
    return bool(_CONSTANT.search(name))


def is_counter(name: str) -> bool:
    """Return True for the number of batches that a normalisation has seen."""
    return bool(_COUNTER.search(name))
