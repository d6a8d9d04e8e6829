"""An adapter as changes of named tensors, whatever its format."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from ..beside import TOKENIZER_FILES
from ..changes import Change, pieces
from ..tensors import TensorInfo


@dataclass(frozen=True, slots=True)
class Edit:
    """The change of one tensor of the model that an adapter was trained on."""

    name: str
    """The tensor as the adapter's model calls it: ``model.layers.0.self_attn.q_proj.weight``."""
    change: Change | TensorInfo
    """A change of the values, or the tensor that replaces them (``modules_to_save``)."""
    told_by: TensorInfo
    """The adapter's tensor that messages name."""
    others: tuple[Edit, ...] = ()
    """Other readings, where the adapter does not say which: the first that fits the model holds.

    A matrix may be stored with rows and columns swapped; one of several stacks may be meant.
    """


def one_of(readings: Sequence[Edit]) -> Edit:
    """Return the first of several readings, with the others behind it."""
    first, *others = readings
    return replace(first, others=tuple(others))


@dataclass(frozen=True)
class Adapter:
    """An adapter on disk."""

    path: Path
    files: tuple[Path, ...]
    kind: str
    """Such as ``LoRA``."""
    edits: tuple[Edit, ...]
    """In the order in which they are made."""
    base: str | None = None
    """The text of the model that it changes, as the adapter's configuration names it."""
    config: dict[str, object] = field(default_factory=dict)
    """adapter_config.json of PEFT; empty for files of other tools."""
    warnings: tuple[str, ...] = ()
    """Such as an effect of zero."""

    def tokenizer_files(self) -> list[Path]:
        """Return the files of a tokenizer that lie beside the adapter, if it is a directory."""
        return [path for name in TOKENIZER_FILES if (path := self.path / name).is_file()]

    def n_changed(self, tensors: Iterable[TensorInfo]) -> int:
        """Return how many tensors of a model have changes, or values, from this adapter's files."""
        files = set(self.files)
        return sum(
            one.path in files
            or any(piece.path in files for change in one.changes for piece in pieces(change))
            for one in tensors
        )
