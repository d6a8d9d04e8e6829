"""The instruction sets that the kernels are compiled for; all give the same bits.

The best one that the machine runs is chosen at the first call; the environment variable
``TALLIES_CPU_TARGET`` forces another.

>>> target() in targets()
True
"""

from __future__ import annotations

import tallies._core as native


def targets() -> list[str]:
    """The instruction sets that this machine runs, best first."""
    return native.targets()


def target() -> str:
    """The instruction set in use. Raises InputError when the forced one is not available."""
    return native.target()


def set_target(name: str) -> None:
    """Use this instruction set from now on; InputError for one that ``targets()`` lacks."""
    native.set_target(name)
