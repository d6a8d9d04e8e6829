"""Keep one of the candidate masks of a task."""

from __future__ import annotations

import click

from ..store import choose


@click.command()
@click.argument("store")
@click.argument("task")
@click.argument("mask_lambda", metavar="LAMBDA")
def command(store: str, task: str, mask_lambda: str) -> None:
    """Keep the mask for LAMBDA of a TASK in a STORE, and remove its other candidates."""
    choose(store, task, mask_lambda)
    click.echo(f"{store}: task {task} has lambda {mask_lambda}")
