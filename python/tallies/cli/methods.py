"""List the merge methods and codecs, or show one."""

from __future__ import annotations

import json

import click

from ..errors import InputError
from ..messages import unknown
from . import _pages as pages
from ._options import json_option


@click.command()
@click.argument("name", required=False)
@json_option("facts")
@click.option("--markdown", is_flag=True, help="Print the facts as Markdown.")
def command(name: str | None, as_json: bool, markdown: bool) -> None:
    """List the merge methods and the codecs of stores, or show one."""
    chosen = pages.described(name)
    if not chosen:
        known = dict.fromkeys(one.name for one in pages.described())
        raise InputError(f"method or codec {unknown(name, known)}")
    if as_json:
        click.echo(json.dumps([pages.facts(one) for one in chosen], indent=2))
    elif markdown:
        click.echo(pages.markdown(chosen), nl=False)
    elif name:
        click.echo("\n\n".join(pages.page(one) for one in chosen))
    else:
        click.echo("\n\n".join(pages.entry(one) for one in chosen))
