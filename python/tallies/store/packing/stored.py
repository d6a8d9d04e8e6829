"""Opens base and experts as their files store them, and finds the tensors that all have alike."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace

from ...checkpoint.absent import no_model
from ...checkpoint.adapters.kinds import refuse_adapter
from ...checkpoint.checkpoint import Checkpoint
from ...checkpoint.files import refuse_undecodable
from ...checkpoint.match import Match, Model, match
from ...checkpoint.opening import as_model, check_variant
from ...checkpoint.policy import Policy
from ...errors import InputError
from ...recipe.inputs import open_stored
from ...recipe.places import Places
from .inputs import Opened


def open_as_stored(
    texts: Mapping[str, str], policy: Policy, *, variant: str | None, bars: bool
) -> Opened:
    """Open models without a look at what their tensors mean; those of the hub are downloaded.

    Args:
        texts: The models as they were asked for, the base under "" and empty if there is none.
        policy: The treatment of what only some models have, of which nothing is matched here.
        variant: The variant of the weights to read where there are several.
        bars: Show a bar for each file that is downloaded.

    Raises:
        InputError: A model is no complete, well-formed one, or has adapters.
        StorageError: The system cannot read the files, or the hub fails.
    """
    places = Places.of()
    pinned = {name: text and places.pinned(text) for name, text in texts.items()}
    models = {
        name: _open(text, variant or "", bars=bars) if text else no_model()
        for name, text in pinned.items()
    }
    if variant:
        check_variant(variant, [model for name, model in models.items() if pinned[name]])
    return Opened(pinned, models, match_alike(list(models.values()), policy))


def _open(text: str, variant: str, *, bars: bool) -> Checkpoint:
    refuse_undecodable(text)
    found = open_stored(text, variant, bars=bars)
    refuse_adapter(found)
    return found


def match_alike(models: list[Checkpoint], policy: Policy) -> Match:
    """Match the tensors that all models have in one dtype and shape, the base first."""
    names = alike(models)
    parts = [_restricted(as_model(model), names) for model in models]
    return match(parts[0], parts, policy)


def alike(models: list[Checkpoint]) -> set[str]:
    """Return the names of the tensors that all models have in one dtype and shape."""
    first, *others = models
    return {
        name
        for name, one in first.tensors.items()
        if all(
            (own := model.tensors.get(name)) is not None
            and (own.dtype, own.shape) == (one.dtype, one.shape)
            for model in others
        )
    }


def _restricted(model: Model, names: set[str]) -> Model:
    return replace(
        model,
        tensors={name: one for name, one in model.tensors.items() if name in names},
        tied={alias: name for alias, name in model.tied.items() if {alias, name} <= names},
    )


def refuse_no_base(codec: str, base: str | os.PathLike[str] | None) -> None:
    """Raise InputError where a codec needs a base and there is none."""
    if base is None:
        raise InputError(
            f"codec {codec!r} needs the base that the tasks were tuned from, found none; name it "
            "(base=, --base), or pack with 'lossless', which keeps a checkpoint by itself"
        )
