"""The tensors of two models side by side, and what becomes of each."""

from __future__ import annotations

from dataclasses import dataclass, field

from ..engine.fingerprints import tensor_fingerprint
from ..spec.dtypes import n_stored, size_of
from .growing import Form as Face
from .layout import parts_of
from .manifest import ChangeWord, Form, Part, TensorChange
from .models import Model


@dataclass
class Pair:
    """A tensor of the old model, of the new one, or of both; and what is found of it."""

    name: str
    old: Form | None
    new: Form | None
    old_lanes: list[int] = field(default_factory=lambda: [0] * 8)
    new_lanes: list[int] = field(default_factory=lambda: [0] * 8)
    parts: list[Part] = field(default_factory=list)

    @property
    def is_stored_whole(self) -> bool:
        """True if the new tensor is stored as it is, as the old model has none in its form."""
        return self.new is not None and not self.is_compared

    @property
    def is_compared(self) -> bool:
        """True if both models have the tensor in one form, so that elements change in place."""
        return self.old == self.new

    @property
    def n_elements(self) -> int:
        """The stored elements of the new tensor; of the old one where there is no new one."""
        form = self.new or self.old
        assert form is not None
        return n_stored(*form)

    def slices(self) -> list[tuple[int, int]]:
        """Return the first element and the number of elements of each part to compare."""
        return parts_of(*self.new) if self.is_compared and self.new is not None else []

    def n_bytes(self, form: Form | None) -> int:
        """Return the bytes of the tensor in a form; none without."""
        return 0 if form is None else size_of(*form)

    def record(self) -> TensorChange:
        """Return what became of the tensor, once all of it was found."""
        dtype, shape = self.new or self.old or ("", ())
        old = None if self.old is None else tensor_fingerprint(Face(*self.old), self.old_lanes)
        new = None if self.new is None else tensor_fingerprint(Face(*self.new), self.new_lanes)
        was = self.old if self._change() == "replaced" else None
        return TensorChange(
            name=self.name,
            dtype=dtype,
            shape=shape,
            change=self._change(),
            old=old,
            new=new,
            old_dtype=was[0] if was else None,
            old_shape=was[1] if was else None,
            parts=tuple(self.parts) if self._change() != "none" else (),
        )

    def _change(self) -> ChangeWord:
        if self.old is None or self.new is None:
            return "added" if self.old is None else "removed"
        if self.old != self.new:
            return "replaced"
        return "changed" if any(part.n_changed for part in self.parts) else "none"


def pair_up(old: Model, new: Model) -> list[Pair]:
    """Return the tensors of two models side by side, in the order of their names."""
    before, after = old.forms, new.forms
    names = sorted(before.keys() | after.keys())
    return [Pair(name, before.get(name), after.get(name)) for name in names]
