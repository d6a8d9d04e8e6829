"""The library that codes bytes."""

from __future__ import annotations

from types import ModuleType

from ..errors import InputError


def zstandard(what: str) -> ModuleType:
    """Return the module ``zstandard``.

    Args:
        what: The thing that is coded with it, for the message.

    Raises:
        InputError: The package is missing.
    """
    try:
        import zstandard
    except ImportError:
        raise InputError(
            f"{what} needs the package zstandard, found none; install it with the extra: pip "
            "install 'tallies[zstd]'"
        ) from None
    module: ModuleType = zstandard
    return module
