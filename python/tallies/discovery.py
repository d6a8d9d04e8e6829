"""Find what the files of a folder state, so that a new file needs no list."""

from __future__ import annotations

import pkgutil
from collections.abc import Iterable, Sequence
from importlib import import_module
from typing import TypeVar

T = TypeVar("T")


def public_modules(path: Iterable[str]) -> list[str]:
    """Return the names of a package's modules without a leading underscore, sorted.

    Args:
        path: The ``__path__`` of the package.
    """
    return [one.name for one in pkgutil.iter_modules(path) if not one.name.startswith("_")]


def in_reading_order(names: Iterable[str], order: Sequence[str]) -> list[str]:
    """Return names in an order for readers; names outside the order follow, sorted.

    >>> in_reading_order(["new", "plan", "merge"], ["merge", "plan", "gone"])
    ['merge', 'plan', 'new']
    """
    found = set(names)
    return [*(name for name in order if name in found), *sorted(found.difference(order))]


def classes_in(package: str, base: type[T]) -> list[type[T]]:
    """Return the subclasses of ``base`` that the public modules of a package define.

    Modules whose names begin with an underscore hold what several classes share, and are skipped.

    Args:
        package: The full name of the package whose modules are imported.
        base: The class to look for.

    Returns:
        The classes in the order of their modules' names.
    """
    modules = public_modules(import_module(package).__path__)
    return [one for name in modules for one in classes_of(f"{package}.{name}", base)]


def classes_of(module: str, base: type[T]) -> list[type[T]]:
    """Return the subclasses of ``base`` that a module defines, in their order.

    Args:
        module: The full name of the module, which is imported.
        base: The class to look for.
    """
    return [
        value
        for value in vars(import_module(module)).values()
        if isinstance(value, type) and issubclass(value, base) and value.__module__ == module
    ]
