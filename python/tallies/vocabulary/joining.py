"""Join the tokenizers of models to one, whose first tokens are those of the base."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from .tokenizer import Tokenizer, plain, refuse_sparse, with_tokens


@dataclass(frozen=True)
class Known:
    """The vocabulary of a model of a merge."""

    label: str
    """The model, as the recipe names it."""
    tokenizer: Tokenizer
    n_rows: int
    """Tokens from this number on have no row."""

    def row(self, token: str) -> int:
        """Return the row of a token; -1 if the model has none."""
        number = self.tokenizer.tokens.get(token, -1)
        return number if number < self.n_rows else -1


def union(base: Tokenizer, models: Iterable[Known], why: str) -> tuple[Tokenizer, list[str]]:
    """Return a tokenizer with all tokens that any model has a row for.

    Behind the tokens of the base stand the plain tokens of the other models in their order, then
    the added ones. A plain token of another model is added as it is, found in any text. The flags
    of an added token are those that the first model with it gives.

    Args:
        base: The tokenizer that goes first.
        models: All models, the base's first.
        why: The part of the request that asks for it.

    Returns:
        The tokenizer, and warnings.
    """
    ordinary: dict[str, dict[str, Any]] = {}
    added: dict[str, dict[str, Any]] = {}
    differing: list[str] = []
    for model in models:
        for token in model.tokenizer.tokens:
            if model.row(token) < 0:
                continue
            flags = model.tokenizer.added.get(token)
            if flags is None:
                ordinary.setdefault(token, plain())
            elif added.setdefault(token, dict(flags)) != flags:
                differing.append(token)
    tokens = {token: flags for token, flags in ordinary.items() if token not in added} | added
    warnings = [
        f"token {token!r}: the models add it with different flags; those of the first one count"
        for token in dict.fromkeys(differing)
    ]
    return with_tokens(base, tokens, why), warnings


def joined(
    source: str | Tokenizer,
    base: Tokenizer,
    models: Sequence[Known],
    tokens: Iterable[str],
    why: str,
) -> tuple[Tokenizer, list[str]]:
    """Return the tokenizer of a result, and warnings.

    Args:
        source: ``base``, ``union``, or another tokenizer.
        base: The tokenizer of the base, without tokens that have no row.
        models: The models, the base's first.
        tokens: Tokens that the result has to have.
        why: The part of the request that asks for it.

    Raises:
        InputError: The other tokenizer has a token far beyond its others.
    """
    warnings: list[str] = []
    if isinstance(source, Tokenizer):
        refuse_sparse(source, why)
        found = source
    elif source == "union":
        found, warnings = union(base, models, why)
    else:
        found = base
    return with_tokens(found, {token: plain() for token in tokens}, why), warnings
