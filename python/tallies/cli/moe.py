"""Build a mixture of experts of dense models."""

from __future__ import annotations

import click

from ..moe.building import build_moe
from ..moe.report import summary
from ._bar import wants_bar
from ._options import json_option, offline_option, threads_option
from ._screen import screen


@click.command()
@click.argument("config")
@click.argument("out")
@click.option("--seed", type=int, help="Seed of random gates. Default: the request's, or 0.")
@threads_option
@click.option(
    "--max-shard-size",
    default="5GB",
    show_default=True,
    metavar="SIZE",
    help="Upper bound for the size of an output shard.",
)
@click.option(
    "--overwrite", is_flag=True, help="Replace an earlier result in the place of the output."
)
@click.option("--sync", is_flag=True, help="Flush the output to disk before the output appears.")
@offline_option
@click.option("--quiet", is_flag=True, help="Print nothing but errors.")
@json_option("report")
@click.option(
    "--progress/--no-progress",
    default=None,
    help="Show a progress bar. Default: on a terminal only.",
)
def command(
    config: str,
    out: str,
    seed: int | None,
    threads: int | None,
    max_shard_size: str,
    overwrite: bool,
    sync: bool,
    quiet: bool,
    as_json: bool,
    progress: bool | None,
) -> None:
    """Build a mixture of experts of dense models.

    CONFIG is a file in mergekit-moe's format, or the tallies.json of an earlier mixture. The gates
    are random, or those of a file of statistics.
    """
    report = build_moe(
        config,
        out,
        seed=seed,
        threads=threads,
        max_shard_size=max_shard_size,
        overwrite=overwrite,
        sync=sync,
        progress=wants_bar(progress, quiet),
    )
    if as_json:
        click.echo(report.to_json(), nl=False)
    elif not quiet:
        click.echo(summary(report, screen()))
