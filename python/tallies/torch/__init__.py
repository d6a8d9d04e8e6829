"""Torch tensors: the kernels, differentiable merging, and live switching of tasks.

Functions named as in ``tallies.kernels`` have their arguments, some also others, and the same bits.
Each is one operator ``torch.ops.tallies.NAME``, which ``torch.compile`` takes whole, and its result
carries no gradient. ``weighted_merge`` is differentiable in its coefficients.

Arguments are checked first: InputError names the wrong one, what was found and what was expected.
"""

from __future__ import annotations

from .encoded import EncodedDelta, store_deltas
from .many import Merge, Merges, combine_many, merge_task_vectors
from .masks import apply_mask, consensus_mask, magnitude_mask, pack_bits, tall_mask, unpack_bits
from .merged_module import MergedModule
from .merges import combine, ties
from .patching import apply_patch
from .products import low_rank
from .steps import (
    block_dots,
    disjoint_merge,
    elect_signs,
    gram,
    kth_magnitude,
    kth_magnitude_counted,
    masked_mean,
    trim,
    trim_counted,
)
from .task_switcher import TaskSwitcher
from .weighted import weighted_merge

__all__ = [
    "EncodedDelta",
    "Merge",
    "MergedModule",
    "Merges",
    "TaskSwitcher",
    "apply_mask",
    "apply_patch",
    "block_dots",
    "combine",
    "combine_many",
    "consensus_mask",
    "disjoint_merge",
    "elect_signs",
    "gram",
    "kth_magnitude",
    "kth_magnitude_counted",
    "low_rank",
    "magnitude_mask",
    "masked_mean",
    "merge_task_vectors",
    "pack_bits",
    "store_deltas",
    "tall_mask",
    "ties",
    "trim",
    "trim_counted",
    "unpack_bits",
    "weighted_merge",
]
