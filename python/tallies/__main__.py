"""Run the command line: ``python -m tallies``."""

from __future__ import annotations

from .cli import main

main()
