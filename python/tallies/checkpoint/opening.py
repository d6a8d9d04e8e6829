"""Opens a path as a checkpoint."""

from __future__ import annotations

from .checkpoint import Checkpoint
from .files import refuse_undecodable
from .match import Model
from .quantised import refuse_quantised, refuse_scaled_fp8
from .tied import tied_pairs


def open_model(path: str) -> Checkpoint:
    """A checkpoint whose floating-point values are plain ones; InputError for quantised models."""
    refuse_undecodable(path)
    checkpoint = Checkpoint.open(path)
    refuse_scaled_fp8(checkpoint)
    refuse_quantised(checkpoint)
    return checkpoint


def as_model(checkpoint: Checkpoint) -> Model:
    """A checkpoint as matching takes it."""
    return Model(str(checkpoint.path), checkpoint.tensors, dict(tied_pairs(checkpoint)))
