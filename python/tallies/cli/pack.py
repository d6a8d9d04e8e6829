"""Keep many experts of one base in a store."""

from __future__ import annotations

from typing import Any

import click

from ..errors import InputError
from ..messages import either
from ..spec.choices import Nonfinite
from ..store import pack
from ..store.codecs import registry as codecs
from ..store.packing.summary import summary
from ._bar import wants_bar
from ._options import io_option, offline_option, one_of, pairs, run_options, variant_option
from ._screen import screen
from ._tensor_options import architecture_option, extra_option, missing_option


@click.command()
@click.option(
    "--base",
    metavar="DIR",
    help="Model that all experts were tuned from. Codec lossless keeps experts without one, too.",
)
@click.option(
    "--task",
    "tasks",
    multiple=True,
    metavar="NAME=DIR",
    help="Task and its expert. Repeat the option for each task.",
)
@click.option("--out", required=True, metavar="STORE", help="Directory to create.")
@click.option(
    "--codec",
    default="tall",
    show_default=True,
    metavar="NAME",
    help=f"Encoding of the experts: {either(codecs.names())}. 'tallies methods NAME' explains one.",
)
@click.option(
    "--param",
    "params",
    multiple=True,
    metavar="key=value",
    help="Parameter of the codec. Repeat the option for each parameter.",
)
@click.option(
    "--nonfinite",
    type=one_of(Nonfinite.ERROR, Nonfinite.PROPAGATE),
    default="error",
    help="Treatment of NaN and infinite values. Default: error.",
)
@variant_option
@missing_option
@extra_option
@architecture_option
@run_options
@io_option
@offline_option
def command(
    base: str | None,
    tasks: tuple[str, ...],
    out: str,
    codec: str,
    params: tuple[str, ...],
    nonfinite: str,
    quiet: bool,
    as_json: bool,
    progress: bool | None,
    **options: Any,
) -> None:
    """Keep many experts of one base in a store.

    \b
    tallies pack --base DIR --task math=DIR --task code=DIR --out STORE
    tallies pack ... --codec tall --param lambda=0.2,0.4,0.6
    tallies pack ... --codec tall --param lambda.math=0.3 --param lambda.code=0.5
    tallies pack --task model=DIR --codec lossless --out STORE
    """
    parameters: dict[str, Any] = dict(pairs(params, "--param", "density=0.1"))
    by_task = {
        name: parameters.pop(name) for name in list(parameters) if name.startswith("lambda.")
    }
    if by_task:
        if "lambda" in parameters:
            raise InputError("--param lambda: is given for all tasks and for one; keep one form")
        parameters["lambda"] = {name.partition(".")[2]: value for name, value in by_task.items()}
    named = pairs(tasks, "--task", "math=models/math")
    report = pack(
        base,
        named,
        out,
        codec=codec,
        nonfinite=nonfinite,
        progress=wants_bar(progress, quiet),
        **options,
        **parameters,
    )
    if as_json:
        click.echo(report.to_json(), nl=False)
    elif not quiet:
        click.echo(summary(report, screen()))
