"""Read and write sizes in bytes as people do."""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Final

from .errors import InputError
from .messages import show

_UNITS: Final = {"KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12} | {
    "KIB": 2**10,
    "MIB": 2**20,
    "GIB": 2**30,
    "TIB": 2**40,
}
_SIZE: Final = re.compile(r"\s*([0-9]{1,18}(?:\.[0-9]{1,18})?)\s*([KMGT]i?B)?\s*", re.IGNORECASE)


def parse_size(size: str | int) -> int:
    """Return the bytes of a size such as ``5GB`` (5 * 10**9), ``1.5GiB`` (1.5 * 2**30) or a number.

    Args:
        size: Text with a decimal (KB, MB, GB, TB) or binary (KiB, MiB, GiB, TiB) unit in any case,
            or a number of bytes. Parts of a byte are dropped.

    Raises:
        InputError: The size is another text or value, or less than a byte.

    >>> parse_size("256MiB")
    268435456
    """
    n_bytes = 0
    if isinstance(size, int) and not isinstance(size, bool):
        n_bytes = size
    elif isinstance(size, str) and (match := _SIZE.fullmatch(size)):
        n_bytes = int(Decimal(match[1]) * _UNITS.get((match[2] or "").upper(), 1))
    if not 0 < n_bytes < 2**63:
        raise InputError(f"size {show(size)}: expected such as '5GB', '1GiB', '256MiB' or 1000000")
    return n_bytes


def budget(n_bytes: int, *, at_least: bool = False) -> str:
    """Return a size as ``--max-memory`` takes it, with at most two decimals, rounded down.

    Args:
        n_bytes: The size.
        at_least: Round up, so that the text stands for so many bytes or more.

    >>> budget(200 << 10), budget(3 << 29), budget(999), budget((5 << 20) + 1, at_least=True)
    ('200KiB', '1.5GiB', '999', '5.01MiB')
    """
    for unit in ("TiB", "GiB", "MiB", "KiB"):
        if n_bytes >= (size := _UNITS[unit.upper()]):
            hundredths = (100 * n_bytes + at_least * (size - 1)) // size
            whole, part = divmod(hundredths, 100)
            return f"{whole}.{part:02}".rstrip("0").rstrip(".") + unit
    return str(n_bytes)


def format_size(n: int) -> str:
    """Return a number of bytes in the largest decimal unit that it reaches.

    >>> format_size(2_500_000_000), format_size(999)
    ('2.50 GB', '999 bytes')
    """
    for unit, size in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if n >= size:
            return f"{n / size:.2f} {unit}"
    return f"{n} bytes"
