"""Decides if a command shows its progress."""

from __future__ import annotations

import sys


def wants_bar(asked: bool | None, quiet: bool) -> bool:
    """Return True if a command shows a bar on standard error.

    Args:
        asked: True and False show and hide the bar; None shows it on a terminal only.
        quiet: Hides the bar in any case.
    """
    return not quiet and (sys.stderr.isatty() if asked is None else asked)
