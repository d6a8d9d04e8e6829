"""Merge checkpoints while transformers' or TRL's trainers train.

``MergeCheckpoints`` is a callback for ``Trainer(callbacks=[...])``; ``CheckpointMerger`` says what
it takes. It stands in the place of TRL's ``MergeModelCallback``, which merges one checkpoint with
another model and needs mergekit.
"""

from __future__ import annotations

from typing import Any

from ..errors import InputError
from ._trainer_callback import CheckpointMerger

__all__ = ["CheckpointMerger", "MergeCheckpoints"]  # noqa: F822, made by __getattr__


def __getattr__(name: str) -> Any:
    """Return the callback, whose class is made of transformers' own when it is first asked for."""
    if name != "MergeCheckpoints":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        from transformers import TrainerCallback
    except ImportError:
        raise InputError(
            "transformers is not installed, and the callback is one of its own; "
            "pip install transformers"
        ) from None
    names = {"__doc__": CheckpointMerger.__doc__, "__module__": __name__}
    globals()[name] = type(name, (CheckpointMerger, TrainerCallback), names)
    return globals()[name]
