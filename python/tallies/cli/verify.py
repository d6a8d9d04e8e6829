"""Read a checkpoint or a store and say whether it is whole."""

from __future__ import annotations

import json

import click

from ..checkpoint.empty import empty_warning
from ..inspection.verify import verify
from ..spec.choices import Nonfinite
from ._options import json_option, memory_option, one_of, threads_option


@click.command()
@click.argument("path")
@click.option(
    "--nonfinite",
    type=one_of(Nonfinite.ERROR, Nonfinite.WARN),
    default="error",
    show_default=True,
    help="Treatment of NaN and infinite values of a checkpoint.",
)
@memory_option
@threads_option
@json_option("result")
def command(path: str, nonfinite: str, max_memory: str, threads: int | None, as_json: bool) -> None:
    """Read a checkpoint or a store and say whether it is whole."""
    found = verify(path, nonfinite=nonfinite, max_memory=max_memory, threads=threads)
    if as_json:
        click.echo(json.dumps(found, indent=2))
        return
    for name, one in found.get("nonfinite", {}).items():
        click.echo(f"warning: {name}: {one['count']} NaN or infinite values from {one['first']} on")
    if found.get("empty"):
        click.echo(f"warning: {empty_warning(path, found['empty'])}")
    click.echo(
        f"{path}: {found['kind']} is whole: {found['tensors']} tensors in {found['files']} files, "
        f"{found['n_bytes']:,} bytes"
    )
