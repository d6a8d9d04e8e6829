"""Open a path as a model that can be merged."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

from ..errors import InputError
from ..messages import show
from ..spec.choices import Tied
from .adapters.kinds import refuse_adapter
from .causes import refuse_piece_of_store
from .checkpoint import Checkpoint
from .files import refuse_undecodable
from .match import Model
from .quantised import refuse_other_scales, refuse_quantised
from .rename import renamed
from .scaled import with_scales
from .tied import head_pairs, is_head, tied_pairs


def open_model(path: str, *, variant: str = "") -> Checkpoint:
    """Open a model whose floating-point tensors are values, or values times scales.

    Args:
        path: The model.
        variant: The variant to read where a directory has several, such as ``fp16``.

    Raises:
        InputError: For all that ``Checkpoint.open`` refuses, and for adapters, pieces of stores
            and quantised weights of other kinds.
        StorageError: The system cannot read the files.
    """
    refuse_undecodable(path)
    refuse_piece_of_store(Path(path))
    found = Checkpoint.open(path, variant=variant)
    refuse_adapter(found)
    checkpoint = with_scales(found)
    refuse_other_scales(checkpoint)
    refuse_quantised(checkpoint)
    return checkpoint


def under_other_names(checkpoint: Checkpoint, rename: Mapping[str, str]) -> Checkpoint:
    """Return a checkpoint whose tensors have other prefixes; InputError as for ``renamed``."""
    return replace(checkpoint, tensors=renamed(str(checkpoint.path), checkpoint.tensors, rename))


def check_variant(variant: str, models: Iterable[Checkpoint]) -> None:
    """Raise ``InputError`` if no model has files of the variant that was asked for."""
    opened = list(models)
    if not any(part.variant == variant for one in opened for part in one.parts):
        paths = ", ".join(str(one.path) for one in opened)
        raise InputError(
            f"variant {show(variant)}: none of the models has files of it ({paths}); leave it out"
        )


def open_donor(path: str) -> Checkpoint:
    """Open the small files of a model, of an adapter or of a directory without weights.

    Raises:
        InputError: There is no such directory or model.
        StorageError: The system cannot read the files.
    """
    refuse_undecodable(path)
    return Checkpoint.open_small_files(path)


def as_model(
    checkpoint: Checkpoint, tied: Tied = Tied.AS_BASE, *, heads_alone: bool = False
) -> Model:
    """Return a checkpoint as matching takes it.

    Args:
        checkpoint: The checkpoint.
        tied: The state of the result: heads are apart from embeddings, or must equal them.
        heads_alone: The tensors are those of a stack. Others than heads are no aliases, though a
            layer be there twice, and neither is the head of one model that of another's embedding.
    """
    pairs = dict(tied_pairs(checkpoint))
    if heads_alone:
        places = {name: tensor.path.parent for name, tensor in checkpoint.tensors.items()}
        pairs = {
            alias: name
            for alias, name in pairs.items()
            if is_head(alias) and places[alias] == places[name]
        }
    if tied is Tied.UNTIE:
        pairs = {alias: name for alias, name in pairs.items() if not is_head(alias)}
    elif tied is Tied.TIE:
        pairs |= dict(head_pairs(checkpoint.tensors))
    return Model(checkpoint.label, checkpoint.tensors, pairs)
