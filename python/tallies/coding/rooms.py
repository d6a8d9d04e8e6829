"""Memory that a thread uses again and again: new memory costs more than coding some of it."""

from __future__ import annotations

import threading

_rooms = threading.local()


def room(name: str, n_bytes: int) -> memoryview:
    """Return memory of the calling thread, whose bytes are good until it asks for it again.

    Args:
        name: The use; each has memory of its own.
        n_bytes: The bytes that are needed.
    """
    found: dict[str, bytearray] = _rooms.__dict__
    if len(found.get(name, b"")) < n_bytes or name not in found:
        found[name] = bytearray(max(n_bytes, 1))
    return memoryview(found[name])[:n_bytes]
