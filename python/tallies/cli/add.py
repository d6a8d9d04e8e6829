"""Add a task to a store."""

from __future__ import annotations

from typing import Any

import click

from ..errors import InputError
from ..store import add
from ..store.manifest import Manifest
from ..store.origins import root_of
from ._options import (
    json_option,
    memory_option,
    offline_option,
    pairs,
    store_base_option,
    threads_option,
)
from ._tensor_options import architecture_option, extra_option, missing_option


@click.command()
@click.argument("store")
@click.option(
    "--task",
    "tasks",
    multiple=True,
    metavar="NAME=DIR",
    required=True,
    help="Name of the new task and its expert. Repeat the option for experts of other tasks that "
    "moved.",
)
@store_base_option
@click.option(
    "--lambda", "mask_lambda", type=float, help="Lambda of the new task's mask, for codec 'tall'."
)
@missing_option
@extra_option
@architecture_option
@memory_option
@threads_option
@json_option("report")
@offline_option
def command(
    store: str,
    tasks: tuple[str, ...],
    base: str | None,
    mask_lambda: float | None,
    max_memory: str,
    threads: int | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Add a task to a STORE.

    A codec with a shared vector packs all tasks again, from the experts that were packed.

    \b
    tallies add STORE --task code=DIR
    tallies add STORE --task code=DIR --task math=NEW-DIR-OF-MATH --base DIR
    """
    named = pairs(tasks, "--task", "math=models/math")
    known = Manifest.read(root_of(store)).tasks
    new = [name for name in named if name not in known]
    if not new and len(named) == 1:
        new = list(named)  # which add() refuses
    if len(new) != 1:
        raise InputError(
            f"--task: found {len(new)} tasks that are not in {store} ({', '.join(new)}), expected "
            "one; add them one after another"
            if new
            else f"--task: found none that is not in {store}, expected one"
        )
    name = new[0]
    source = named.pop(name)
    report = add(
        store,
        name,
        source,
        base=base,
        tasks=named,
        mask_lambda=mask_lambda,
        max_memory=max_memory,
        threads=threads,
        **options,
    )
    click.echo(report.to_json() if as_json else f"{report}\n", nl=False)
