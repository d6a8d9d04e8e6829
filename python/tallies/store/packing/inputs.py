"""Opens base and experts, on disk or on the hub."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ...checkpoint.checkpoint import Checkpoint
from ...checkpoint.match import Match, match
from ...checkpoint.opening import as_model, open_model
from ...checkpoint.policy import Policy
from ...errors import InputError
from ...recipe.places import Places


@dataclass(frozen=True)
class Inputs:
    """The models of a packing, the base under the name "", the tasks under their own."""

    texts: Mapping[str, str]
    """The models as they were asked for; those of the hub at a commit."""
    models: Mapping[str, Checkpoint]

    @classmethod
    def open(cls, texts: Mapping[str, str], policy: Policy, *, variant: str, bars: bool) -> Inputs:
        """Open the models; those of the hub are downloaded if the headers of all fit together.

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
        pinned = {name: places.pinned(text) for name, text in texts.items()}
        if any(map(places.hub_model, pinned.values())):
            from ...hub.opening import named

            with named():
                headers = {
                    name: open_model(places.headers(text, variant), variant=variant)
                    for name, text in pinned.items()
                }
                match_tasks(headers, policy)
        paths = {name: places.local(text, variant, bars=bars) for name, text in pinned.items()}
        return cls(
            pinned, {name: open_model(path, variant=variant) for name, path in paths.items()}
        )


def match_tasks(models: Mapping[str, Checkpoint], policy: Policy) -> Match:
    """Match the experts with the base; an InputError for an expert begins with its task."""
    own = {name: as_model(model) for name, model in models.items()}
    try:
        return match(own[""], list(own.values()), policy)
    except InputError as error:
        blamed = [n for n, model in own.items() if n and str(error).startswith(f"{model.label}:")]
        raise InputError(f"task {blamed[0]!r}: {error}" if blamed else str(error)) from None
