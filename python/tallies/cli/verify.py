"""Read a checkpoint, a store or a patch and say whether it is whole."""

from __future__ import annotations

import json
from typing import Any

import click

from ..checkpoint.empty import empty_warning
from ..inspection.verify import verify
from ..messages import counted
from ..recipe.places import local_path
from ..spec.choices import Nonfinite
from ._bar import wants_bar
from ._options import (
    json_option,
    memory_option,
    offline_option,
    one_of,
    pairs,
    threads_option,
    variant_option,
)


@click.command()
@click.argument("path")
@click.option(
    "--nonfinite",
    type=one_of(Nonfinite.ERROR, Nonfinite.WARN),
    default="error",
    show_default=True,
    help="Treatment of NaN and infinite values of a checkpoint.",
)
@click.option("--base", metavar="DIR", help="A store's base, to compare with the one packed.")
@click.option(
    "--task",
    "tasks",
    multiple=True,
    metavar="NAME=DIR",
    help="Expert of a store's task, to compare with the one packed. Repeat the option for each.",
)
@variant_option
@memory_option
@threads_option
@json_option("result")
@offline_option
def command(path: str, tasks: tuple[str, ...], as_json: bool, **options: Any) -> None:
    """Read a checkpoint, a store or a patch and say whether it is whole."""
    named = pairs(tasks, "--task", "math=models/math")
    variant = options["variant"] or ""
    local_path(path, variant, bars=wants_bar(None, quiet=False))  # with a bar for each download
    found = verify(path, tasks=named, **options)
    if as_json:
        click.echo(json.dumps(found, indent=2))
        return
    for name, one in found.get("nonfinite", {}).items():
        click.echo(f"warning: {name}: {one['count']} NaN or infinite values from {one['first']} on")
    if found.get("empty"):
        click.echo(f"warning: {empty_warning(path, found['empty'])}")
    if found.get("base_missing"):
        click.echo(f"warning: {found['base_missing']}")
    click.echo(
        f"{path}: {found['kind']} is whole: {counted(found['tensors'], 'tensor')} in "
        f"{counted(found['files'], 'file')}, {found['n_bytes']:,} bytes"
    )
