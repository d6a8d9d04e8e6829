"""The merge methods: every file of this folder without a leading underscore states one."""

from __future__ import annotations

from ..discovery import classes_in, in_reading_order
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


_FOUND = {one.name: one for one in classes_in(__name__, Method)}
_METHODS = {name: _FOUND[name] for name in in_reading_order(_FOUND, _READING_ORDER)}


_OF_ADAPTERS: dict[str, type[Method]] = {one.name: one for one in (Copa, Disjoint)}


def names() -> list[str]:
    """Return the names of all methods that merge models, simplest first."""
    return list(_METHODS)


def of_adapters() -> list[str]:
    """Return the names of the methods that merge adapters alone."""
    return list(_OF_ADAPTERS)


def proper_name(name: object) -> object:
    """Return the method's name for a name that another tool gives it, and others unchanged.

    >>> proper_name("ramplus_tl"), proper_name("ties")
    ('ramplus', 'ties')
    """
    if not isinstance(name, str) or name in _METHODS:
        return name
    return next((one.name for one in _METHODS.values() if name in one.aliases), name)


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
    try:
        return _METHODS[str(proper_name(name))]
    except KeyError:
        raise InputError(f"merge method {unknown(name, _METHODS)}") from None
