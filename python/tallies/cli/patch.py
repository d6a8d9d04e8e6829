"""Write the exact difference of two models."""

from __future__ import annotations

from typing import Any

import click

from ..patches.making import CODERS, make_patch
from ..patches.report import summary
from ._bar import wants_bar
from ._options import io_option, offline_option, run_options, variant_option
from ._screen import screen


@click.command()
@click.argument("old")
@click.argument("new")
@click.option(
    "--out",
    required=True,
    metavar="PATCH",
    help="Directory to create, or a .safetensors file.",
)
@click.option(
    "--values",
    type=click.Choice(["xor", "difference", "new"]),
    default="xor",
    show_default=True,
    help="What is kept of a changed element: old ^ new, new - old, or new.",
)
@click.option(
    "--coder",
    type=click.Choice(CODERS),
    default="none",
    show_default=True,
    help="Coder of what is stored.",
)
@variant_option
@run_options
@io_option
@offline_option
def command(
    old: str,
    new: str,
    quiet: bool,
    as_json: bool,
    progress: bool | None,
    **options: Any,
) -> None:
    """Write what leads from the model OLD to the model NEW, bit for bit.

    \b
    tallies patch OLD NEW --out PATCH
    tallies patch OLD NEW --out PATCH.safetensors --coder zstd
    """
    report = make_patch(old, new, progress=wants_bar(progress, quiet), **options)
    if as_json:
        click.echo(report.to_json(), nl=False)
    elif not quiet:
        click.echo(summary(report, screen()))
