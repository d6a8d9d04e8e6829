"""Options that several commands share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import click

from ..errors import InputError
from ..recipe.config import MergeConfig
from ..recipe.text import parse_options
from ..spec.choices import Choice, Nonfinite, Semantics

F = TypeVar("F", bound=Callable[..., Any])


def one_of(*choices: Choice) -> click.Choice[str]:
    """Return the click type of an option that takes one of these words."""
    return click.Choice([choice.value for choice in choices])


def request_options(function: F) -> F:
    """What to merge: a recipe file, or a method with its models."""
    options = [
        click.option("--method", metavar="NAME", help="Merge method; see 'tallies methods'."),
        click.option("--base", metavar="DIR", help="The model that the others were tuned from."),
        click.option(
            "--model",
            "models",
            multiple=True,
            metavar="DIR[:key=value,...]",
            help="A model to merge, with parameters of its own. Repeat for each.",
        ),
        click.option(
            "--param",
            "params",
            multiple=True,
            metavar="key=value",
            help="A parameter of the method. Repeat for each.",
        ),
        click.option("--post-scale", metavar="NUMBER", help="Factor on the merged task vector."),
        click.option(
            "--layer-scaling",
            metavar="alpha=NUMBER|auto,beta=NUMBER",
            help="Factor on it that grows from the first layer to the last (LiNeS).",
        ),
        click.option(
            "--drop-layers",
            metavar="score=NAME,ratio=NUMBER",
            help="Leave out the layers of lowest score of each model (LwPTV).",
        ),
        click.option("--out-dtype", metavar="DTYPE", help="Of the result. Default: the base's."),
        click.option("--seed", type=int, help="For random methods. Default: 0."),
        click.option(
            "--semantics",
            type=one_of(*Semantics),
            help="Whose variant of the method. Default: paper.",
        ),
        click.option(
            "--nonfinite",
            type=one_of(*Nonfinite),
            help="What to do about NaN and infinite values. Default: error.",
        ),
        click.option("--max-shard-size", metavar="SIZE", help="Of a file. Default: 5GB."),
        click.option(
            "--files-from",
            metavar="DIR",
            help="Model whose configuration and tokenizer files to copy. Default: the base.",
        ),
    ]
    for option in reversed(options):
        function = option(function)
    return function


def run_options(function: F) -> F:
    """How to run: memory, threads, output."""
    options = [
        click.option(
            "--max-memory", default="1GiB", show_default=True, metavar="SIZE", help="Of buffers."
        ),
        click.option("--threads", type=int, help="Default: all cores."),
        click.option("--overwrite", is_flag=True, help="Replace what is in the output directory."),
        click.option("--sync", is_flag=True, help="Flush the result to disk before it appears."),
        click.option("--quiet", is_flag=True, help="Print nothing but errors."),
        click.option("--json", "as_json", is_flag=True, help="Print the report as JSON."),
        click.option("--progress/--no-progress", default=None, help="Default: on a terminal."),
    ]
    for option in reversed(options):
        function = option(function)
    return function


def pairs(given: Sequence[str], option: str, example: str) -> dict[str, str]:
    """``NAME=VALUE`` options as a dict; InputError for another form and for a name given twice."""
    found: dict[str, str] = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not equals or not value:
            raise InputError(f"{option} {text!r}: expected NAME=VALUE, such as {option} {example}")
        if name in found:
            raise InputError(f"{option} {text!r}: {name!r} is given twice")
        found[name] = value
    return found


def request(config: str | None, chosen: dict[str, Any]) -> MergeConfig:
    """The request that the options make, on top of the recipe file if there is one."""
    method, base = chosen.pop("method"), chosen.pop("base")
    models, params = chosen.pop("models"), chosen.pop("params")
    for key in ("layer_scaling", "drop_layers"):
        if chosen[key] is not None:
            option = f"--{key.replace('_', '-')}"
            chosen[key] = parse_options(chosen[key], option)
    if config is not None:
        if method or base or models or params:
            raise InputError(
                "found a recipe file and --method, --base, --model or --param; give one of the two"
            )
        return MergeConfig.load(config).replace(**chosen)
    if not method:
        raise InputError("expected a recipe file, or --method with --model DIR for each model")
    return MergeConfig.from_options(method, base, models, params, **chosen)
