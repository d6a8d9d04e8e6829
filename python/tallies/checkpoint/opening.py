"""Open a path as a model that can be merged."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from .checkpoint import Checkpoint
from .files import refuse_undecodable
from .match import Model
from .quantised import refuse_other_scales, refuse_quantised
from .rename import renamed
from .scaled import with_scales
from .tied import tied_pairs


def open_model(path: str) -> Checkpoint:
    """Open a model whose floating-point tensors are values, or values times scales.

    Raises:
        InputError: For all that ``Checkpoint.open`` refuses, and for quantised weights of other
            kinds.
        StorageError: The system cannot read the files.
    """
    refuse_undecodable(path)
    checkpoint = with_scales(Checkpoint.open(path))
    refuse_other_scales(checkpoint)
    refuse_quantised(checkpoint)
    return checkpoint


def under_other_names(checkpoint: Checkpoint, rename: Mapping[str, str]) -> Checkpoint:
    """Return a checkpoint whose tensors have other prefixes; InputError as for ``renamed``."""
    return replace(checkpoint, tensors=renamed(str(checkpoint.path), checkpoint.tensors, rename))


def as_model(checkpoint: Checkpoint) -> Model:
    """Return a checkpoint as matching takes it."""
    return Model(str(checkpoint.path), checkpoint.tensors, dict(tied_pairs(checkpoint)))
