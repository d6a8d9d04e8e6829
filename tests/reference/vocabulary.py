"""The rows of a joined vocabulary, token by token."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

Rows = Mapping[str, int]


def joined_tokens(models: Sequence[tuple[Rows, set[str], int]]) -> list[str]:
    """The tokens that a union has behind those of the first model, in their order.

    Each model is its tokens with their numbers, those among them that are added, and the number of
    its rows; tokens without a row count for nothing.
    """
    (first, _, rows), *_ = models
    known = {token for token, number in first.items() if number < rows}
    held = [
        (token, token in added)
        for tokens, added, n_rows in models
        for token, number in sorted(tokens.items(), key=lambda item: item[1])
        if number < n_rows
    ]
    of_some = {token for token, is_added in held if is_added}
    plain = [token for token, _ in held if token not in of_some and token not in known]
    added = [token for token, is_added in held if is_added and token not in known]
    return list(dict.fromkeys([*plain, *added]))


def mean(rows: Sequence[Any], like: Any) -> Any:
    """The mean of rows, summed in their order in float32."""
    total = np.zeros_like(like, dtype=np.float32)
    for row in rows:
        total = total + row.astype(np.float32)
    return total / np.float32(max(len(rows), 1))


def aligned(
    tokens: Rows,
    embeddings: Sequence[Any],
    models: Sequence[Rows],
    *,
    base: int | None,
    rules: Mapping[str, tuple[Sequence[tuple[int, int]], bool]] | None = None,
    n_padding: int = 0,
) -> list[Any]:
    """Each model's embedding in float32, with the rows of ``tokens``.

    A rule of a token is the rows that stand for it, and whether models that have it take them too.
    """
    n_rows = max(tokens.values()) + 1
    made = [np.zeros((n_rows, *one.shape[1:]), np.float32) for one in embeddings]
    for token, number in tokens.items():
        rows = [
            held[token] if held.get(token, len(one)) < len(one) else None
            for held, one in zip(models, embeddings, strict=True)
        ]
        having = [(place, row) for place, row in enumerate(rows) if row is not None]
        if len(having) > 1 and base is not None and rows[base] is not None:
            having = [(base, rows[base])]
        sources, is_forced = (rules or {}).get(token, (having, False))
        default = mean([embeddings[place][row] for place, row in sources], embeddings[0][0])
        for place, row in enumerate(rows):
            own = row is not None and not is_forced
            made[place][number] = embeddings[place][row] if own else default
    padding = [one.mean(0, dtype=np.float64).astype(np.float32)[None] for one in made]
    return [
        np.concatenate([one, np.repeat(row, n_padding, 0)])
        for one, row in zip(made, padding, strict=True)
    ]
