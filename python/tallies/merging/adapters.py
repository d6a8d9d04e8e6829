"""States what the adapters of a merge's models are, and how much they change."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..checkpoint.checkpoint import Checkpoint
from ..messages import counted, show

if TYPE_CHECKING:
    from .plan import MergePlan


@dataclass(frozen=True)
class AdapterReport:
    """An adapter that was added to a model."""

    path: str
    kind: str
    """Such as ``LoRA``."""
    base: str | None
    """The model that the adapter's configuration names."""
    tensors: int
    """The tensors of the model that it changes or replaces."""

    def __str__(self) -> str:
        named = f", made for {show(self.base)}" if self.base else ""
        return f"{self.path}: {self.kind}, changes {counted(self.tensors, 'tensor')}{named}"


def adapters_of(made: MergePlan, text: str, model: Checkpoint) -> list[AdapterReport]:
    """Return the adapters of a model, in the order in which they are added.

    Args:
        made: The plan of the merge.
        text: The text of the model.
        model: The model with its adapters.
    """
    pieces = made.config.places.pieces(text)[1:]
    tensors = list(model.tensors.values())
    return [
        AdapterReport(piece, adapter.kind, adapter.base, adapter.n_changed(tensors))
        for piece, adapter in zip(pieces, model.adapters, strict=True)
    ]


def tokenizers_of_adapters(donor: Checkpoint) -> Iterator[str]:
    """Yield, in words, the files of a tokenizer that an adapter gives in place of its model."""
    places = donor.small_files()
    for adapter in donor.adapters:
        names = [at.name for at in adapter.tokenizer_files() if at in places.values()]
        if names:
            yield f"{', '.join(names)} from {adapter.path}"
