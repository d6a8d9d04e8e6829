"""Show what differs between two models, tensor by tensor."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from ..inspection.diff import diff
from ..inspection.diff_table import HEADINGS, ending, layer_rows
from ..messages import shortened
from ._bar import wants_bar
from ._options import (
    json_option,
    memory_option,
    offline_option,
    threads_option,
    variant_option,
)
from ._page_file import PageFile
from ._screen import screen

if TYPE_CHECKING:
    from ..inspection.diff import DiffReport

_DIFFERENT = 1
_LEAST_LABEL = 16


@click.command()
@click.argument("a")
@click.argument("b")
@json_option("report")
@click.option("--html", metavar="FILE", help="Write the report as a page for a browser as well.")
@click.option("--overwrite", is_flag=True, help="Replace an earlier page in the place of --html.")
@click.option(
    "--progress/--no-progress",
    default=None,
    help="Show a progress bar. Default: on a terminal only.",
)
@variant_option
@memory_option
@threads_option
@offline_option
@click.pass_context
def command(
    ctx: click.Context,
    /,
    a: str,
    b: str,
    as_json: bool,
    html: str | None,
    overwrite: bool,
    progress: bool | None,
    **options: Any,
) -> None:
    """Show what differs between models A and B, tensor by tensor.

    Exit status: 0 where all tensors are equal bit for bit, 1 where something differs.
    """
    file = None if html is None else PageFile(html, overwrite=overwrite)
    report = diff(a, b, progress=wants_bar(progress, quiet=False), **options)
    if file is not None:
        file.write(report.to_html())
    if as_json:
        click.echo(report.to_json(), nl=False)
    elif (columns := screen()) is None:
        click.echo(str(report))
    else:
        _show(report, columns)
    if not report.is_equal:
        ctx.exit(_DIFFERENT)


def _show(report: DiffReport, columns: int) -> None:
    """Print the table on a terminal, with what changed in colour; numbers are never cut."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    layers = report.by_layer()
    rows = [["layer", *HEADINGS], *layer_rows(report)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    n_shown = len(widths)
    while n_shown > 2 and columns - sum(w + 1 for w in widths[1:n_shown]) < _LEAST_LABEL:
        n_shown -= 1
    room = max(columns - sum(w + 1 for w in widths[1:n_shown]), _LEAST_LABEL)
    table = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 1, 0, 0))
    for number, heading in enumerate(rows[0][:n_shown]):
        table.add_column(heading, justify="right" if number else "left", no_wrap=True)
    for number, (label, *cells) in enumerate(rows[1:]):
        is_total = number == len(layers)
        is_changed = not is_total and layers[number].n_changed > 0
        style = "bold" if is_total else "yellow" if is_changed else "dim"
        table.add_row(*map(Text, [shortened(label, room), *cells[: n_shown - 1]]), style=style)
    console = Console(width=columns, highlight=False)
    console.print(Text(f"A {report.a}\nB {report.b}"))
    console.print(table)
    console.print(Text(ending(report, columns)))
