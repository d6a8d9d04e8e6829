"""Merge fine-tuned checkpoints in weight space, natively and in bounded memory.

``merge``, ``plan`` and ``sweep`` work on checkpoints on disk, ``merge_state_dicts`` on tensors in
memory, ``pack`` keeps many experts in a ``Store``, ``make_patch`` and ``apply_patch`` keep and make
the exact difference of two models, ``extract_lora`` takes an adapter out of a fine-tune,
``inspect`` and ``verify`` look at checkpoints and stores, and ``diff`` compares two models. The
modules:

* ``kernels``: the steps of a merge on NumPy arrays;
* ``torch``: the same steps on tensors, differentiable merges, live switching of tasks;
* ``methods``: the merge methods and the facts about each;
* ``store``: packing experts, changing a store, restoring tasks;
* ``inspection``: looks at checkpoints and stores;
* ``cpu`` and ``cuda``: instruction sets and devices.

Every name is imported at its first use, so that ``import tallies`` imports neither NumPy nor torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from ._version import __version__
from .errors import InputError, StorageError, TalliesError

if TYPE_CHECKING:
    from . import cpu, cuda, inspection, kernels, methods, store
    from . import torch as torch
    from .inspection.checkpoints import inspect
    from .inspection.diff import DiffReport, diff
    from .inspection.verify import verify
    from .lora.extract import extract_lora
    from .lora.report import LoraReport
    from .merging.checkpoints import merge
    from .merging.plan import MergePlan
    from .merging.plans import plan
    from .merging.report import MergeReport
    from .merging.soup import SoupReport, greedy_soup
    from .merging.state_dicts import merge_state_dicts
    from .merging.sweep import sweep
    from .patches.applying import apply_patch
    from .patches.making import make_patch
    from .patches.report import PatchReport
    from .recipe.config import MergeConfig
    from .store import PackReport, Store, pack

# Without ``torch``, so that a star import does not import torch.
__all__ = [
    "DiffReport",
    "InputError",
    "LoraReport",
    "MergeConfig",
    "MergePlan",
    "MergeReport",
    "PackReport",
    "PatchReport",
    "SoupReport",
    "StorageError",
    "Store",
    "TalliesError",
    "__version__",
    "apply_patch",
    "cpu",
    "cuda",
    "diff",
    "extract_lora",
    "greedy_soup",
    "inspect",
    "inspection",
    "kernels",
    "make_patch",
    "merge",
    "merge_state_dicts",
    "methods",
    "pack",
    "plan",
    "store",
    "sweep",
    "verify",
]

_MODULES = ("cpu", "cuda", "inspection", "kernels", "methods", "store", "torch")

# No module at the top has the name of a function: importing it would replace the function.
_HOME = {
    "DiffReport": "inspection.diff",
    "LoraReport": "lora.report",
    "MergeConfig": "recipe.config",
    "MergePlan": "merging.plan",
    "MergeReport": "merging.report",
    "PackReport": "store.packing.report",
    "PatchReport": "patches.report",
    "SoupReport": "merging.soup",
    "Store": "store.opened",
    "apply_patch": "patches.applying",
    "diff": "inspection.diff",
    "extract_lora": "lora.extract",
    "greedy_soup": "merging.soup",
    "inspect": "inspection.checkpoints",
    "make_patch": "patches.making",
    "merge": "merging.checkpoints",
    "merge_state_dicts": "merging.state_dicts",
    "pack": "store.packing.pack",
    "plan": "merging.plans",
    "sweep": "merging.sweep",
    "verify": "inspection.verify",
}


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(f".{name}", __name__)
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_HOME[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted({*__all__, *_MODULES})
