"""Remove a task from a store."""

from __future__ import annotations

from typing import Any

import click

from ..store import remove
from ._options import offline_option, pairs, store_base_option, store_tasks_option
from ._tensor_options import architecture_option, extra_option, missing_option


@click.command()
@click.argument("store")
@click.argument("task")
@click.option("--keep-shared", is_flag=True, help="Leave the shared vector unchanged.")
@store_base_option
@store_tasks_option
@missing_option
@extra_option
@architecture_option
@offline_option
def command(
    store: str,
    task: str,
    keep_shared: bool,
    base: str | None,
    tasks: tuple[str, ...],
    **options: Any,
) -> None:
    """Remove a TASK from a STORE.

    A codec with a shared vector packs all other tasks again, from the experts that were packed,
    unless --keep-shared is given.
    """
    moved = pairs(tasks, "--task", "math=models/math")
    report = remove(store, task, keep_shared=keep_shared, base=base, tasks=moved, **options)
    click.echo(str(report) if report is not None else f"removed {task} from {store}")
