"""Call a function as soon as a module has been loaded, before anybody takes names from it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any


class WhenLoaded:
    """A finder that finds nothing of its own, and calls a function after one module's first load.

    Args:
        module: The name of the module, which is not loaded yet.
        then: The function.
    """

    def __init__(self, module: str, then: Callable[[], None]) -> None:
        self._module = module
        self._then = then
        sys.meta_path.insert(0, self)

    def close(self) -> None:
        """Watch no longer."""
        if self in sys.meta_path:
            sys.meta_path.remove(self)

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return what the other finders find."""
        if name != self._module:
            return None
        for finder in [one for one in sys.meta_path if one is not self]:
            spec = finder.find_spec(name, path, target)
            if spec is not None:
                self._watch(spec.loader)
                return spec
        return None

    def _watch(self, loader: Any) -> None:
        """Let a loader, which loads this one module, call the function at its end."""
        load = loader.exec_module

        def loaded(module: ModuleType) -> None:
            del loader.exec_module
            load(module)
            self.close()
            self._then()

        loader.exec_module = loaded
