"""Finds the classes that the modules of a folder define."""

from __future__ import annotations

import pkgutil
from importlib import import_module
from typing import TypeVar

T = TypeVar("T")


def classes_in(package: str, base: type[T]) -> list[type[T]]:
    """Return the subclasses of ``base`` that the public modules of a package define.

    A new class needs its file alone. Modules whose names begin with an underscore hold what
    several classes share, and are skipped.

    Args:
        package: The full name of the package whose modules are imported.
        base: The class to look for.

    Returns:
        The classes in the order of their modules' names.
    """
    found = []
    for module in pkgutil.iter_modules(import_module(package).__path__):
        if not module.name.startswith("_"):
            name = f"{package}.{module.name}"
            found += [
                value
                for value in vars(import_module(name)).values()
                if isinstance(value, type) and issubclass(value, base) and value.__module__ == name
            ]
    return found
