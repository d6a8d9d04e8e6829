"""Run the command line: ``tallies``, and ``python -m tallies``."""

from __future__ import annotations

import os
import signal
from typing import NoReturn

_INTERRUPTED = 130


def main() -> NoReturn:
    """Run the command line; Ctrl-C ends it quietly while it is imported, too."""
    # Ctrl-C that is ignored, as with nohup, stays ignored.
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _end)
    from .cli import main as run

    run()


def _end(*_: object) -> NoReturn:
    """Say that the command was interrupted, before anything runs that must be cleaned up."""
    os.write(2, b"tallies: interrupted\n")
    os._exit(_INTERRUPTED)


if __name__ == "__main__":
    main()
