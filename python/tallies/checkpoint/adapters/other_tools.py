"""Read the adapters of other tools than PEFT, by the names of their tensors."""

from __future__ import annotations

from pathlib import Path

from ...errors import InputError
from ..checkpoint import Checkpoint
from .adapter import Adapter


def read_other_tools(path: Path, checkpoint: Checkpoint) -> Adapter:
    """Read an adapter without adapter_config.json.

    Args:
        path: The adapter, as the user named it.
        checkpoint: Its tensors.

    Raises:
        InputError: The tensors are none of an adapter that is read.
    """
    raise InputError(
        f"{path}: is no adapter of PEFT, expected adapter_config.json beside the weights; merge it "
        "into its model first (PEFT: merge_and_unload)"
    )
