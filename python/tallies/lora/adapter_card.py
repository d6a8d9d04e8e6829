"""Writes the model card of a merged adapter."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from .._version import __version__
from ..checkpoint.cards import RECIPE_NAME, front_matter
from ..hub.names import may_be_model
from ..merging.recipe_file import recipe_yaml
from ..merging.values import in_words, listed
from ..messages import counted
from ..recipe.config import MergeConfig
from .adapter_explain import rank_span
from .adapter_plan import AdapterPlan
from .adapter_report import AdapterReport


def card_text(made: AdapterPlan, report: AdapterReport, title: str, recipe: MergeConfig) -> str:
    """Return the model card of a merge of adapters.

    Args:
        made: The plan of the merge.
        report: The report on it.
        title: The name of the result.
        recipe: The request as files beside the result state it.
    """
    import yaml

    matter: dict[str, Any] = {}
    if report.base is not None and "/" in report.base and may_be_model(report.base):
        matter["base_model"] = report.base
    matter |= {"library_name": "peft", **_license(made)}
    matter["tags"] = ["lora", "mergekit", "merge"]
    head = yaml.safe_dump(matter, allow_unicode=True).strip()
    body = "\n\n".join(_body(made, report, recipe))
    return f"---\n{head}\n---\n\n# {title}\n\n{body}\n"


def _license(made: AdapterPlan) -> dict[str, Any]:
    """Return the licence that all adapters state, or that they differ."""
    cards = [front_matter(one.adapter.path) for one in made.operands if one.adapter.path.is_dir()]
    stated = {str(card["license"]) for card in cards if card.get("license")}
    if not stated:
        return {}
    return {"license": stated.pop() if len(stated) == 1 else "other"}


def _body(made: AdapterPlan, report: AdapterReport, recipe: MergeConfig) -> Iterator[str]:
    method = made.config.method
    yield (
        f"An adapter made of {counted(len(report.adapters), 'adapter')} by `{report.method}` "
        f"({report.semantics} semantics) with tallies {__version__}. {method.summary()}"
    )
    yield f"```text\n{method.formula}\n```"
    yield f"{method.paper}."
    yield (
        "The products of the factors are merged, not the factors: "
        f"{report.way}. Relative error of all changes together: {report.error:.3g}; "
        "`tallies.json` has that of every tensor."
    )
    yield "## Adapters"
    rows = [
        (one.path, one.kind, rank_span(one.rank), listed(one.parameters)) for one in report.adapters
    ]
    yield _table(("adapter", "kind", "rank", "parameters"), rows)
    yield "## Parameters"
    yield _table(
        ("parameter", "value"),
        [(f"`{name}`", in_words(value)) for name, value in report.parameters.items()],
    )
    yield "## Recipe"
    yield f"`tallies merge {RECIPE_NAME} OUT` repeats this merge; `tallies.json` is its report."
    yield f"```yaml\n{recipe_yaml(recipe).strip()}\n```"


def _table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join(
        f"| {' | '.join(' '.join(cell.split()).replace('|', chr(92) + '|') for cell in line)} |"
        for line in lines
    )
