"""``python -m tallies``."""

from .cli import main

main()
