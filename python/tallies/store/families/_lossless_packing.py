"""Codes the tensors of tasks, group by group of blocks, and writes each task's file in one pass."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any, BinaryIO, Final

from ..._core import fingerprint_blocks
from ...checkpoint.layout import Entry, header
from ...checkpoint.tensors import TensorInfo
from ...coding import BLOCK, Coded, Fields, encode_blocks, groups, in_order
from ...engine.fingerprints import add_content, content_of, tensor_fingerprint
from ...errors import InputError, StorageError
from ...messages import show
from ...spec.dtypes import FLOATS
from ._byte_ranges import ByteRanges, n_workers
from ._lossless_layout import (
    blocks_name,
    columns,
    entries_of,
    how_of,
    n_units,
    unit_of,
)
from .job import PackJob

_SAMPLE: Final = BLOCK // 4
"""Elements of a group that are coded each way, to find the smallest."""


@dataclass(frozen=True)
class Pair:
    """A tensor of a task, and the base's of the same bytes an element and shape, if it has one."""

    expert: TensorInfo
    base: TensorInfo | None


@dataclass
class Written:
    """The results of packing one task."""

    n_bytes: int = 0
    """Bytes of the file."""
    checksums: dict[str, str] = field(default_factory=dict)
    base: dict[str, list[int]] = field(default_factory=dict)
    """Content fingerprints of the base's tensors that were read whole."""
    expert: dict[str, list[int]] = field(default_factory=dict)


@dataclass(frozen=True)
class _Piece:
    """A group of blocks of one tensor."""

    pair: Pair
    part: slice
    """Bytes of the tensor."""


@dataclass(frozen=True)
class _Group:
    """The same, coded."""

    coded: Coded
    how: int
    checks: list[int]
    base: list[int] | None
    expert: list[int]


def pack_task(job: PackJob, pairs: Mapping[str, Pair], path: Path) -> Written:
    """Write the file of a task.

    Args:
        job: The packing, for its limits and progress.
        pairs: Tensors by name.
        path: The file.

    Raises:
        StorageError: Reading or writing fails.
    """
    names = sorted(pairs)
    pieces = (_Piece(pairs[name], part) for name in names for part in _parts(pairs[name].expert))
    found = Written()
    tables: dict[str, array[int]] = {}
    sizes: dict[str, int] = {}
    with (
        ByteRanges() as ranges,
        in_order(partial(_code, ranges), pieces, n_workers(job.limits)) as results,
        _writing(path) as file,
    ):
        room = _room([pairs[name].expert for name in names])
        stream = _Stream(file, room)
        taken = groupby(results, key=lambda one: one[0].pair.expert.name)
        for name, group in taken:
            pair = pairs[name]
            tables[name] = array("I")
            base: list[int] | None = [0] * 8 if pair.base is not None else None
            expert = [0] * 8
            stream.begin()
            for piece, one in group:
                stream.write(one.coded.frames)
                tables[name] += _rows(one, unit_of(pair.expert))
                add_content(expert, one.expert)
                if base is not None and one.base is not None:
                    add_content(base, one.base)
                if job.progress is not None:
                    job.progress((piece.part.stop - piece.part.start) * (1 + (base is not None)))
            found.expert[name], sizes[name] = expert, stream.n_bytes
            if base is not None:
                found.base[name] = base
            found.checksums[name] = tensor_fingerprint(_Face("U8", (stream.n_bytes,)), stream.end())
        found.n_bytes = stream.at
        _write_head(file, [pairs[name].expert for name in names], sizes, tables, room, found)
    return found


def refuse_names(names: Mapping[str, object]) -> None:
    """Raise InputError if a tensor has the name of the table of another's blocks."""
    for name in names:
        if blocks_name(name) in names:
            raise InputError(
                f"tensor {show(blocks_name(name))}: a store calls the table of tensor "
                f"{show(name)} so; rename one of them"
            )


def _parts(tensor: TensorInfo) -> Iterator[slice]:
    """Yield the groups of a tensor; an empty one has one without blocks."""
    yield from groups(tensor.n_bytes, unit_of(tensor)) if tensor.n_bytes else [slice(0, 0)]


def _code(ranges: ByteRanges, piece: _Piece) -> tuple[_Piece, _Group]:
    """Read a group and code it in the way that is smallest for a sample from its middle."""
    expert, base, part = piece.pair.expert, piece.pair.base, piece.part
    n_bytes, unit = part.stop - part.start, unit_of(expert)
    values = ranges.read(expert, part.start, n_bytes, "expert")
    other = None if base is None else ranges.read(base, part.start, n_bytes, "base")
    lanes, checks = fingerprint_blocks(values, block_bytes=BLOCK * unit, first=part.start)
    of_base = None
    if other is not None:
        of_base = fingerprint_blocks(other, block_bytes=BLOCK * unit, first=part.start)[0]
    fields, of = _smallest(expert, values, other, unit)
    coded = encode_blocks(values, unit, fields, base=other if of else None)
    return piece, _Group(coded, how_of(fields, of_base=of), checks, of_base, lanes)


def _smallest(
    tensor: TensorInfo, values: memoryview, base: memoryview | None, unit: int
) -> tuple[Fields, bool]:
    """Return the way that makes the least of a sample: the fields, and if the base is used."""
    alone = Fields.FLOAT if tensor.dtype in FLOATS and unit > 1 else Fields.BYTES
    if base is None:
        return alone, False
    n_elements = len(values) // unit
    first = max(n_elements - _SAMPLE, 0) // 2 * unit
    sample = slice(first, first + _SAMPLE * unit)
    ways = [(Fields.DIFFERENCE, True), (Fields.BYTES, True), (alone, False)]
    return min(
        ways,
        key=lambda way: (
            encode_blocks(
                values[sample], unit, way[0], base=base[sample] if way[1] else None
            ).n_bytes
        ),
    )


def _rows(group: _Group, unit: int) -> array[int]:
    """Return the rows of the table for the blocks of a group."""
    rows = array("I")
    for block, check in enumerate(group.checks):
        rows.append(group.how)
        rows.extend(group.coded.sizes[block * unit : (block + 1) * unit])
        rows.append(check)
    return rows


@dataclass(frozen=True)
class _Face:
    """The dtype and shape of what a fingerprint is of."""

    dtype: str
    shape: tuple[int, ...]


class _Stream:
    """Bytes that are appended to a file, and the fingerprint of those since ``begin``."""

    def __init__(self, file: BinaryIO, at: int) -> None:
        self._file = file
        self.at = at
        """The bytes of the file so far."""
        file.seek(at)
        self.begin()

    def begin(self) -> None:
        """Begin a tensor."""
        self.n_bytes = 0
        self._n_counted = 0
        self._lanes = [0] * 8
        self._rest = b""

    def write(self, data: bytes) -> None:
        """Append bytes of the tensor."""
        self._file.write(data)
        known = memoryview(self._rest + data if self._rest else data)
        whole = len(known) // 64 * 64
        self._add(known[:whole])
        self._rest = bytes(known[whole:])
        self.n_bytes += len(data)
        self.at += len(data)

    def end(self) -> list[int]:
        """Return the content fingerprint of the tensor."""
        self._add(self._rest)
        return self._lanes

    def _add(self, data: Any) -> None:
        if len(data):
            found, _ = fingerprint_blocks(
                data, block_bytes=len(data) + 63 & ~63, first=self._n_counted
            )
            add_content(self._lanes, found)
            self._n_counted += len(data)


@contextmanager
def _writing(path: Path) -> Iterator[BinaryIO]:
    """Open a file to write, and its directory if there is none; errors name the file."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "wb") as file:
            yield file
    except OSError as error:
        if isinstance(error, StorageError):
            raise
        raise StorageError(f"{path}: cannot be written: {error.strerror or error}") from None


def _entries(tensors: list[TensorInfo], sizes: Mapping[str, int]) -> list[Entry]:
    return [entry for one in tensors for entry in entries_of(one, sizes[one.name])]


def _room(tensors: list[TensorInfo]) -> int:
    """Return where the frames begin: behind a header for frames as large as can be, and tables."""
    head, _ = header(_entries(tensors, {one.name: one.n_bytes for one in tensors}))
    return len(head) + sum(4 * columns(unit_of(one)) * -(-n_units(one) // BLOCK) for one in tensors)


def _write_head(
    file: BinaryIO,
    tensors: list[TensorInfo],
    sizes: Mapping[str, int],
    tables: Mapping[str, array[int]],
    room: int,
    found: Written,
) -> None:
    """Write the header, filled up with spaces, and the tables behind it."""
    head, _ = header(_entries(tensors, sizes))
    n_tables = sum(4 * len(table) for table in tables.values())
    text = head[8:].ljust(room - n_tables - 8)
    file.seek(0)
    file.write(len(text).to_bytes(8, "little") + text)
    units = {one.name: unit_of(one) for one in tensors}
    for name in sorted(tables, key=blocks_name):
        data = tables[name].tobytes()
        file.write(data)
        width = columns(units[name])
        face = _Face("U32", (len(tables[name]) // width, width))
        found.checksums[blocks_name(name)] = tensor_fingerprint(face, content_of(data))
