"""``tallies unpack``."""

from __future__ import annotations

from typing import Any

import click

from ..store import Store
from ._bar import bar
from ._options import run_options


@click.command()
@click.argument("store")
@click.argument("task")
@click.argument("out")
@click.option("--base", metavar="DIR", help="Default: where it was when the store was packed.")
@click.option("--lambda", "mask_lambda", type=float, help="Which of several candidates.")
@click.option("--max-shard-size", default="5GB", show_default=True, metavar="SIZE")
@click.option("--files-from", metavar="DIR", help="Whose small files to copy. Default: the base.")
@run_options
def command(
    store: str,
    task: str,
    out: str,
    base: str | None,
    mask_lambda: float | None,
    quiet: bool,
    as_json: bool,
    progress: bool | None,
    **options: Any,
) -> None:
    """Write the checkpoint of one TASK of a STORE to the new directory OUT."""
    # Every tensor of the base is compared when it is used.
    opened = Store.open(store, base, check_base=False)
    with bar("unpack", progress, quiet) as moved:
        report = opened.unpack(task, out, mask_lambda=mask_lambda, progress=moved, **options)
    if as_json:
        click.echo(report.to_json(), nl=False)
    elif not quiet:
        click.echo(str(report))
