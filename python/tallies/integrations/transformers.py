"""Merge checkpoints while transformers' or TRL's trainers train.

``MergeCheckpoints`` is a callback for ``Trainer(callbacks=[...])``. It stands in the place of TRL's
``MergeModelCallback``, which merges one checkpoint with another model and needs mergekit.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..errors import InputError

if TYPE_CHECKING:
    from ._trainer_callback import MergeCheckpoints

__all__ = ["MergeCheckpoints"]


def __getattr__(name: str) -> Any:
    """Return the callback, whose class is made of transformers' own when it is first asked for."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        from ._trainer_callback import MergeCheckpoints
    except ImportError as error:
        if error.name != "transformers":
            raise
        raise InputError(
            "transformers is not installed, and the callback is made of its own; "
            "pip install transformers"
        ) from None
    globals()[name] = MergeCheckpoints
    return MergeCheckpoints
