"""Explains the plan of a merge of adapters to a person."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from ..merging.values import in_words, listed
from ..messages import counted, headline, labelled, some, warned
from ..sizes import format_size
from .operands import Operand, rank_of

if TYPE_CHECKING:
    from .adapter_plan import AdapterPlan


def explain(made: AdapterPlan, *, out: str | None = None, screen: int | None = None) -> str:
    """Return what a merge of adapters would do, as text.

    Args:
        made: The plan.
        out: The output, where it is known.
        screen: The columns of a terminal; None where the text goes elsewhere.
    """
    config = made.config
    return "\n".join(
        [
            headline(config.merge_method, config.semantics, len(made.operands)),
            *(labelled(label, text, screen) for label, text in _rows(made, out)),
            *(warned(one, screen) for one in made.warnings),
        ]
    )


def _rows(made: AdapterPlan, out: str | None) -> Iterator[tuple[str, str]]:
    yield "base", made.base or "named by no adapter"
    for number, (name, one) in enumerate(zip(made.names, made.operands, strict=True)):
        yield "adapter", f"{name}: {', '.join(describe(one, made.own_parameters(number)))}"
    yield "parameters", listed(made.shared_parameters())
    ranks = [made.rank(name) for name in made.targets]
    yield "rank", f"{rank_span(ranks)} for {counted(len(ranks), 'tensor')}, factors {made.dtype}"
    yield "way", way(made)
    if made.saved:
        yield "saved", f"{counted(len(made.saved), 'tensor')} merged whole: {some(made.saved)}"
    yield "reads", format_size(made.bytes_read)
    where = "" if out is None else f" to {out}"
    yield "writes", f"up to {format_size(made.most_bytes_written)}{where}"


def way(made: AdapterPlan) -> str:
    """Return how the factors come to be, in words."""
    if made.of_factors:
        return "the factors one by one, with cross terms of the adapters in the product"
    if not made.is_sum:
        return "the products tile by tile, then a randomised SVD of what is merged"
    if made.config.adapter_rank == "full":
        return "exact: the factors of all adapters side by side"
    return "the best of that rank: QR of the factors, SVD of their small product"


def describe(one: Operand, parameters: Mapping[str, Any]) -> Iterator[str]:
    """Yield the facts of an adapter, as text."""
    yield one.adapter.kind
    yield f"rank {rank_span([rank_of(changes) for changes in one.changes.values()])}"
    yield counted(len(one.changes), "tensor")
    yield from (f"{key} {in_words(value)}" for key, value in parameters.items())


def rank_span(ranks: list[int]) -> str:
    """Return the least and the most of some ranks, as text.

    >>> rank_span([8, 8]), rank_span([4, 16, 8])
    ('8', '4 to 16')
    """
    found = sorted({*ranks}) or [0]
    return str(found[0]) if len(found) == 1 else f"{found[0]} to {found[-1]}"
