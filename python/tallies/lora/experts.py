"""Experts that a file keeps one by one, as the stacks that transformers makes of them.

An adapter changes the stacks: PEFT finds no module of a single expert.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Final

Shape = tuple[int, ...]
Parts = tuple[tuple[str, ...], ...]
"""For each matrix of a tensor, the tensors of the file whose rows it has, one after the other."""

_EXPERT: Final = re.compile(
    r"(?P<place>(?:.*\.)?)(?P<moe>mlp|block_sparse_moe|feed_forward)\.experts\."
    r"(?P<number>\d+)\.(?P<layer>gate_proj|up_proj|down_proj|w1|w2|w3)\.weight\Z"
)
_GATE: Final = re.compile(r"(?P<place>(?:.*\.)?)block_sparse_moe\.gate\.weight\Z")

_LAYERS: Final = {
    "gate_up_proj": (("gate_proj", "up_proj"), ("w1", "w3")),
    "down_proj": (("down_proj",), ("w2",)),
}
"""The layers of an expert whose rows a stack has, as two families of models call them."""


def is_one_expert(name: str) -> bool:
    """Tell if a tensor is that of one expert, which transformers has in a stack."""
    return _EXPERT.match(name) is not None


def stacked(shapes: Mapping[str, Shape]) -> tuple[dict[str, Shape], dict[str, Parts]]:
    """Put experts together.

    Args:
        shapes: The shapes of a file's tensors by name.

    Returns:
        The shapes of the tensors as transformers has them; and, for those that differ, the tensors
        of the file that they are made of. Experts that are not complete stay as they are.

    >>> stacked({f"mlp.experts.{i}.w2.weight": (4, 3) for i in range(2)})[0]
    {'mlp.experts.down_proj': (2, 4, 3)}
    """
    parts = dict(_stacks(shapes))
    for name in shapes:
        if found := _GATE.match(name):
            parts[f"{found['place']}mlp.gate.weight"] = ((name,),)
    used = {name for one in parts.values() for name in flat(one)}
    made = {name: shape for name, shape in shapes.items() if name not in used}
    for name, all_of in parts.items():
        rows = sum(shapes[one][0] for one in all_of[0])
        shape = (rows, shapes[all_of[0][0]][1])
        made[name] = shape if name.endswith(".weight") else (len(all_of), *shape)
    return dict(sorted(made.items())), parts


def flat(parts: Parts) -> list[str]:
    """Return the tensors that a tensor is made of."""
    return [name for one in parts for name in one]


def _stacks(shapes: Mapping[str, Shape]) -> Iterator[tuple[str, Parts]]:
    places: dict[tuple[str, str], int] = {}
    for name in shapes:
        if found := _EXPERT.match(name):
            key = (found["place"], found["moe"])
            places[key] = max(places.get(key, 0), int(found["number"]) + 1)
    for (place, moe), n in places.items():
        stack = "mlp" if moe == "block_sparse_moe" else moe
        for made, families in _LAYERS.items():
            for layers in families:
                parts = tuple(
                    tuple(f"{place}{moe}.experts.{i}.{one}.weight" for one in layers)
                    for i in range(n)
                )
                held = [[shapes.get(name) for name in one] for one in parts]
                if all(one == held[0] and None not in one for one in held):
                    yield f"{place}{stack}.experts.{made}", parts
