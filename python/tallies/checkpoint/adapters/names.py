"""Find the tensors of a model by the names that adapters, hosts and wrappers give them."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property
from typing import Final

_WRAPPERS: Final = frozenset(
    (
        *("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "module"),
        *("base_layer", "original_module"),
    )
)
"""Components that torch's and PEFT's wrappers put into the names of the modules inside."""

_OF_PEFT: Final = ("base_model.model.", "base_model.")

_TEXT_MODELS: Final = (
    *("model.language_model.", "language_model.model.", "model.text_model."),
    *("model.language_model.model.", "language_model.", "thinker.model.", "model."),
)
"""Prefixes of one text model: alone, and in models of several modes, old and new."""


def plain(name: str) -> str:
    """Return a name without folders' slashes, wrappers, and PEFT's prefix.

    >>> plain("base_model.model._orig_mod.model.layers.0.q_proj.base_layer.weight")
    'model.layers.0.q_proj.weight'
    """
    text = name.replace("/", ".")
    for prefix in _OF_PEFT:
        text = text.removeprefix(prefix)
    return ".".join(part for part in text.split(".") if part not in _WRAPPERS)


class Names:
    """The names of a model's tensors, looked up by those of an adapter's model."""

    def __init__(self, names: Iterable[str]) -> None:
        self._names = frozenset(names)

    def find(self, name: str) -> list[str]:
        """Return the names that a name may stand for: one where it is clear, several, or none.

        The name itself is looked for first, then the same without wrappers, then under another
        prefix of the text model, then with components in front that either of the two lacks.
        """
        if name in self._names:
            return [name]
        wanted = plain(name)
        if wanted in self._by_plain:
            return self._by_plain[wanted]
        for old in _TEXT_MODELS:
            if wanted.startswith(old):
                rest = wanted.removeprefix(old)
                found = [one for new in _TEXT_MODELS for one in self._by_plain.get(new + rest, ())]
                if found:
                    return found
        found = self._by_end.get(wanted, [])
        parts = wanted.split(".")
        for n in range(1, len(parts) - 1):
            found = found or self._by_plain.get(".".join(parts[n:]), [])
        return found

    @cached_property
    def _by_plain(self) -> dict[str, list[str]]:
        found: dict[str, list[str]] = {}
        for name in sorted(self._names):
            found.setdefault(plain(name), []).append(name)
        return found

    @cached_property
    def _by_end(self) -> dict[str, list[str]]:
        """The names by each of their ends that has two components or more."""
        found: dict[str, list[str]] = {}
        for name, whole in self._by_plain.items():
            parts = name.split(".")
            for n in range(1, len(parts) - 1):
                found.setdefault(".".join(parts[n:]), []).extend(whole)
        return found
