"""``tallies verify``."""

from __future__ import annotations

import json

import click

from ..inspection.verify import verify
from ..spec.choices import Nonfinite
from ._options import one_of


@click.command()
@click.argument("path")
@click.option(
    "--nonfinite",
    type=one_of(Nonfinite.ERROR, Nonfinite.WARN),
    default="error",
    show_default=True,
    help="What to do about NaN and infinite values of a checkpoint.",
)
@click.option("--max-memory", default="1GiB", show_default=True, metavar="SIZE", help="Of buffers.")
@click.option("--threads", type=int, help="Default: all cores.")
@click.option("--json", "as_json", is_flag=True, help="Print it as JSON.")
def command(path: str, nonfinite: str, max_memory: str, threads: int | None, as_json: bool) -> None:
    """Read a checkpoint or a store and say whether it is whole."""
    found = verify(path, nonfinite=nonfinite, max_memory=max_memory, threads=threads)
    if as_json:
        click.echo(json.dumps(found, indent=2))
        return
    for name, one in found.get("nonfinite", {}).items():
        click.echo(f"warning: {name}: {one['count']} NaN or infinite values from {one['first']} on")
    click.echo(
        f"{path}: {found['kind']} is whole: {found['tensors']} tensors in {found['files']} files, "
        f"{found['n_bytes']:,} bytes"
    )
