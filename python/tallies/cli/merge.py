"""Merge checkpoints into a new one."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from ..errors import InputError
from ..merging.checkpoints import merge
from ..merging.report import MergeReport
from ..sizes import parse_size
from ._bar import wants_bar
from ._options import merge_options, recipe_and_output, request, request_options, run_options
from ._screen import screen

if TYPE_CHECKING:
    from ..lora.adapter_report import AdapterReport
    from ..recipe.config import MergeConfig


@click.command()
@click.argument("config", required=False, metavar="[CONFIG]")
@click.argument("out_argument", required=False, metavar="[OUT]")
@click.option("--out", metavar="OUT", help="Directory or .safetensors file to create.")
@request_options
@run_options
@merge_options
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
    config, target = recipe_and_output(config, out_argument, out, chosen["method"])
    asked = request(config, chosen)
    if dry_run:
        with _without_collector():
            said = _planned(asked, parse_size(max_memory), threads, target, as_json=as_json)
        if as_json or not quiet:
            click.echo(said)
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
        click.echo(_summary(report))


@contextlib.contextmanager
def _without_collector() -> Iterator[None]:
    """Look for no cycles of objects: a plan makes many, and a fifth of its time went there."""
    is_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if is_on:
            gc.enable()


def _planned(
    asked: MergeConfig, max_bytes: int, threads: int | None, target: str | None, *, as_json: bool
) -> str:
    """Return the plan of a request in words, or as JSON."""
    from ..merging.explain import costs, explain
    from ..merging.plan import MergePlan
    from ..merging.plans import plan

    made = plan(asked)
    if isinstance(made, MergePlan):
        if as_json:
            return _json({**made.to_json_dict(), **costs(made, max_bytes, threads)})
        return explain(made, max_bytes=max_bytes, threads=threads, out=target, screen=screen())
    if as_json:
        return _json(made.to_json_dict())
    from ..lora import adapter_explain

    return adapter_explain.explain(made, out=target, screen=screen())


def _summary(report: MergeReport | AdapterReport) -> str:
    if isinstance(report, MergeReport):
        from ..merging.summary import summary

        return summary(report, screen())
    from ..lora import adapter_report

    return adapter_report.summary(report, screen())


def _json(data: dict[str, Any]) -> str:
    import json

    return json.dumps(data, indent=2, ensure_ascii=False)
