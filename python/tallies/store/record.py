"""The fingerprints of a packing: checksums of its files, and fingerprints of its inputs."""

from __future__ import annotations

from collections.abc import Sequence

from ..checkpoint.tensors import TensorInfo
from ..engine.fingerprints import tensor_fingerprint


class Record:
    """Collects the fingerprints of a packing while it reads and writes.

    Args:
        n_models: The number of inputs, the base included.
    """

    def __init__(self, n_models: int) -> None:
        self.checksums: dict[str, dict[str, str]] = {}
        """By file of the store and tensor."""
        self.file_bytes: dict[str, int] = {}
        self.prints: list[dict[str, str]] = [{} for _ in range(n_models)]
        """By tensor, of the base and then of each task."""
        self.borrowed: dict[str, dict[str, str]] = {}
        """By file of the store and tensor, the file that has the same tensor already."""

    def add_file(self, file: str, n_bytes: int) -> None:
        """Note a new file and its size."""
        self.checksums[file] = {}
        self.file_bytes[file] = n_bytes

    def note_read(
        self, name: str, sources: Sequence[TensorInfo], lanes: Sequence[Sequence[int]]
    ) -> None:
        """Note the content fingerprints of a tensor in the base and in every task."""
        for prints, one, found in zip(self.prints, sources, lanes, strict=True):
            prints[name] = tensor_fingerprint(one, found)

    def note_written(self, file: str, tensor: TensorInfo, lanes: Sequence[int]) -> None:
        """Note the checksum of a tensor of a file."""
        self.checksums[file][tensor.name] = tensor_fingerprint(tensor, lanes)
