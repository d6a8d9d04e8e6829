"""Keep one of the candidate masks of a task."""

from __future__ import annotations

import click

from ..store import choose
from ._options import offline_option, pairs, store_base_option, store_tasks_option


@click.command()
@click.argument("store")
@click.argument("task")
@click.argument("mask_lambda", metavar="LAMBDA")
@store_base_option
@offline_option
@store_tasks_option
def command(
    store: str, task: str, mask_lambda: str, base: str | None, tasks: tuple[str, ...]
) -> None:
    """Keep the mask for LAMBDA of a TASK in a STORE, and remove its other candidates."""
    moved = pairs(tasks, "--task", "math=models/math")
    choose(store, task, mask_lambda, base=base, tasks=moved)
    click.echo(f"{store}: task {task} has lambda {mask_lambda}")
