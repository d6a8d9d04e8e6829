"""Greedy soups, as recipe 1 of Wortsman et al., Model soups, 2022, says them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from .dtype import Array
from .linear import linear


def greedy(models: Sequence[Array], score: Callable[[Array], float]) -> list[int]:
    """The numbers of the models that are taken, in order: from the best on, if no worse with it."""
    own = [score(model) for model in models]
    taken: list[int] = []
    for number in sorted(range(len(models)), key=lambda i: -own[i]):
        before = score(linear([models[i] for i in taken])) if taken else float("-inf")
        if score(linear([models[i] for i in (*taken, number)])) >= before:
            taken.append(number)
    return taken
