"""List and choose the instruction sets of the kernels; all give the same bits.

The first call chooses the best instruction set that the machine runs. The environment variable
``TALLIES_CPU_TARGET`` forces another one.

>>> target() in targets()
True
"""

from __future__ import annotations

import tallies._core as native


def targets() -> list[str]:
    """Return the instruction sets that this machine runs, best first."""
    return native.targets()


def target() -> str:
    """Return the instruction set in use.

    Raises:
        InputError: The machine lacks the instruction set that ``TALLIES_CPU_TARGET`` names.
    """
    return native.target()


def set_target(name: str) -> None:
    """Use this instruction set from now on.

    Args:
        name: One of ``targets()``.

    Raises:
        InputError: The machine lacks the instruction set.
    """
    native.set_target(name)
