"""Codes elements into frames of zstandard, each of one plane of one block, and back.

A frame that would not be smaller than its plane is the plane itself: its size says so. The matches
that zstandard looks for are rare in planes and cost more than they bring, so that it is told to
look for next to none; what remains is the entropy coding of bytes.
"""

from __future__ import annotations

import threading
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any, Final

from .._core import join_fields, split_fields
from .damaged import Damaged
from .fields import BLOCK, Fields
from .library import zstandard
from .rooms import room as room_of
from .threads import in_order

_WHAT: Final = "entropy coding"
_GROUP_BYTES: Final = 1 << 21
"""Bytes of elements that a thread codes at a time."""
_PROBE: Final = 8192
"""Bytes of the middle of a plane that show if the plane is worth coding."""
_SETTINGS: Final = {
    "compression_level": 1,
    "strategy": 1,
    "window_log": 17,
    "hash_log": 6,
    "min_match": 7,
    "target_length": 0,
    "write_content_size": 1,
    "write_checksum": 0,
}
_UNSTATED: Final = -1
"""The size of a frame that does not say it."""

_kept = threading.local()
"""The decoder of a thread, whose tables are filled anew for each frame but never allocated anew."""


@dataclass(frozen=True)
class Coded:
    """Elements as frames."""

    frames: bytes
    """All frames, one after the other: the planes of the first block, then those of the next."""
    sizes: array[int]
    """The bytes of each frame in this order, 32 bits each: [n_blocks, unit]."""

    @property
    def n_bytes(self) -> int:
        """Bytes of frames and sizes."""
        return len(self.frames) + len(self.sizes) * self.sizes.itemsize


def n_frames(n_elements: int, unit: int) -> int:
    """Return how many frames so many elements of ``unit`` bytes have."""
    return -(-n_elements // BLOCK) * unit


def encode(
    values: Any, unit: int, fields: Fields = Fields.BYTES, *, base: Any = None, threads: int = 1
) -> Coded:
    """Code elements; the bytes do not depend on the number of threads.

    Args:
        values: The elements: anything with a contiguous buffer, such as an array of NumPy.
        unit: Bytes of an element: 1, 2, 4 or 8.
        fields: How elements are split.
        base: As many elements that the decoder has as well, or None.
        threads: The number of threads.

    Raises:
        InputError: The package zstandard is missing.
    """
    zstandard(_WHAT)
    from_values, from_base = _view(values), None if base is None else _view(base)

    def one(part: slice) -> Coded:
        return encode_blocks(
            from_values[part], unit, fields, base=None if from_base is None else from_base[part]
        )

    with in_order(one, groups(len(from_values), unit), threads) as results:
        found = list(results)
    sizes = array("I")
    for coded in found:
        sizes += coded.sizes
    return Coded(b"".join(coded.frames for coded in found), sizes)


def decode(
    frames: Any,
    sizes: Any,
    n_elements: int,
    unit: int,
    fields: Fields = Fields.BYTES,
    *,
    base: Any = None,
    out: Any = None,
    threads: int = 1,
) -> Any:
    """Return the elements that ``encode`` was given.

    Memory is bounded by the number of elements, whatever the frames say.

    Args:
        frames: All frames.
        sizes: The bytes of each: a buffer of 32-bit numbers.
        n_elements: The number of elements.
        unit: Bytes of an element.
        fields: How elements were split.
        base: The base that they were coded with, or None.
        out: A writable buffer for the elements, which may be the base; None for a new one.
        threads: The number of threads.

    Returns:
        ``out``.

    Raises:
        Damaged: Frames or sizes are not those of so many elements.
        InputError: The package zstandard is missing.
    """
    zstandard(_WHAT)
    data, lengths = _view(frames), _view(sizes).cast("I")
    begins = places(lengths, n_elements, unit, len(data))
    out = bytearray(n_elements * unit) if out is None else out
    to, from_base = _view(out), None if base is None else _view(base)

    def one(part: slice) -> None:
        first = part.start // unit // BLOCK * unit
        last = first + n_frames((part.stop - part.start) // unit, unit)
        decode_blocks(
            data[begins[first] : begins[last]],
            lengths[first:last],
            unit,
            fields,
            base=None if from_base is None else from_base[part],
            out=to[part],
        )

    with in_order(one, groups(n_elements * unit, unit), threads) as done:
        for _ in done:
            pass
    return out


def encode_blocks(
    values: Any, unit: int, fields: Fields = Fields.BYTES, *, base: Any = None
) -> Coded:
    """Code elements on the calling thread; arguments as for ``encode``."""
    library = zstandard(_WHAT)
    from_values = _view(values)
    n_elements = len(from_values) // unit
    room = room_of("planes", len(from_values))
    split_fields(values=values, base=base, unit=unit, fields=int(fields), out=room)
    planes = [
        room[plane * n_elements + first : plane * n_elements + min(first + BLOCK, n_elements)]
        for first in range(0, n_elements, BLOCK)
        for plane in range(unit)
    ]
    settings = library.ZstdCompressionParameters(**_SETTINGS)
    coder = library.ZstdCompressor(compression_params=settings)
    worth = list(range(len(planes)))
    if n_elements > BLOCK:
        middles = [plane[len(plane) // 2 :][:_PROBE] for plane in planes]
        worth = [i for i, one in enumerate(_smaller(coder, middles)) if one is not middles[i]]
    for i, frame in zip(worth, _smaller(coder, [planes[i] for i in worth]), strict=True):
        planes[i] = frame
    return Coded(b"".join(planes), array("I", map(len, planes)))


def _smaller(coder: Any, planes: Sequence[Any]) -> list[Any]:
    """Return the frame of each plane, or the plane itself where its frame is not smaller."""
    packed = coder.multi_compress_to_buffer(planes) if planes else []
    return [
        frame if len(frame) < len(plane) else plane
        for frame, plane in zip(packed, planes, strict=True)
    ]


def decode_blocks(
    frames: Any,
    sizes: Sequence[int],
    unit: int,
    fields: Fields = Fields.BYTES,
    *,
    base: Any = None,
    out: Any,
) -> None:
    """Decode whole blocks on the calling thread, into ``out``; arguments as for ``decode``.

    Raises:
        Damaged: A frame is none, or does not hold as many bytes as its plane has.
    """
    data, to = _view(frames), _view(out)
    n_elements = len(to) // unit
    begins = places(sizes, n_elements, unit, len(data))
    planes: list[Any] = [data[begin:end] for begin, end in pairwise(begins)]
    whole, rest = n_elements // BLOCK * unit, n_elements % BLOCK
    lengths = [BLOCK] * whole + [rest] * (len(planes) - whole)
    coded = [i for i, n_bytes in enumerate(lengths) if sizes[i] != n_bytes]
    if coded:
        found = _decoded([planes[i] for i in coded], [lengths[i] for i in coded])
        for i, plane in zip(coded, found, strict=True):
            planes[i] = plane
    join_fields(planes=planes, base=base, unit=unit, fields=int(fields), out=out)


def _decoded(frames: Sequence[Any], lengths: Sequence[int]) -> Iterator[bytes]:
    """Return what frames hold, each of a stated number of bytes."""
    library = zstandard(_WHAT)
    if not hasattr(_kept, "decoder"):
        _kept.decoder = library.ZstdDecompressor()
    try:
        for frame, n_bytes in zip(frames, lengths, strict=True):
            if library.frame_content_size(frame) not in (n_bytes, _UNSTATED):
                raise ValueError(f"a frame states other sizes than {n_bytes} bytes")
            found = _kept.decoder.decompress(frame, n_bytes, allow_extra_data=False)
            if len(found) != n_bytes:
                raise ValueError(f"a frame holds {len(found)} bytes, not {n_bytes}")
            yield found
    except (library.ZstdError, ValueError) as error:
        raise Damaged(f"found no frames of the stated sizes ({error})") from None


def places(sizes: Sequence[int], n_elements: int, unit: int, n_bytes: int) -> list[int]:
    """Return where each frame begins, and where the last ends.

    Args:
        sizes: The bytes of each frame.
        n_elements: The elements in all frames.
        unit: Bytes of an element.
        n_bytes: Bytes of all frames.

    Raises:
        Damaged: The sizes are not those of so many elements and bytes.
    """
    expected = n_frames(n_elements, unit)
    if len(sizes) != expected:
        raise Damaged(
            f"found sizes of {len(sizes)} frames, expected {expected} for {n_elements} elements of "
            f"{unit} bytes"
        )
    whole = n_elements // BLOCK * unit
    for part, most in ((sizes[:whole], BLOCK), (sizes[whole:], n_elements % BLOCK)):
        if len(part) and not 0 < min(part) <= max(part) <= most:
            raise Damaged(f"found frames of {min(part)} to {max(part)} bytes, expected 1 to {most}")
    begins = [0, *accumulate(sizes)]
    if begins[-1] != n_bytes:
        raise Damaged(f"found {n_bytes} bytes of frames, expected {begins[-1]}, as sizes say")
    return begins


def _view(data: Any) -> memoryview:
    """Return the bytes of a buffer."""
    view = memoryview(data)
    return view if view.format == "B" and view.ndim == 1 else view.cast("B")


def groups(n_bytes: int, unit: int) -> Iterator[slice]:
    """Yield the bytes of elements that a thread codes at a time, whole blocks."""
    step = max(_GROUP_BYTES // (unit * BLOCK), 1) * unit * BLOCK
    for first in range(0, n_bytes, step):
        yield slice(first, min(first + step, n_bytes))
