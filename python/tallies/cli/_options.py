"""Define options that several commands share."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import click

from ..errors import InputError
from ..recipe.config import MergeConfig
from ..recipe.overrides import Overrides
from ..recipe.renames import with_renames
from ..recipe.text import from_options, parse_model, parse_options, parse_pairs
from ..spec.choices import AdapterSpace, Choice, Io, Nonfinite, Semantics
from ._tensor_options import (
    architecture_option,
    embeddings_option,
    extra_option,
    missing_option,
    rename_option,
    tied_option,
)

F = TypeVar("F", bound=Callable[..., Any])


def one_of(*choices: Choice) -> click.Choice[str]:
    """Return the click type of an option that takes one of these words."""
    return click.Choice([choice.value for choice in choices])


memory_option = click.option(
    "--max-memory",
    default="1GiB",
    show_default=True,
    metavar="SIZE",
    help="Upper bound for buffer memory, of which each thread takes 512KiB at least.",
)
io_option = click.option(
    "--io",
    type=one_of(*Io),
    default="auto",
    show_default=True,
    help="How to read the inputs: buffered by the system, or direct from the disk.",
)
threads_option = click.option(
    "--threads", type=int, help="Number of threads. Default: OMP_NUM_THREADS, or one for each core."
)
store_base_option = click.option(
    "--base", metavar="DIR", help="The store's base. Default: where it was, seen from the store."
)
store_tasks_option = click.option(
    "--task",
    "tasks",
    multiple=True,
    metavar="NAME=DIR",
    help="Expert of a task that moved. Repeat the option for each.",
)


def _go_offline(ctx: click.Context, option: click.Parameter, wanted: bool) -> None:
    if wanted:
        from ..hub.library import offline

        ctx.with_resource(offline())


offline_option = click.option(
    "--offline",
    is_flag=True,
    expose_value=False,
    callback=_go_offline,
    help="Take models of the hub from the cache alone.",
)
variant_option = click.option(
    "--variant",
    metavar="NAME",
    help="Variant of the weights to read where there are several, such as fp16.",
)


def json_option(result: str) -> Callable[[F], F]:
    """Return the option ``--json`` of a command that prints this result."""
    return click.option("--json", "as_json", is_flag=True, help=f"Print the {result} as JSON.")


def request_options(function: F) -> F:
    """Add the options that state a merge: a method with its models, and a recipe's other keys."""
    options = [
        click.option("--method", metavar="NAME", help="Merge method; 'tallies methods' lists all."),
        click.option("--base", metavar="DIR", help="Model that the other models were tuned from."),
        click.option(
            "--model",
            "models",
            multiple=True,
            metavar="DIR[:key=value,...]",
            help="Model to merge, with parameters of its own. Repeat the option for each model. "
            "With a recipe: one of its models, with other parameters.",
        ),
        click.option(
            "--param",
            "params",
            multiple=True,
            metavar="key=value",
            help="Parameter of the method, for all models. Repeat the option for each parameter.",
        ),
        click.option(
            "--set",
            "settings",
            multiple=True,
            metavar="KEY=VALUE",
            help="Key of the recipe, such as models.0.weight or dtype. Repeat the option for each.",
        ),
        click.option("--post-scale", metavar="NUMBER", help="Factor on the merged task vector."),
        click.option(
            "--layer-scaling",
            metavar="alpha=NUMBER|auto,beta=NUMBER",
            help="Factor on the merged task vector that grows from first to last layer (LiNeS).",
        ),
        click.option(
            "--drop-layers",
            metavar="score=NAME,ratio=NUMBER",
            help="Drop the layers of lowest score from each model (LwPTV).",
        ),
        click.option(
            "--out-dtype", metavar="DTYPE", help="Dtype of the result. Default: the base's."
        ),
        click.option("--seed", type=int, help="Seed of random methods. Default: 0."),
        click.option(
            "--semantics",
            type=one_of(*Semantics),
            help="Author whose variant of the method to follow. Default: paper.",
        ),
        click.option(
            "--nonfinite",
            type=one_of(*Nonfinite),
            help="Treatment of NaN and infinite values. Default: error.",
        ),
        click.option(
            "--max-shard-size",
            metavar="SIZE",
            help="Upper bound for the size of an output shard. Default: 5GB.",
        ),
        click.option(
            "--files-from",
            metavar="DIR",
            help="Model whose configuration and tokenizer files to copy. Default: the base.",
        ),
        click.option(
            "--adapter-rank",
            metavar="R|full",
            help="Merge adapters to an adapter of this rank, or of the sum of their ranks.",
        ),
        click.option(
            "--adapter-space",
            type=one_of(*AdapterSpace),
            help="Space in which what adapters do is merged. Default: full, that of the weights.",
        ),
        click.option(
            "--card/--no-card",
            default=None,
            help="Write a model card and mergekit_config.yml beside the result. Default: yes.",
        ),
        rename_option,
        missing_option,
        extra_option,
        architecture_option,
        tied_option,
        embeddings_option,
        variant_option,
        offline_option,
    ]
    for option in reversed(options):
        function = option(function)
    return function


def run_options(function: F) -> F:
    """Add the options of a run: memory, threads, output, and what is printed."""
    options = [
        memory_option,
        threads_option,
        click.option(
            "--overwrite",
            is_flag=True,
            help="Replace an earlier result in the place of the output.",
        ),
        click.option(
            "--sync", is_flag=True, help="Flush the output to disk before the output appears."
        ),
        click.option("--quiet", is_flag=True, help="Print nothing but errors."),
        json_option("report"),
        click.option(
            "--progress/--no-progress",
            default=None,
            help="Show a progress bar. Default: on a terminal only.",
        ),
    ]
    for option in reversed(options):
        function = option(function)
    return function


def merge_options(function: F) -> F:
    """Add the options of how models are merged on disk: reads, device, and resuming."""
    options = [
        io_option,
        click.option(
            "--device",
            type=click.Choice(["cpu", "cuda"]),
            default="cpu",
            show_default=True,
            help="Processor that merges the tiles.",
        ),
        click.option(
            "--max-vram",
            default="4GiB",
            show_default=True,
            metavar="SIZE",
            help="Upper bound for buffer memory on a CUDA device.",
        ),
        click.option("--resume", is_flag=True, help="Continue an interrupted run."),
    ]
    for option in reversed(options):
        function = option(function)
    return function


def recipe_and_output(
    config: str | None, out_argument: str | None, out: str | None, method: str | None
) -> tuple[str | None, str | None]:
    """Return the recipe's file and the output, as the arguments and ``--out`` name them.

    A lone argument beside ``--method`` that is no file is the output.

    Raises:
        InputError: There are two outputs.
    """
    is_recipe = config is not None and os.path.isfile(config)
    if method and not is_recipe and out_argument is None and out is None:
        config, out = None, config
    if out is not None and out_argument is not None:
        raise InputError(f"found two outputs, {out_argument!r} and {out!r}; give one")
    return config, out or out_argument


def pairs(given: Sequence[str], option: str, example: str) -> dict[str, str]:
    """Return ``NAME=VALUE`` options as a dict.

    Raises:
        InputError: An option has another form, or a name is given twice.
    """
    found: dict[str, str] = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not equals or not value:
            raise InputError(f"{option} {text!r}: expected NAME=VALUE, such as {option} {example}")
        if name in found:
            raise InputError(f"{option} {text!r}: {name!r} is given twice")
        found[name] = value
    return found


def _refuse_method(config: str) -> None:
    """Refuse the name of a method in the place of a recipe file."""
    from .. import methods

    name = methods.proper_name(config)
    if name in methods.names() and not os.path.exists(config):
        raise InputError(
            f"{config!r} is a method, and this place is a recipe file's: --method {name}"
        )


def request(
    config: str | None, chosen: dict[str, Any], values: Mapping[str, Any] | None = None
) -> MergeConfig:
    """Return the request that the options and values make, on top of a recipe file if given."""
    method, base = chosen.pop("method"), chosen.pop("base")
    models, params = chosen.pop("models"), chosen.pop("params")
    renames = chosen.pop("renames")
    for key in ("layer_scaling", "drop_layers"):
        if chosen[key] is not None:
            option = f"--{key.replace('_', '-')}"
            chosen[key] = parse_options(chosen[key], option)
    settings = {**parse_pairs(chosen.pop("settings"), "--set"), **(values or {})}
    if config is not None:
        _refuse_method(config)
        keys = {"merge_method": method, "base_model": base, **chosen}
        given = parse_pairs(params, "--param")
        overrides = Overrides(keys, given, settings, [parse_model(text) for text in models])
        return with_renames(MergeConfig.load(config, overrides), renames)
    if not method:
        raise InputError("expected a recipe file, or --method with --model DIR for each model")
    overrides = Overrides(settings=settings)
    made = MergeConfig.load(from_options(method, base, models, params, **chosen), overrides)
    return with_renames(made, renames)
