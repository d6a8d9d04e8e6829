"""Names the parameters of a module that adapters change together.

PEFT wraps a module once for each parameter of it, the first parameter innermost, and stores only
how deep each wrapper lies. The order of a module's parameters is that of the model's code.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Final

from ..checkpoint.adapters.adapter import Edit
from .targets import Target

_INNER: Final = ".base_layer"

_ORDER: Final = ("gate_up_proj", "gate_proj", "up_proj", "w1", "w3", "down_proj", "w2")
"""Parameters of experts in the order in which transformers' code has them; then others by name."""


def _place(name: str) -> tuple[int, str]:
    last = name.rpartition(".")[2]
    return (_ORDER.index(last) if last in _ORDER else len(_ORDER), last)


def named(edits: Iterable[Edit]) -> list[Edit]:
    """Return edits with the name that each has by its depth, where it may have several.

    Args:
        edits: The edits of an adapter.
    """
    edits = list(edits)
    found = []
    for edit in edits:
        readings = (edit, *edit.others)
        module = edit.name.rpartition(".")[0]
        names = sorted(
            {one.name for one in readings if one.name.rpartition(".")[0] == module}, key=_place
        )
        depth = edit.told_by.name.count(_INNER)
        if len(names) > 1 and depth < len(names) and not edit.name.endswith(".weight"):
            own = names[len(names) - 1 - depth]
            edit = next(one for one in readings if one.name == own)
        found.append(replace(edit, others=()))
    return found


def stored_names(targets: Iterable[Target]) -> list[Target]:
    """Return targets with the modules by which PEFT stores parameters of one module.

    >>> from tallies.lora.targets import Kind
    >>> [one.stored for one in stored_names(
    ...     Target(f"experts.{name}", (2, 4, 4), Kind.STACK) for name in ("down_proj", "up_proj")
    ... )]
    [None, 'experts.base_layer']
    """
    targets = list(targets)
    by_module: dict[str, list[str]] = {}
    for one in targets:
        if one.is_parameter:
            by_module.setdefault(one.module, []).append(one.name)
    found = []
    for one in targets:
        names = sorted(by_module.get(one.module, [one.name]), key=_place)
        depth = len(names) - 1 - names.index(one.name) if one.is_parameter else 0
        found.append(replace(one, stored=one.module + _INNER * depth if depth else None))
    return found
