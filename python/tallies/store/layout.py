"""The layout of files that are written: their headers, and the place of each tensor in them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from ..checkpoint.layout import Entry, header, tensor_bytes
from ..checkpoint.tensors import TensorInfo
from ..engine.files import PlanFiles


@dataclass(frozen=True)
class Layout:
    """The tensors of every file, by the file's path in a directory."""

    entries: Mapping[str, Sequence[Entry]]
    metadata: Mapping[str, str] | None = None
    """Metadata of every header."""

    @cached_property
    def _headers(self) -> dict[str, tuple[bytes, list[int]]]:
        return {file: header(entries, self.metadata) for file, entries in self.entries.items()}

    @property
    def n_bytes(self) -> int:
        """Bytes of all files."""
        return sum(map(self.file_bytes, self.entries))

    def file_bytes(self, file: str) -> int:
        """Return the bytes of one file, its header included."""
        return len(self._headers[file][0]) + sum(map(tensor_bytes, self.entries[file]))

    def places(self, directory: Path) -> dict[str, dict[str, TensorInfo]]:
        """Return the tensors of every file by name, as they will lie in ``directory``."""
        return {
            file: {
                name: TensorInfo(
                    name, dtype, tuple(shape), directory / file, at, tensor_bytes(entry)
                )
                for entry, at in zip(entries, self._headers[file][1], strict=True)
                for name, dtype, shape in [entry]
            }
            for file, entries in self.entries.items()
        }

    def create(self, files: PlanFiles, directory: Path) -> None:
        """Make room for all files in ``directory`` and write their headers.

        Raises:
            StorageError: A file cannot be created or written.
        """
        for file in self.entries:
            path = directory / file
            path.parent.mkdir(parents=True, exist_ok=True)
            files.create(path, self.file_bytes(file))
            files.write_head(path, self._headers[file][0])
