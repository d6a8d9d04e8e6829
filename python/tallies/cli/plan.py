"""Say what a merge would do; reads headers only."""

from __future__ import annotations

from typing import Any

import click

from . import merge


def _plan(**options: Any) -> None:
    """Say what a merge would do; reads headers only.

    Takes what 'tallies merge' takes, the output too, and writes nothing.
    """
    merge.run(dry_run=True, **options)


command = click.Command(
    "plan",
    params=[option for option in merge.command.params if option.name != "dry_run"],
    callback=_plan,
    help=_plan.__doc__,
)
