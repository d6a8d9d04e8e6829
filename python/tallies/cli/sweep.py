"""Merge many candidates that share the reads of their models."""

from __future__ import annotations

import json
from typing import Any

import click

from ..errors import InputError
from ..merging.sweep import write
from ..merging.sweep_grid import completed
from ..merging.sweep_plan import plan_sweep
from ..merging.sweep_report import summary
from ..recipe.text import parse_lists
from ._bar import wants_bar
from ._options import merge_options, recipe_and_output, request, request_options, run_options
from ._screen import screen


@click.command()
@click.argument("config", required=False, metavar="[RECIPE]")
@click.argument("out_argument", required=False, metavar="[OUT]")
@click.option("--out", metavar="OUT", help="Directory to create.")
@request_options
@run_options
@merge_options
@click.option(
    "--dry-run",
    "--plan",
    is_flag=True,
    help="Print the candidates, and what they read and write; merge nothing.",
)
def command(**options: Any) -> None:
    """Merge many candidates that share the reads of their models.

    \b
    tallies sweep RECIPE.yml OUT --set density=0.1,0.2 --set lambda=0.5,1
    tallies sweep RECIPE.yml OUT --set models.0.weight=0.5,1,[0,1] --plan

    OUT/0001, OUT/0002 and so on are the checkpoints that 'tallies merge' would write with all
    combinations of the values; OUT/sweep.json says which is which.
    """
    _run(**options)


for _option in command.params:
    if _option.name == "settings" and isinstance(_option, click.Option):
        _option.metavar = "KEY=V1,V2,..."
        _option.help = (
            "Key of the recipe and its values, such as density=0.1,0.2 or models.0.weight=1,2. "
            "Repeat the option for each key."
        )


def _run(
    config: str | None,
    out_argument: str | None,
    out: str | None,
    settings: tuple[str, ...],
    quiet: bool,
    as_json: bool,
    progress: bool | None,
    dry_run: bool,
    max_memory: str,
    threads: int | None,
    device: str,
    max_vram: str,
    resume: bool,
    overwrite: bool,
    sync: bool,
    io: str,
    **chosen: Any,
) -> None:
    config, target = recipe_and_output(config, out_argument, out, chosen["method"])
    grid = parse_lists(settings, "--set")
    asked = completed(lambda one: request(config, {**chosen, "settings": ()}, one), grid)
    if dry_run:
        planned = plan_sweep(asked, grid)
        if as_json:
            click.echo(json.dumps(planned.to_json_dict(), indent=2, ensure_ascii=False))
        elif not quiet:
            click.echo(planned.in_words(target, screen()))
        return
    if target is None:
        raise InputError("the output is missing; name a directory to create (--out OUT)")
    report = write(
        asked,
        grid,
        target,
        max_memory=max_memory,
        threads=threads,
        device=device,
        max_vram=max_vram,
        resume=resume,
        overwrite=overwrite,
        sync=sync,
        io=io,
        progress=wants_bar(progress, quiet),
    )
    if as_json:
        click.echo(report.to_json(), nl=False)
    elif not quiet:
        click.echo(summary(report, screen()))
