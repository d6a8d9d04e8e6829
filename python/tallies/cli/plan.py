"""Say what a merge would do; reads headers only."""

from __future__ import annotations

import json
from typing import Any

import click

from ..merging.planning import plan
from ._options import json_option, request, request_options


@click.command()
@click.argument("config", required=False, metavar="[CONFIG]")
@request_options
@json_option("plan, with every tensor,")
def command(config: str | None, as_json: bool, **chosen: Any) -> None:
    """Say what a merge would do; reads headers only."""
    made = plan(request(config, chosen))
    click.echo(json.dumps(made.to_json_dict(), indent=2) if as_json else str(made))
