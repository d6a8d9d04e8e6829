"""``tallies add``."""

from __future__ import annotations

import click

from ..errors import InputError
from ..store import add
from ._options import pairs


@click.command()
@click.argument("store")
@click.option("--task", "tasks", multiple=True, metavar="NAME=DIR", required=True)
@click.option("--base", metavar="DIR", help="Default: where it was when the store was packed.")
@click.option("--lambda", "mask_lambda", type=float, help="Of the new task's mask, for 'tall'.")
@click.option("--max-memory", default="1GiB", show_default=True, metavar="SIZE", help="Of buffers.")
@click.option("--threads", type=int, help="Default: all cores.")
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
def command(
    store: str,
    tasks: tuple[str, ...],
    base: str | None,
    mask_lambda: float | None,
    max_memory: str,
    threads: int | None,
    as_json: bool,
) -> None:
    """Add a task to a STORE.

    Codecs with a shared vector pack all tasks again, from the experts that the store remembers.
    """
    named = pairs(tasks, "--task", "math=models/math")
    if len(named) != 1:
        raise InputError(f"--task: found {len(named)}, expected one; add them one after another")
    ((name, source),) = named.items()
    report = add(
        store,
        name,
        source,
        base=base,
        mask_lambda=mask_lambda,
        max_memory=max_memory,
        threads=threads,
    )
    click.echo(report.to_json() if as_json else f"{report}\n", nl=False)
