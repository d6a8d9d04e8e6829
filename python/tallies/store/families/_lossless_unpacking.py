"""Decodes the tensors of a task, or some elements of one, group by group of blocks."""

from __future__ import annotations

import ctypes
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import groupby
from typing import Final

from ..._core import Limits, fingerprint_blocks
from ...checkpoint.tensors import TensorInfo
from ...coding import BLOCK, Damaged, Fields, decode_blocks, groups, in_order, places, room
from ...engine.files import Place, PlanFiles
from ...engine.fingerprints import add_content, content_of
from ...errors import InputError
from ...messages import show
from ._byte_ranges import ByteRanges, Outputs, n_workers
from ._lossless_layout import (
    OF_BASE,
    blocks_name,
    columns,
    n_blocks,
    n_units,
    unit_of,
)
from .family import Moved, StoredTask

_STRIPE: Final = 64


@dataclass(frozen=True)
class _Source:
    """A tensor to decode."""

    tensor: TensorInfo
    """Its dtype and shape."""
    frames: TensorInfo
    base: TensorInfo | None
    table: array[int]
    begins: list[int]
    """The places where each frame begins, and where the last ends."""

    @property
    def unit(self) -> int:
        return unit_of(self.tensor)

    def hows(self, first: int, last: int) -> list[int]:
        """Return how blocks are coded."""
        width = columns(self.unit)
        return list(self.table[first * width : last * width : width])

    def checks(self, first: int, last: int) -> list[int]:
        """Return the checks of blocks."""
        width = columns(self.unit)
        return list(self.table[first * width + width - 1 : last * width : width])

    def sizes(self, first: int, last: int) -> array[int]:
        """Return the bytes of the frames of blocks."""
        width, found = columns(self.unit), array("I")
        for block in range(first, last):
            found += self.table[block * width + 1 : (block + 1) * width - 1]
        return found


@dataclass(frozen=True)
class _Decoded:
    """The results of a group."""

    name: str
    output: list[int]
    frames: list[int]
    base: list[int] | None
    """The content fingerprint of the base's bytes; None where not all blocks need them."""
    is_right: bool
    n_bytes: int


def unpack(
    task: StoredTask,
    files: PlanFiles,
    outputs: Mapping[str, Sequence[Place]],
    limits: Limits,
    progress: Moved | None,
) -> dict[str, list[int]]:
    """Restore tensors to their places and compare all that is read; as ``Family.restore``."""
    lanes = {name: [0] * 8 for name in outputs}
    with ByteRanges() as ranges, Outputs(files) as to:
        sources = (_source(ranges, task, name) for name in outputs)
        pieces = (
            (one, part)
            for one in sources
            for part in ([*groups(one.tensor.n_bytes, one.unit)] or [slice(0, 0)])
        )
        workers = n_workers(limits)
        with in_order(partial(_restore, ranges, to, outputs), pieces, workers) as results:
            for name, found in groupby(results, key=lambda one: one.name):
                frames, base = [0] * 8, [0] * 8
                is_right, has_base = True, True
                for one in found:
                    add_content(lanes[name], one.output)
                    add_content(frames, one.frames)
                    has_base &= one.base is not None
                    add_content(base, one.base or [0] * 8)
                    is_right &= one.is_right
                    if progress is not None:
                        progress(one.n_bytes)
                task.check(task.own[name], frames)
                if has_base and name in task.base and task.base[name].n_bytes:
                    task.check(task.base[name], base)
                if not is_right:
                    raise _other_values(task.own[name])
    return lanes


def elements(task: StoredTask, name: str, first: int, out: memoryview) -> None:
    """Decode some elements of a tensor from the blocks that they are in, and compare these.

    Args:
        task: The task.
        name: The name of the tensor.
        first: The first byte of the tensor that is wanted.
        out: Room for the bytes.

    Raises:
        InputError: A block is not what was packed.
        StorageError: Reading fails.
    """
    with ByteRanges() as ranges:
        source = _source(ranges, task, name)
        step = BLOCK * source.unit
        end = min(-(-(first + len(out)) // step) * step, source.tensor.n_bytes)
        for part in groups(end, source.unit):
            begin = max(part.start, first // step * step)
            if begin >= part.stop or not len(out):
                continue
            data = bytearray(part.stop - begin)
            found = _decode(ranges, source, slice(begin, part.stop), memoryview(data))
            if not found.is_right:
                raise _other_values(source.frames)
            low, high = max(first, begin), min(first + len(out), part.stop)
            out[low - first : high - first] = data[low - begin : high - begin]


def _source(ranges: ByteRanges, task: StoredTask, name: str) -> _Source:
    """Read and check the table of a tensor."""
    tensor = task.restored(name)
    frames, stored = task.own[name], task.own[blocks_name(name)]
    data = bytes(ranges.read(stored, 0, stored.n_bytes, "table"))
    task.check(stored, content_of(data))
    base = task.base.get(name)
    if base is not None and (base.dtype, base.shape) != (tensor.dtype, tensor.shape):
        base = None
    found = _Source(tensor, frames, base, array("I", data), [])
    sizes = found.sizes(0, n_blocks(tensor))
    hows = set(found.hows(0, n_blocks(tensor)))
    ways = {int(one) for one in Fields}
    if not hows <= (ways if base is None else ways | {one + OF_BASE for one in ways}):
        raise InputError(
            f"{stored.path}: tensor {show(stored.name)}: found blocks coded as {sorted(hows)}, "
            "which this version does not read; upgrade tallies, or restore the file"
        )
    try:
        return replace(found, begins=places(sizes, n_units(tensor), found.unit, frames.n_bytes))
    except Damaged as error:
        raise InputError(
            f"{stored.path}: tensor {show(stored.name)} is damaged: {error}; restore the file, or "
            "pack again"
        ) from None


def _restore(
    ranges: ByteRanges,
    to: Outputs,
    outputs: Mapping[str, Sequence[Place]],
    piece: tuple[_Source, slice],
) -> _Decoded:
    """Decode a group and hand it to all of its places."""
    source, part = piece
    view = room("decoded", part.stop - part.start)
    in_memory = [place for place in outputs[source.tensor.name] if place[0] < 0]
    if in_memory and view:
        memory = (ctypes.c_char * len(view)).from_address(in_memory[0][1] + part.start)
        view = memoryview(memory).cast("B")
    found = _decode(ranges, source, part, view)
    for place in outputs[source.tensor.name]:
        if view and place not in in_memory[:1]:
            to.write(place, part.start, view)
    return found


def _decode(ranges: ByteRanges, source: _Source, part: slice, out: memoryview) -> _Decoded:
    """Decode a group into its room."""
    unit = source.unit
    first, last = part.start // (BLOCK * unit), -(-part.stop // (BLOCK * unit))
    begin, end = source.begins[first * unit], source.begins[last * unit]
    # The fingerprint counts stripes where they begin: the last one ends with the next group.
    stop = min(-(-end // _STRIPE) * _STRIPE, source.frames.n_bytes)
    data = ranges.read(source.frames, begin, stop - begin, "frames")
    stripes = -(-begin // _STRIPE) * _STRIPE
    frames = [0] * 8
    if stripes < stop:
        rest = data[stripes - begin :]
        frames = fingerprint_blocks(rest, block_bytes=len(rest) + 63 & ~63, first=stripes)[0]
    hows = source.hows(first, last)
    base, of_base = None, None
    if any(how >= OF_BASE for how in hows):
        assert source.base is not None
        base = ranges.read(source.base, part.start, part.stop - part.start, "base")
    if base is not None and all(how >= OF_BASE for how in hows):
        of_base = fingerprint_blocks(base, block_bytes=BLOCK * unit, first=part.start)[0]
    sizes = source.sizes(first, last)
    try:
        for how, run in groupby(range(last - first), key=hows.__getitem__):
            blocks = list(run)
            low, high = blocks[0], blocks[-1] + 1
            span = slice(low * BLOCK * unit, min(high * BLOCK * unit, len(out)))
            at = source.begins[(first + low) * unit] - begin
            upto = source.begins[(first + high) * unit] - begin
            decode_blocks(
                data[at:upto],
                sizes[low * unit : high * unit],
                unit,
                Fields(how % OF_BASE),
                base=base[span] if base is not None and how >= OF_BASE else None,
                out=out[span],
            )
    except Damaged as error:
        raise InputError(
            f"{source.frames.path}: tensor {show(source.frames.name)} is damaged: in blocks "
            f"{first} to {last - 1}, {error}; restore the file, or pack again"
        ) from None
    output, checks = fingerprint_blocks(out, block_bytes=BLOCK * unit, first=part.start)
    return _Decoded(
        source.tensor.name,
        output,
        frames,
        of_base,
        checks == source.checks(first, last),
        end - begin + (0 if base is None else len(base)) + len(out),
    )


def _other_values(frames: TensorInfo) -> InputError:
    return InputError(
        f"{frames.path}: tensor {show(frames.name)} decodes to other values than were packed: the "
        "base is another one, or the file is damaged; name the base that it was packed from, or "
        "restore the file"
    )
