"""Define the options about models that differ."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import click

from ..recipe.tensor_keys import rules
from ..spec.choices import Architecture, Embeddings, Tied

F = TypeVar("F", bound=Callable[..., Any])


def _rules(context: click.Context, parameter: click.Parameter, texts: Sequence[str]) -> Any:
    return rules(texts)


missing_option = click.option(
    "--missing",
    multiple=True,
    callback=_rules,
    metavar="[FILTER=]error|base",
    help="Treatment of tensors that a model lacks. Default: error.",
)
extra_option = click.option(
    "--extra",
    multiple=True,
    callback=_rules,
    metavar="[FILTER=]error|drop",
    help="Treatment of tensors that the base lacks. Default: error.",
)
architecture_option = click.option(
    "--architecture",
    type=click.Choice([one.value for one in Architecture]),
    help="Architectures of the models: the same for all, or any whose tensors fit. Default: same.",
)
tied_option = click.option(
    "--tied",
    type=click.Choice([one.value for one in Tied]),
    help="Output head of the result, where a model has its embedding for it. Default: as-base.",
)
embeddings_option = click.option(
    "--embeddings",
    metavar="|".join([*Embeddings, "FILE"]),
    help="Treatment of vocabularies of different sizes, or a file with the result's embeddings. "
    "Default: error.",
)
rename_option = click.option(
    "--rename",
    "renames",
    multiple=True,
    metavar="MODEL=OLD:NEW",
    help="Prefix of a model's tensors, and the prefix in its place. Repeat for each.",
)
