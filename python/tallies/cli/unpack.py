"""Write the checkpoint of one task of a store."""

from __future__ import annotations

from typing import Any

import click

from ..store import Store
from ..store.restoring.report import summary
from ._bar import wants_bar
from ._options import io_option, offline_option, run_options, store_base_option
from ._screen import screen


@click.command()
@click.argument("store")
@click.argument("task")
@click.argument("out")
@store_base_option
@click.option(
    "--lambda", "mask_lambda", type=float, help="Lambda of the mask, where there are candidates."
)
@click.option(
    "--max-shard-size",
    default="5GB",
    show_default=True,
    metavar="SIZE",
    help="Upper bound for the size of an output shard.",
)
@click.option(
    "--files-from",
    metavar="DIR",
    help="Model whose configuration and tokenizer files to copy. Default: the task's own.",
)
@click.option(
    "--tensor",
    "tensors",
    multiple=True,
    metavar="NAME",
    help="Write this tensor alone, to a .safetensors file. Repeatable.",
)
@run_options
@io_option
@offline_option
def command(
    store: str,
    task: str,
    out: str,
    base: str | None,
    mask_lambda: float | None,
    tensors: tuple[str, ...],
    quiet: bool,
    as_json: bool,
    progress: bool | None,
    **options: Any,
) -> None:
    """Write the checkpoint of one TASK of a STORE to OUT, a new directory or .safetensors file."""
    # Every tensor of the base is compared when it is used.
    opened = Store.open(store, base, check_base=False)
    shown = wants_bar(progress, quiet)
    options |= {"tensors": tensors or None, "progress": shown}
    report = opened.unpack(task, out, mask_lambda=mask_lambda, **options)
    if as_json:
        click.echo(report.to_json(), nl=False)
    elif not quiet:
        click.echo(summary(report, screen()))
