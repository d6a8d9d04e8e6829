"""Find the rows of a joined vocabulary in the embeddings of the models."""

from __future__ import annotations

from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..checkpoint.row_maps import RowMap
from ..errors import InputError
from ..messages import show
from .joining import Known
from .tokenizer import Tokenizer

Place = tuple[int, int]
"""The number of a model, and a row in its embedding."""


@dataclass(frozen=True)
class Rule:
    """The row that a token takes in models that have none, or in all of them."""

    token: str
    sources: tuple[Place, ...] | None = ()
    """The rows whose mean it is; none are zeros; None where the request does not say."""
    is_forced: bool = False
    """True if models that have the token take that row too."""


def rule(
    token: str,
    source: object,
    models: Sequence[Known],
    number: Mapping[str, int],
    *,
    is_forced: bool,
) -> Rule:
    """Return the rule that a recipe gives a token.

    Args:
        token: The token.
        source: The text of a model, ``{kind: zero}``, ``{kind: model_token, ...}`` or None.
        models: The models.
        number: The number of each model by its text.
        is_forced: True if models that have the token take the row too.

    Raises:
        InputError: The model has no such token.
    """
    where = f"tokenizer: tokens: {show(token)}"
    if source is None:
        return Rule(token, None, is_forced)
    if isinstance(source, Mapping) and source["kind"] == "zero":
        return Rule(token, (), is_forced)
    text = str(source["model"] if isinstance(source, Mapping) else source)
    if text not in number:
        raise InputError(
            f"{where}: found model {show(text)}, expected one of the merge: "
            f"{', '.join(dict.fromkeys(model.label for model in models))}"
        )
    place = number[text]
    model = models[place]
    if not isinstance(source, Mapping):
        row, said = model.row(token), f"token {show(token)}"
    elif source.get("token") is not None:
        row, said = model.row(source["token"]), f"token {show(source['token'])}"
    else:
        row, said = int(source["token_id"]), f"token_id {source['token_id']}"
    if not 0 <= row < model.n_rows:
        raise InputError(
            f"{where}: {said} has no row in model {show(model.label)}, which has "
            f"{model.n_rows}; take another, or {{kind: zero}}"
        )
    return Rule(token, ((place, row),), is_forced)


@dataclass(frozen=True)
class Rows:
    """The rows of a joined vocabulary in each model."""

    own: tuple[array[int], ...]
    """By model, the row of each token; -1 where it is another's."""
    others: Mapping[int, tuple[Place, ...]]
    """By token that some model takes from elsewhere, the rows whose mean it is."""
    lacking: tuple[str, ...]
    """Tokens without a row in any model."""
    averaged: tuple[str, ...]
    """Tokens that models without them take as a mean."""


def find_rows(
    tokenizer: Tokenizer,
    models: Sequence[Known],
    rules: Mapping[str, Rule],
    base: int | None,
) -> Rows:
    """Find the row of every token in every model.

    A model that lacks a token takes the row of the only model that has it, or else that of the
    base, or else the mean of those of all models that have it; a token of no model is zeros. A rule
    says otherwise for its token.

    Args:
        tokenizer: The joined tokenizer.
        models: The models.
        rules: Rules by token.
        base: The number of the base among the models, or None.

    Raises:
        InputError: A rule that does not say a row is needed for one.
    """
    own = tuple(array("q", [-1]) * tokenizer.n_rows for _ in models)
    others: dict[int, tuple[Place, ...]] = {}
    lacking, averaged = [], []
    for token, number in tokenizer.tokens.items():
        rows = [model.row(token) for model in models]
        asked = rules.get(token)
        is_forced = asked is not None and asked.is_forced
        if not is_forced:
            for one, row in zip(own, rows, strict=True):
                one[number] = row
            if min(rows) >= 0:
                continue
        if asked is not None:
            others[number] = _stated(asked, models, rows)
            continue
        having = [(place, row) for place, row in enumerate(rows) if row >= 0]
        if len(having) > 1 and base is not None and rows[base] >= 0:
            having = [(base, rows[base])]
        others[number] = tuple(having)
        if not having:
            lacking.append(token)
        elif len(having) > 1:
            averaged.append(token)
    return Rows(own, others, tuple(lacking), tuple(averaged))


def _stated(asked: Rule, models: Sequence[Known], rows: Sequence[int]) -> tuple[Place, ...]:
    if asked.sources is None:
        lacking = [model.label for model, row in zip(models, rows, strict=True) if row < 0]
        why = f"model {show(lacking[0])} has no row for it" if lacking else "it is forced"
        raise InputError(
            f"tokenizer: tokens: {show(asked.token)}: has no source, and {why}; add 'source: "
            "MODEL', or {kind: zero}"
        )
    return asked.sources


def row_map(
    rows: Rows, model: int, having: Sequence[int], n_padding: int, name: str, label: str
) -> RowMap:
    """Return the map of one tensor of a model.

    Args:
        rows: The rows of all models.
        model: The number of the model.
        having: The numbers of the models that have the tensor, in the order of their tensors.
        n_padding: Rows behind those of the tokens.
        name: The tensor, for messages.
        label: The model, for messages.

    Raises:
        InputError: A row comes from a model without the tensor.
    """
    own = rows.own[model]
    place = {number: index for index, number in enumerate(having)}
    means = {}
    for number, sources in rows.others.items():
        if own[number] >= 0 or not sources:
            continue
        if any(one not in place for one, _ in sources):
            raise InputError(
                f"tensor {show(name)}: {label} needs row {number} of another model, which has no "
                "such tensor; state 'tied: untie' or 'tied: tie' (--tied)"
            )
        means[number] = tuple((place[one], row) for one, row in sources)
    return RowMap(own, means, n_padding)


def is_identity(rows: RowMap, n_rows: int) -> bool:
    """Tell if a map leaves a tensor of this many rows as it is."""
    same = len(rows.own) == n_rows and not rows.n_padding
    return same and all(row == place for place, row in enumerate(rows.own))


def padding(n_rows: int, multiple: int | None) -> int:
    """Return the rows that make a number of rows a multiple.

    >>> padding(66, 16), padding(64, 16), padding(66, None)
    (14, 0, 0)
    """
    return -n_rows % multiple if multiple else 0
