"""``tallies remove``."""

from __future__ import annotations

import click

from ..store import remove


@click.command()
@click.argument("store")
@click.argument("task")
@click.option("--keep-shared", is_flag=True, help="Leave the shared vector as it is.")
@click.option("--base", metavar="DIR", help="Default: where it was when the store was packed.")
def command(store: str, task: str, keep_shared: bool, base: str | None) -> None:
    """Remove a TASK from a STORE.

    Codecs with a shared vector pack all other tasks again, from the experts that the store
    remembers, unless --keep-shared.
    """
    report = remove(store, task, keep_shared=keep_shared, base=base)
    click.echo(str(report) if report is not None else f"removed {task} from {store}")
