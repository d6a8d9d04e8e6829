"""Bytes of patches in memory, which are read where they lie and may be written."""

from __future__ import annotations

import mmap
import os
import weakref
from array import array
from pathlib import Path

import numpy as np

from ..errors import StorageError


def file_in_memory(path: Path) -> memoryview:
    """Read a file at once, into memory that nobody fills with zeros first.

    Raises:
        StorageError: The file cannot be read.
    """
    try:
        with open(path, "rb", buffering=0) as file:
            room = np.empty(os.fstat(file.fileno()).st_size, np.uint8).data
            at = 0
            while at < len(room) and (n := file.readinto(room[at:])):
                at += n
            return room[:at]
    except OSError as error:
        raise StorageError(f"{path}: cannot be read: {error.strerror}") from None


def file_without_name(data: bytes) -> tuple[Path, memoryview]:
    """Write bytes to a file without a name, which is there as long as its memory.

    Args:
        data: The bytes.

    Returns:
        The path by which this process opens the file, and its bytes in pages that only it has.
    """
    file = os.memfd_create("tallies-patch", os.MFD_CLOEXEC)
    try:
        view = memoryview(data)
        while view:
            view = view[os.write(file, view) :]
        pages = mmap.mmap(file, len(data), access=mmap.ACCESS_COPY) if data else array("B")
    except BaseException:
        os.close(file)
        raise
    weakref.finalize(pages, os.close, file)
    return Path(f"/proc/self/fd/{file}"), memoryview(pages)
