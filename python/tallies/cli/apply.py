"""Apply patches to a model, or take them back."""

from __future__ import annotations

from typing import Any

import click

from ..errors import InputError
from ..patches.applying import apply_patch
from ..patches.report import summary
from ._bar import wants_bar
from ._options import (
    io_option,
    json_option,
    memory_option,
    offline_option,
    threads_option,
    variant_option,
)
from ._screen import screen


@click.command()
@click.argument("patches", nargs=-1, metavar="PATCH...")
@click.option(
    "--to",
    required=True,
    metavar="DIR",
    help="Model to change: the one that the patches start from, or with --undo make.",
)
@click.option("--out", metavar="NEW", help="Directory to create, or a .safetensors file.")
@click.option("--in-place", is_flag=True, help="Change the model where it is.")
@click.option(
    "--undo",
    is_flag=True,
    help="Take the patches back. In place without a patch: take back what was interrupted.",
)
@variant_option
@memory_option
@threads_option
@click.option(
    "--overwrite", is_flag=True, help="Replace an earlier result in the place of the output."
)
@click.option(
    "--sync/--no-sync",
    default=None,
    help="Flush the result to disk before it counts. Default: in place only.",
)
@click.option("--quiet", is_flag=True, help="Print nothing but errors.")
@json_option("report")
@click.option(
    "--progress/--no-progress",
    default=None,
    help="Show a progress bar. Default: on a terminal only.",
)
@io_option
@offline_option
def command(
    patches: tuple[str, ...],
    to: str,
    out: str | None,
    in_place: bool,
    undo: bool,
    quiet: bool,
    as_json: bool,
    progress: bool | None,
    **options: Any,
) -> None:
    """Apply PATCHes to a model in their order, and check all that is read and made.

    A run in place that is killed leaves the old values beside the files: the next run in that
    place begins by restoring the old model.

    \b
    tallies apply PATCH --to OLD --out NEW
    tallies apply MONDAY TUESDAY --to OLD --in-place
    tallies apply MONDAY TUESDAY --to OLD --in-place --undo
    """
    if in_place == (out is not None):
        found = "both --out and --in-place" if in_place else "neither --out nor --in-place"
        raise InputError(f"found {found}, expected one of them")
    if not patches and not (undo and in_place):
        raise InputError("expected a PATCH")
    shown = wants_bar(progress, quiet)
    report = apply_patch(patches, to, out, undo=undo, progress=shown, **options)
    if as_json:
        click.echo(report.to_json(), nl=False)
    elif not quiet:
        click.echo(summary(report, screen()))
