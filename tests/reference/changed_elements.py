"""Exact changes of a tensor's elements, by their bytes: where they are, and what makes the new."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from .dtype import Array, Mask
from .masks import pack_bits, unpack_bits
from .sparse import bit_patterns

Bytes = npt.NDArray[np.uint8]
Ends = npt.NDArray[np.uint32]

BLOCK = 65536
"""Elements whose changes can be decoded alone."""
LAYOUTS = ("none", "gaps", "mask", "dense")
CODINGS = ("xor", "difference", "new")
MADE_CODINGS = (*CODINGS, "undone difference")
UNDONE = {"xor": "xor", "difference": "undone difference"}


class Changes(NamedTuple):
    """The changes of a slice in one layout.

    `blocks` has, for each block, where its bytes of `positions` end and where its `values` do.
    """

    layout: str
    n_changed: int
    positions: Bytes
    values: Array
    blocks: Ends


def encode_gaps(changed: Mask) -> Bytes:
    """Byte g: g elements stay and the next is changed; 255: so many stay, and no change follows."""
    gaps: list[int] = []
    for gap in np.diff(np.flatnonzero(changed), prepend=-1) - 1:
        gaps += [255] * (gap // 255) + [gap % 255]
    return np.array(gaps, np.uint8)


def decode_gaps(gaps: Bytes, n_elements: int) -> Mask:
    """The elements of a block that are changed; IndexError for one beyond."""
    is_change = gaps != 255
    changed = np.zeros(n_elements, bool)
    changed[np.cumsum(gaps + is_change.astype(np.int64))[is_change] - 1] = True
    return changed


def find(old: Array, new: Array, coding: str) -> Changes:
    """The changes in the layout that takes the fewest bytes, of equal ones the first."""
    before, now = bit_patterns(old), bit_patterns(new)
    changed = before != now
    if not changed.any():
        return _changes("none", changed, now[:0], [])
    all_values = {"xor": before ^ now, "difference": now - before, "new": now}[coding]
    starts = range(0, now.size, BLOCK)
    gaps = [encode_gaps(changed[at : at + BLOCK]) for at in starts]
    masks = [pack_bits(changed[at : at + BLOCK]) for at in starts]
    return min(
        _changes("gaps", changed, all_values[changed], gaps),
        _changes("mask", changed, all_values[changed], masks),
        _changes("dense", changed, all_values, []),
        key=lambda one: one.positions.nbytes + one.values.nbytes + one.blocks.nbytes,
    )


def _changes(layout: str, changed: Mask, values: Array, positions: list[Bytes]) -> Changes:
    counts = [changed[at : at + BLOCK].sum() for at in range(0, changed.size, BLOCK)]
    ends = [np.cumsum([block.size for block in positions]), np.cumsum(counts)]
    return Changes(
        layout,
        int(changed.sum()),
        np.concatenate([np.empty(0, np.uint8), *positions]),
        values,
        np.stack(ends, axis=1).astype(np.uint32) if positions else np.empty((0, 2), np.uint32),
    )


def where(changes: Changes, n_elements: int) -> Mask:
    """The elements that a value stands for."""
    if changes.layout in ("none", "dense"):
        return np.full(n_elements, changes.layout == "dense")
    masks, begin = [], 0
    for number, (end, _) in enumerate(changes.blocks):
        coded = changes.positions[begin:end]
        n = min(BLOCK, n_elements - number * BLOCK)
        masks.append(decode_gaps(coded, n) if changes.layout == "gaps" else unpack_bits(coded, n))
        begin = int(end)
    return np.concatenate(masks)


def apply(old: Array, changes: Changes, coding: str) -> Array:
    """The new elements."""
    words = bit_patterns(old)
    at = where(changes, words.size)
    values = changes.values
    words[at] = {
        "xor": words[at] ^ values,
        "difference": words[at] + values,
        "new": values,
        "undone difference": words[at] - values,
    }[coding]
    return words.view(old.dtype).reshape(old.shape)
