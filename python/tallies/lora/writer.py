"""Writes an adapter as a directory that PEFT loads.

The products of the written factors, at the configured scale, are the products that were given, but
for the rounding of the factors to their dtype.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Final

from .._core import narrow
from ..checkpoint.layout import Entry, header, tensor_bytes
from ..engine.arrays import address_of
from ..errors import InputError
from ..messages import show
from ..spec.dtypes import DTYPE_CODES, DTYPES
from .peft_config import NAME, WEIGHTS, adapter_config
from .targets import Kept, Target, stored_name

if TYPE_CHECKING:
    import numpy as np

_SCRATCH: Final = ".factors"
_BLOCK_BYTES: Final = 1 << 22


class AdapterWriter:
    """Writes an adapter's tensors as they are made, and its configuration at the end.

    Tensors may come in any order and from any thread: the files are the same. Nothing but the
    tensor in hand is in memory.

    Args:
        directory: The directory of the result, which exists.
        dtype: The safetensors name of the factors' dtype. PEFT computes in float32 with any.
        alpha: The alpha that the configuration states; None for each tensor's rank, so that every
            product's factor is 1.
        options: Further arguments of ``adapter_config``: ``base``, ``modules``, ``extra``.

    >>> import numpy as np
    >>> Path("adapter").mkdir()
    >>> writer = AdapterWriter(Path("adapter"), base="org/model")
    >>> target = Target("layers.0.up.weight", (8, 4))
    >>> writer.add(target, np.ones((8, 2)), np.ones((2, 4)))
    >>> sorted(writer.finish())
    ['adapter_config.json', 'adapter_model.safetensors']
    """

    def __init__(
        self,
        directory: Path,
        *,
        dtype: str = "F32",
        alpha: float | None = None,
        base: str | None = None,
        modules: Collection[str] | None = None,
        extra: Mapping[str, Any] | None = None,
    ) -> None:
        self._directory = directory
        self._dtype = dtype
        self._alpha = alpha
        self._options: dict[str, Any] = {"base": base, "modules": modules, "extra": extra}
        self._ranks: dict[Target, int] = {}
        self._kept: list[Kept] = []
        self._places: dict[str, tuple[Entry, int]] = {}
        self._lock = threading.Lock()
        self._scratch = directory / _SCRATCH
        self._scratch.touch()
        self._end = 0

    def add(
        self, target: Target, left: np.ndarray, right: np.ndarray, *, again: bool = False
    ) -> None:
        """Add the factors of one tensor.

        Args:
            target: The tensor.
            left: [rows, rank], or [experts, rows, rank] for a stack; float32 or float64.
            right: [rank, columns], or [experts, rank, columns]. The change is left @ right.
            again: Replace the factors that were added before.

        Raises:
            InputError: A factor does not fit into float16.
        """
        import numpy as np

        rank = int(left.shape[-1])
        if self._alpha is not None:
            left = left * np.float32(rank / self._alpha)
        for name, values in target.stored_factors(left, right):
            values = np.ascontiguousarray(values, np.float32)
            self._put((name, self._dtype, values.shape), [self._narrowed(target, values)], again)
        with self._lock:
            self._ranks[target] = rank

    def keep(self, kept: Kept, data: Iterable[bytes | bytearray]) -> None:
        """Add a tensor that the adapter holds whole; ``data`` yields its stored bytes."""
        self._put((kept.name, kept.dtype, kept.shape), data)
        with self._lock:
            self._kept.append(kept)

    def finish(self) -> dict[str, int]:
        """Write the files; return the bytes of each by its name."""
        # By name, so that the files do not depend on the order in which tensors came.
        ranks = {one: self._ranks[one] for one in sorted(self._ranks, key=lambda one: one.name)}
        kept = sorted(self._kept, key=lambda one: one.name)
        config = adapter_config(ranks, kept, alpha=self._alpha, **self._options)
        changed = {target.module for target in ranks if not target.is_parameter}
        names = {one.name: stored_name(one, changed) for one in kept}
        entries = [(names.get(name, name), *entry[1:]) for name, (entry, _) in self._places.items()]
        head, offsets = header(entries, {"format": "pt"})
        with open(self._directory / WEIGHTS, "wb") as file, open(self._scratch, "rb") as scratch:
            file.write(head)
            for (entry, begin), offset in zip(self._places.values(), offsets, strict=True):
                file.seek(offset)
                scratch.seek(begin)
                _copy(scratch, file, tensor_bytes(entry))
        self._scratch.unlink()
        text = json.dumps(config, indent=2, ensure_ascii=False) + "\n"
        (self._directory / NAME).write_text(text, encoding="utf-8")
        return {name: (self._directory / name).stat().st_size for name in (WEIGHTS, NAME)}

    def _narrowed(self, target: Target, values: np.ndarray) -> bytes | bytearray:
        """Return values rounded to the dtype of the factors."""
        if self._dtype == "F32":
            return values.tobytes()
        data = bytearray(values.size * DTYPES[self._dtype])
        narrow(values.ctypes.data, address_of(data), DTYPE_CODES[self._dtype], values.size)
        if self._dtype == "F16" and values.size and float(abs(values).max()) >= 65520:
            raise InputError(
                f"tensor {show(target.name)}: a factor of {float(abs(values).max()):.6g} is beyond "
                "float16; write bfloat16 or float32 factors"
            )
        return data

    def _put(self, entry: Entry, data: Iterable[bytes | bytearray], again: bool = False) -> None:
        """Append the bytes of a tensor to the scratch file."""
        n_bytes = tensor_bytes(entry)
        with self._lock:
            if entry[0] in self._places and not again:
                raise InputError(f"tensor {show(entry[0])}: is changed twice; leave out one")
            begin, self._end = self._end, self._end + n_bytes
            self._places[entry[0]] = (entry, begin)
        with open(self._scratch, "r+b") as file:
            file.seek(begin)
            for piece in data:
                file.write(piece)
            assert file.tell() == begin + n_bytes, entry


def _copy(source: BinaryIO, out: BinaryIO, n_bytes: int) -> None:
    while n_bytes:
        data = source.read(min(n_bytes, _BLOCK_BYTES))
        out.write(data)
        n_bytes -= len(data)
