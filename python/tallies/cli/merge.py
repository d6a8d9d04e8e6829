"""Merge checkpoints into a new one."""

from __future__ import annotations

import os
from typing import Any

import click

from ..errors import InputError
from ..lora import adapter_explain, adapter_report
from ..lora.adapter_plan import AdapterPlan
from ..merging.checkpoints import merge
from ..merging.explain import costs, explain
from ..merging.plans import plan
from ..merging.report import MergeReport
from ..merging.summary import summary
from ..sizes import parse_size
from ._bar import wants_bar
from ._options import io_option, request, request_options, run_options
from ._screen import screen


@click.command()
@click.argument("config", required=False, metavar="[CONFIG]")
@click.argument("out_argument", required=False, metavar="[OUT]")
@click.option("--out", metavar="OUT", help="Directory or .safetensors file to create.")
@request_options
@run_options
@io_option
@click.option(
    "--device",
    type=click.Choice(["cpu", "cuda"]),
    default="cpu",
    show_default=True,
    help="Processor that merges the tiles.",
)
@click.option(
    "--max-vram",
    default="4GiB",
    show_default=True,
    metavar="SIZE",
    help="Upper bound for buffer memory on a CUDA device.",
)
@click.option("--resume", is_flag=True, help="Continue an interrupted run.")
@click.option(
    "--dry-run", is_flag=True, help="Print the plan, as 'tallies plan' does, and merge nothing."
)
def command(**options: Any) -> None:
    """Merge checkpoints into a new one.

    \b
    tallies merge CONFIG.yml OUT
    tallies merge --method ties --base DIR --model DIR --model DIR --out OUT

    CONFIG is a recipe in mergekit's format, or the tallies.json of an earlier merge.
    """
    run(**options)


def run(
    config: str | None,
    out_argument: str | None,
    out: str | None,
    max_memory: str,
    threads: int | None,
    device: str,
    max_vram: str,
    resume: bool,
    overwrite: bool,
    sync: bool,
    io: str,
    quiet: bool,
    as_json: bool,
    progress: bool | None,
    dry_run: bool,
    **chosen: Any,
) -> None:
    """Merge, or print the plan of the merge, as the options say."""
    is_recipe = config is not None and os.path.isfile(config)
    if chosen["method"] and not is_recipe and out_argument is None and out is None:
        config, out = None, config
    if out is not None and out_argument is not None:
        raise InputError(f"found two outputs, {out_argument!r} and {out!r}; give one")
    asked = request(config, chosen)
    target = out or out_argument
    if dry_run:
        made = plan(asked)
        max_bytes = parse_size(max_memory)
        if isinstance(made, AdapterPlan):
            data = made.to_json_dict()
            text = adapter_explain.explain(made, out=target, screen=screen())
        else:
            data = {**made.to_json_dict(), **costs(made, max_bytes, threads)}
            text = explain(made, max_bytes=max_bytes, threads=threads, out=target, screen=screen())
        if as_json:
            click.echo(_json(data))
        elif not quiet:
            click.echo(text)
        return
    if target is None:
        raise InputError(
            "the output is missing; name a directory or a .safetensors file to create (--out OUT)"
        )
    report = merge(
        asked,
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
        if isinstance(report, MergeReport):
            click.echo(summary(report, screen()))
        else:
            click.echo(adapter_report.summary(report, screen()))


def _json(data: dict[str, Any]) -> str:
    import json

    return json.dumps(data, indent=2, ensure_ascii=False)
