"""The places where a function of a host is bound: its home, and modules that imported its name."""

from __future__ import annotations

import contextlib
import importlib
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any


@dataclass(frozen=True)
class Place:
    """An attribute of a module, a class or an object, and its value."""

    owner: Any
    attribute: str
    value: Any

    @property
    def label(self) -> str:
        """Return the place as a reader finds it."""
        owner = self.owner
        if isinstance(owner, ModuleType):
            return f"{owner.__name__}.{self.attribute}"
        kind = owner if isinstance(owner, type) else type(owner)
        return f"{kind.__module__}.{kind.__qualname__}.{self.attribute}"

    def now(self) -> Place | None:
        """Return the place with the value that it has now; None where it is gone."""
        namespace = vars(self.owner)
        if self.attribute not in namespace:
            return None
        return Place(self.owner, self.attribute, namespace[self.attribute])


def find(module: str, name: str) -> Place | None:
    """Return the place of a qualified name; None where the module or a part of it is missing.

    Args:
        module: The module, which is imported where that has not been done.
        name: Attributes joined by dots. The empty name stands for the module itself.
    """
    try:
        owner: Any = importlib.import_module(module)
    except ImportError:
        return None
    if not name:
        return Place(sys.modules, module, owner)
    *path, attribute = name.split(".")
    for part in path:
        owner = getattr(owner, part, None)
    namespace = getattr(owner, "__dict__", {})
    if attribute not in namespace:
        return None
    return Place(owner, attribute, namespace[attribute])


def places_of(functions: Sequence[tuple[Any, Place | None]], package: str) -> list[list[Place]]:
    """Return the places that hold exactly each of these objects, of one look at all modules.

    Args:
        functions: The functions, each with the place of its definition, or None where that is gone.
        package: The host; its loaded modules are searched.

    Returns:
        For each function the home, if it holds the object, and each module's attribute that does.
    """
    found = [
        [home] if home is not None and home.value is value else [] for value, home in functions
    ]
    wanted: dict[int, list[int]] = {}
    for number, (value, _) in enumerate(functions):
        wanted.setdefault(id(value), []).append(number)
    for module in _loaded(package):
        for name, bound in list(vars(module).items()):
            for number in wanted.get(id(bound), ()):
                home = functions[number][1]
                if home is None or module is not home.owner or name != home.attribute:
                    found[number].append(Place(module, name, bound))
    return found


def others_of(homes: Iterable[Place], package: str) -> list[Place]:
    """Return places that have a function's name and hold what is nobody's of the host.

    Args:
        homes: The places of the functions' definitions.
        package: The host; its loaded modules are searched.
    """
    values = {home.attribute: home.value for home in homes if isinstance(home.owner, ModuleType)}
    found = [
        Place(module, name, vars(module)[name])
        for module in _loaded(package)
        for name in values.keys() & vars(module).keys()
    ]
    return [
        one
        for one in found
        if callable(one.value)
        and one.value is not values[one.attribute]
        and not _is_defined(one.value)
    ]


def _is_defined(value: Any) -> bool:
    """Tell whether a function stands in the place that its name and module say."""
    module = sys.modules.get(getattr(value, "__module__", None) or "")
    return getattr(module, getattr(value, "__qualname__", ""), None) is value


def _loaded(package: str) -> list[ModuleType]:
    prefix = f"{package}."
    return [
        module
        for name, module in list(sys.modules.items())
        if (name == package or name.startswith(prefix)) and isinstance(module, ModuleType)
    ]


def serve(places: Iterable[Place], function: Any) -> None:
    """Bind a function in each of the places."""
    for place in places:
        setattr(place.owner, place.attribute, function)


def describe(value: Any) -> str:
    """Return the module and name of whatever stands in a place."""
    for name in ("__qualname__", "__name__"):
        with contextlib.suppress(AttributeError):
            return f"{value.__module__}.{getattr(value, name)}"
    return type(value).__name__
