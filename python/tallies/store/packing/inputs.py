"""Opens base and experts, on disk or on the hub, and matches their tensors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from ...checkpoint.checkpoint import Checkpoint
from ...checkpoint.match import Match, match
from ...checkpoint.opening import as_model, check_variant
from ...checkpoint.policy import Policy
from ...errors import InputError
from ...recipe.bases import with_bases
from ...recipe.inputs import Inputs
from ...recipe.places import Places


@dataclass(frozen=True)
class Opened:
    """The models of a packing, the base under the name "", the tasks under their own."""

    texts: Mapping[str, str]
    """The models as they were asked for; those of the hub at a commit."""
    models: Mapping[str, Checkpoint]
    match: Match
    warnings: tuple[str, ...] = ()
    """Warnings of the adapters of the models."""


def open_inputs(
    texts: Mapping[str, str], policy: Policy, *, variant: str | None, bars: bool
) -> Opened:
    """Open and match the models; those of the hub are downloaded if all fit together.

    Args:
        texts: The models as they were asked for.
        policy: The treatment of tensors that not all tasks have.
        variant: The variant of the weights to read where there are several.
        bars: Show a bar for each file that is downloaded.

    Raises:
        InputError: A model is no complete, well-formed one, or does not fit to the base.
        StorageError: The system cannot read the files, or the hub fails.
    """
    places = Places.of()
    base, *tasks = texts.values()
    origin, tasks, warnings = with_bases(base, tasks, places)
    pinned = dict(zip(texts, (origin or base, *tasks), strict=True))
    inputs = Inputs(places, pinned.values(), variant=variant)
    inputs.fetch_opaque(bars=bars)
    with inputs.named():
        found = _open(inputs, pinned, policy)
    if variant:
        check_variant(variant, found.models.values())
    if inputs.fetch(bars=bars):
        found = _open(inputs, pinned, policy)
    return replace(found, warnings=(*warnings, *inputs.warnings))


def _open(inputs: Inputs, texts: Mapping[str, str], policy: Policy) -> Opened:
    """Open and match the models; an InputError for an expert begins with its task."""
    models = {name: inputs.open(text) for name, text in texts.items()}
    own = {name: as_model(model) for name, model in models.items()}
    try:
        return Opened(texts, models, match(own[""], list(own.values()), policy))
    except InputError as error:
        blamed = [n for n, model in own.items() if n and str(error).startswith(f"{model.label}:")]
        raise InputError(f"task {blamed[0]!r}: {error}" if blamed else str(error)) from None
