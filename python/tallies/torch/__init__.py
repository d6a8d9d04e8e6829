"""Torch tensors: the kernels, differentiable merging, and live switching of tasks.

The functions named as in ``tallies.kernels`` have its arguments and bits. Each is one operator
``torch.ops.tallies.NAME``, which ``torch.compile`` takes whole, and its result carries no gradient;
``weighted_merge`` is differentiable in its coefficients.
"""

from __future__ import annotations

from .encoded import EncodedDelta, store_deltas
from .functions import (
    apply_mask,
    block_dots,
    combine,
    consensus_mask,
    disjoint_merge,
    elect_signs,
    gram,
    kth_magnitude,
    magnitude_mask,
    pack_bits,
    tall_mask,
    ties,
    trim,
    unpack_bits,
)
from .merged_module import MergedModule
from .task_switcher import TaskSwitcher
from .weighted import weighted_merge

__all__ = [
    "EncodedDelta",
    "MergedModule",
    "TaskSwitcher",
    "apply_mask",
    "block_dots",
    "combine",
    "consensus_mask",
    "disjoint_merge",
    "elect_signs",
    "gram",
    "kth_magnitude",
    "magnitude_mask",
    "pack_bits",
    "store_deltas",
    "tall_mask",
    "ties",
    "trim",
    "unpack_bits",
    "weighted_merge",
]
