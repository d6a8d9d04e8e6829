"""Run PEFT's merges of adapters on the kernels of this package.

``LoraModel.add_weighted_adapter`` merges the factors of all modules in one call; the functions of
``peft.utils.merge_utils`` merge those of one. See docs/hosts.md.

>>> from tallies.integrations import peft
>>> peft.calls()
{'ours': 0}
"""

from __future__ import annotations

from collections.abc import Sequence

from . import _peft_adapters as adapters
from . import _peft_functions as functions
from ._seam import Host, Seam, Source

UTILS = "peft.utils.merge_utils"
MODEL = "peft.tuners.lora.model"
RESHAPED = Source(UTILS, "reshape_weight_task_tensors", "01c6f607f72ed77d")
PRUNED = Source(UTILS, "prune", "c15a0201912fc101")
BY_MAGNITUDE = Source(UTILS, "magnitude_based_pruning", "4f5d4ee2c0e2876a")
AT_RANDOM = Source(UTILS, "random_pruning", "89d9247bbe410fb7")
SIGNS = Source(UTILS, "calculate_majority_sign_mask", "614e53e93c4d7668")
DISJOINT = Source(UTILS, "disjoint_merge", "d718818d2f78a8b6")


def _seams() -> Sequence[Seam]:
    sums = Seam(UTILS, "task_arithmetic", "5e81850003c4db2d", functions.task_arithmetic)
    ties = Seam(
        *(UTILS, "ties", "d25d1ed5385834a4", functions.ties),
        copied=(RESHAPED, PRUNED, BY_MAGNITUDE, SIGNS, DISJOINT),
    )
    prune = Seam(
        *(UTILS, "magnitude_prune", "57aa2f2205699c95", functions.magnitude_prune),
        copied=(RESHAPED, PRUNED, BY_MAGNITUDE),
    )
    dare_linear = Seam(
        *(UTILS, "dare_linear", "2c54d320daf4ab2c", functions.dare_linear),
        copied=(RESHAPED, PRUNED, AT_RANDOM),
    )
    dare_ties = Seam(
        *(UTILS, "dare_ties", "62f51e746e0eaf16", functions.dare_ties),
        copied=(RESHAPED, PRUNED, AT_RANDOM, SIGNS, DISJOINT),
    )
    one_call = (sums, ties, prune, dare_linear, dare_ties)
    return (
        *one_call,
        Seam(UTILS, BY_MAGNITUDE.name, BY_MAGNITUDE.digest, functions.magnitude_based_pruning),
        Seam(UTILS, SIGNS.name, SIGNS.digest, functions.calculate_majority_sign_mask),
        Seam(UTILS, DISJOINT.name, DISJOINT.digest, functions.disjoint_merge),
        Seam(
            *(MODEL, "LoraModel.add_weighted_adapter", "1fd8e1942caa0bdf"),
            adapters.add_weighted_adapter,
            copied=(
                Source(MODEL, f"LoraModel.{adapters.ONE_MODULE}", "aad37b03f60cdd59"),
                *(Source(one.module, one.name, one.digest) for one in one_call),
                *(source for one in one_call for source in one.copied),
            ),
        ),
    )


HOST = Host("peft", ("0.21.2",), _seams)

install = HOST.install
uninstall = HOST.uninstall
installed = HOST.installed
calls = HOST.calls
