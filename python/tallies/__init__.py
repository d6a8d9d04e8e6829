"""Merge fine-tuned checkpoints in weight space, natively and in bounded memory.

``merge`` and ``plan`` work on checkpoints on disk, ``merge_state_dicts`` on tensors in memory;
``pack`` keeps many experts in a ``Store``; ``kernels`` work on single arrays; ``cpu`` names and
chooses instruction sets. Importing the package imports neither numpy nor torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from ._version import __version__
from .errors import InputError, StorageError, TalliesError

if TYPE_CHECKING:
    from . import cpu, cuda, kernels
    from .merging.checkpoints import merge
    from .merging.plan import MergePlan, plan
    from .merging.report import MergeReport
    from .merging.state_dicts import merge_state_dicts
    from .recipe.config import MergeConfig
    from .store import PackReport, Store, pack

__all__ = [
    "InputError",
    "MergeConfig",
    "MergePlan",
    "MergeReport",
    "PackReport",
    "StorageError",
    "Store",
    "TalliesError",
    "__version__",
    "cpu",
    "cuda",
    "kernels",
    "merge",
    "merge_state_dicts",
    "pack",
    "plan",
]

# No module has the name of a function: importing it would put the module in the function's place.
_HOME = {
    "MergeConfig": "recipe.config",
    "MergePlan": "merging.plan",
    "MergeReport": "merging.report",
    "PackReport": "store.packing.report",
    "Store": "store.opened",
    "merge": "merging.checkpoints",
    "merge_state_dicts": "merging.state_dicts",
    "pack": "store.packing.pack",
    "plan": "merging.plan",
}


def __getattr__(name: str) -> Any:
    if name in ("cpu", "cuda", "kernels"):
        return importlib.import_module(f".{name}", __name__)
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_HOME[name]}", __name__), name)
