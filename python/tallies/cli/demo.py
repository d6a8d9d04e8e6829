"""Train small models on the spot, merge and pack them, and compare."""

from __future__ import annotations

import click

from ..demo import DEFAULT_DIRECTORY, run


@click.command()
@click.argument("directory", default=DEFAULT_DIRECTORY, metavar="[DIR]")
@click.option(
    "--seed", type=int, default=0, show_default=True, help="Seed of the data and the training."
)
def command(directory: str, seed: int) -> None:
    """Train small models on the spot, merge and pack them, and compare.

    The models and results stay in DIR (default: tallies-demo).
    """
    run(directory, seed=seed, echo=click.echo)
