"""Ask for the width of the terminal that reads what a command prints."""

from __future__ import annotations

import shutil
import sys


def screen() -> int | None:
    """Return the columns of the terminal at standard output; None where another program reads."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None
