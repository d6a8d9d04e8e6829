"""The file of a page for a browser, which replaces an earlier page and nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from ..errors import InputError, StorageError

_BEGIN: Final = "<!doctype html>"
_OURS: Final = "<p>Made by tallies "


class PageFile:
    """A place for a page.

    Args:
        path: The place.
        overwrite: Replace an earlier page of tallies there.

    Raises:
        InputError: The place is taken, or its directory does not exist.
    """

    def __init__(self, path: str, *, overwrite: bool) -> None:
        self._path = Path(path)
        if path == "-":
            raise InputError("-: a page is a file, and no stream; name a file (./- for that name)")
        if not self._path.parent.is_dir():
            raise InputError(f"{path}: its directory does not exist; create the directory first")
        if self._path.is_dir():
            raise InputError(f"{path}: is a directory, expected a file to create")
        if not (self._path.exists() or self._path.is_symlink()):
            return
        if not overwrite:
            raise InputError(
                f"{path}: exists; pass --overwrite to replace it, or name another file"
            )
        if not self._is_page():
            raise InputError(
                f"{path}: is no page that tallies wrote, and --overwrite replaces nothing else; "
                "name another file, or remove it yourself"
            )

    def write(self, page: str) -> None:
        """Write the page.

        Raises:
            StorageError: The file cannot be written.
        """
        try:
            self._path.write_text(page, encoding="utf-8")
        except OSError as error:
            raise StorageError(f"{self._path}: cannot be written: {error.strerror}") from None

    def _is_page(self) -> bool:
        try:
            with self._path.open("rb") as file:
                begin = file.read(len(_BEGIN))
                file.seek(0, 2)
                file.seek(max(file.tell() - 200, 0))
                return begin == _BEGIN.encode() and _OURS.encode() in file.read()
        except OSError:
            return False
