"""The options of mergekit-yaml against those of mergekit."""

from __future__ import annotations

import click

from tallies.cli.mergekit_yaml import command
from tests.support.mergekit_host import as_mergekit


def spellings(of: click.Command) -> set[str]:
    return {
        one
        for option in of.params
        if isinstance(option, click.Option)
        for one in (*option.opts, *option.secondary_opts)
    }


def test_every_option_of_mergekit_is_accepted() -> None:
    with as_mergekit():
        from mergekit.scripts.run_yaml import main
    assert spellings(main) <= spellings(command)


def test_options_take_values_where_they_do_in_mergekit() -> None:
    with as_mergekit():
        from mergekit.scripts.run_yaml import main
    own = {one.name: one for one in command.params}
    for option in main.params:
        if isinstance(option, click.Option):
            mine = own[option.name]
            assert isinstance(mine, click.Option), option.name
            assert (mine.is_flag, mine.count) == (option.is_flag, option.count), option.name
