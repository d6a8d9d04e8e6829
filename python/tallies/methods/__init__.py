"""The merge methods: every file of this folder without a leading underscore states one.

The file has the method's name, and is imported when the method is asked for.
"""

from __future__ import annotations

from ..discovery import classes_of, in_reading_order, public_modules
from ..errors import InputError
from ..messages import unknown
from ._factors import Copa, Disjoint
from ._method import Method

_READING_ORDER = (
    *("linear", "task_arithmetic", "ties", "consensus_ta", "consensus_ties"),
    *("dare_linear", "dare_ties", "breadcrumbs", "breadcrumbs_ties", "della", "della_linear"),
    *("emr", "magmax", "ram", "ramplus", "sce", "pcb", "arcee_fusion"),
    *("metagpt", "model_stock", "slerp", "nuslerp", "multislerp", "karcher", "codiemb", "nearswap"),
    *("iso_c", "iso_cts", "tsv_m", "star", "wudi", "doge"),
)
"""The order of lists, simplest first. Methods that are not named here follow, by name."""


_NAMES = in_reading_order(public_modules(__path__), _READING_ORDER)
_METHODS: dict[str, type[Method]] = {}
"""Those that were asked for."""

_OF_ADAPTERS: dict[str, type[Method]] = {one.name: one for one in (Copa, Disjoint)}


def names() -> list[str]:
    """Return the names of all methods that merge models, simplest first."""
    return list(_NAMES)


def of_adapters() -> list[str]:
    """Return the names of the methods that merge adapters alone."""
    return list(_OF_ADAPTERS)


def proper_name(name: object) -> object:
    """Return the method's name for a name that another tool gives it, and others unchanged.

    >>> proper_name("ramplus_tl"), proper_name("ties")
    ('ramplus', 'ties')
    """
    if not isinstance(name, str) or name in _NAMES:
        return name
    return next((one for one in _NAMES if name in get(one).aliases), name)


def get(name: str) -> type[Method]:
    """Return the method of this name.

    Args:
        name: A method's name, or another tool's name for it.

    Returns:
        The class that states the method's facts.

    Raises:
        InputError: No method has the name; the message suggests a near one.
    """
    if name in _OF_ADAPTERS:
        return _OF_ADAPTERS[name]
    proper = name if name in _METHODS else str(proper_name(name))
    if proper not in _METHODS:
        if proper not in _NAMES:
            raise InputError(f"merge method {unknown(name, _NAMES)}")
        _METHODS[proper], *_ = classes_of(f"{__name__}.{proper}", Method)
    return _METHODS[proper]
