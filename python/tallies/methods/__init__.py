"""The merge methods: every file of this folder without a leading underscore states one."""

from __future__ import annotations

import importlib
import pkgutil

from ..errors import InputError
from ..messages import unknown
from ._method import Method

_READING_ORDER = (
    *("linear", "task_arithmetic", "ties", "consensus_ta", "consensus_ties"),
    *("dare_linear", "dare_ties", "breadcrumbs", "breadcrumbs_ties", "della", "della_linear"),
    *("emr", "ram", "ramplus", "sce", "pcb"),
    *("metagpt", "model_stock", "slerp", "nuslerp", "multislerp", "karcher", "codiemb"),
    *("iso_c", "iso_cts", "tsv_m", "star", "wudi", "doge"),
)
"""The order of lists, simplest first. Methods that are not named here follow, by name."""


def _found() -> dict[str, type[Method]]:
    """Import the files of this folder, and return the method of each by name, in reading order."""
    files = {one.name for one in pkgutil.iter_modules(__path__) if not one.name.startswith("_")}
    named = [name for name in _READING_ORDER if name in files]
    return {name: _stated_in(name) for name in [*named, *sorted(files.difference(named))]}


def _stated_in(name: str) -> type[Method]:
    """Return the method that a file states: its one class that has the file's name."""
    module = importlib.import_module(f".{name}", __name__)
    for value in vars(module).values():
        if (
            isinstance(value, type)
            and issubclass(value, Method)
            and vars(value).get("name") == name
        ):
            return value
    raise ImportError(f"{module.__name__} states no method with name = {name!r}")


_METHODS = _found()


def names() -> list[str]:
    """Return the names of all methods, simplest first."""
    return list(_METHODS)


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
    try:
        return _METHODS[str(proper_name(name))]
    except KeyError:
        raise InputError(f"merge method {unknown(name, _METHODS)}") from None
