"""The steps of a merge as functions on NumPy arrays.

Arrays are float32, float16 or bfloat16 (``ml_dtypes.bfloat16``), of any shape and memory layout,
and are never changed. Arithmetic is float32: one operation, one rounding, in the order of the
experts; results are rounded once to their dtype, to nearest even. Bits depend neither on the
instruction set nor on the number of threads, and every NaN in a result is its dtype's quiet
positive one.

``deltas`` are task vectors: a sequence of N arrays of one shape and dtype, or one array [N, ...].
``weights`` are N finite numbers, 1 by default; an entry is y_t = weight_t * delta_t. A packed mask
is uint8 [(n + 7) // 8]: bit i % 8 of byte i // 8 is element i in row-major order, and the bits
after the last element are zero.

Arguments are checked first: InputError names the one that is wrong, what was found and expected.
"""

from .masks import (
    apply_mask,
    consensus_mask,
    magnitude_mask,
    pack_bits,
    tall_mask,
    unpack_bits,
)
from .merges import combine, ties
from .products import low_rank
from .steps import disjoint_merge, elect_signs, gram, kth_magnitude, trim

__all__ = [
    "apply_mask",
    "combine",
    "consensus_mask",
    "disjoint_merge",
    "elect_signs",
    "gram",
    "kth_magnitude",
    "low_rank",
    "magnitude_mask",
    "pack_bits",
    "tall_mask",
    "ties",
    "trim",
    "unpack_bits",
]
