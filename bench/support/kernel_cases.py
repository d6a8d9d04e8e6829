"""The kernels with realistic arguments, the bytes that they move, and what they must give."""

from __future__ import annotations

import mmap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt

from tallies import _core
from tallies.coding import Fields
from tallies.engine.codes import BLEND_CODES, GATE_CODES, KEEP_ALL, VOTE_CODES
from tallies.spec.dtypes import DTYPE_CODES, TABLE
from tallies.spec.rules import Blend, Gate, Vote
from tests.reference import dtype as formats
from tests.reference.blend import disjoint_merge
from tests.reference.changed_elements import BLOCK, encode_gaps
from tests.reference.differences import contrast
from tests.reference.dtype import Array, Floats
from tests.reference.elect import elect_signs
from tests.reference.fields import join, split
from tests.reference.gram import gram
from tests.reference.linear import linear
from tests.reference.masks import (
    apply_mask,
    consensus_mask,
    magnitude_mask,
    pack_bits,
    tall_mask,
)
from tests.reference.select import magnitude_bits
from tests.reference.task_arithmetic import add_to_base, task_vectors

CHECKED = 4096
"""Elements of each result that are compared, from its start."""

GRAIN = 64
"""Kernels start at multiples of this many elements, as tiles do."""

_DTYPES = {
    one.name: np.dtype(getattr(ml_dtypes, one.array_name, one.array_name))
    for one in TABLE
    if one.is_fused
}
_WEIGHTS = (1.0, 0.7, 0.4)
_N_MASKS = 8
_SCALE = 0.4
_SCALES = (0.25, 0.5, 0.75, 1.0)
_DENSITY = 0.2
# Half the width, as a density, of the bracket that a sample leaves around a threshold.
_BRACKET = 0.005
# Random numbers are drawn for so many elements and repeated: no kernel looks back.
_BLOCK = 1 << 20
# Shares of elements that a patch changes.
_CHANGED, _MANY_CHANGED = 0.01, 0.1
# A base and its task vectors as in bench/checkpoints.py.
_BASE_SPREAD = np.float32(0.02)
_TUNING_SPREAD = np.float32(2e-4)


@dataclass(frozen=True)
class Kernel:
    """A kernel and its arrays."""

    name: str
    dtype: str
    n_bytes: float
    """Read and written for each element."""
    run: Callable[[int, int], object]
    """run(first, n) works on n elements from ``first`` on, a multiple of GRAIN."""
    check: Callable[[], None]
    """RuntimeError unless what the kernel gives equals the reference."""
    out: Array | None = None
    """The output; None for a kernel that only returns its result."""
    inputs: Sequence[Array] = ()
    """The inputs; ``run`` has their addresses, which are good for as long as they are kept."""


def groups() -> list[Callable[[int], list[Kernel]]]:
    """Makers of the kernels that share arrays; each takes the largest number of elements."""
    return [
        *(lambda n, dtype=dtype: _fused(dtype, n) for dtype in ("BF16", "F16", "F32")),
        *(lambda n, dtype=dtype: _conversions(dtype, n) for dtype in ("BF16", "F16")),
        _masks,
        _signs,
        _sums,
        _found_changes,
        _made_changes,
        *(lambda n, dtype=dtype: _fields(dtype, n) for dtype in ("BF16", "F32")),
    ]


@dataclass(frozen=True)
class _Rule:
    """A combine: the three choices, and the merged task vector by the reference."""

    name: str
    gate: Gate
    vote: Vote
    blend: Blend
    zero_sign: int
    merged: Callable[[Floats], Array]


def _ties(zero: str, blend: str) -> Callable[[Floats], Array]:
    return lambda trimmed: disjoint_merge(
        trimmed, elect_signs(trimmed, _WEIGHTS, zero=zero), _WEIGHTS, blend
    )


_RULES = (
    _Rule(
        name="task_arithmetic",
        gate=Gate.ALL,
        vote=Vote.NONE,
        blend=Blend.SUM,
        zero_sign=0,
        merged=lambda deltas: linear(deltas, _WEIGHTS, normalize=False),
    ),
    _Rule(
        name="ties",
        gate=Gate.MAGNITUDE,
        vote=Vote.SUM,
        blend=Blend.MEAN_OF_AGREEING,
        zero_sign=-1,
        merged=_ties("negative", "mean"),
    ),
    _Rule(
        name="ties, mergekit's",
        gate=Gate.MAGNITUDE,
        vote=Vote.SUM,
        blend=Blend.WEIGHTED_MEAN_OF_AGREEING,
        zero_sign=1,
        merged=_ties("positive", "weighted_mean"),
    ),
)


def _fused(dtype: str, n: int) -> list[Kernel]:
    """The kernels that read and write a checkpoint's own type: combine and survey."""
    kind, code = np.dtype(_DTYPES[dtype]), DTYPE_CODES[dtype]
    size = kind.itemsize
    models = [_filled(block.astype(kind), n) for block in _model_blocks()]
    out, interior = _array(kind, n), _array(np.uint32, n)
    addresses, to, listed = [_at(model) for model in models], _at(out), _at(interior)
    base = models[0][:CHECKED]
    deltas = task_vectors(base, [model[:CHECKED] for model in models[1:]])
    sizes = magnitude_bits(deltas)
    floors = [_ranked(row, _DENSITY) - 1 for row in sizes]
    low, high = (_ranked(sizes[0], _DENSITY + step) for step in (_BRACKET, -_BRACKET))

    def combine(rule: _Rule) -> Kernel:
        least = floors if rule.gate is Gate.MAGNITUDE else [KEEP_ALL] * len(floors)
        codes = GATE_CODES[rule.gate], VOTE_CODES[rule.vote], BLEND_CODES[rule.blend]

        def run(first: int, n: int) -> None:
            row, *rows = [address + first * size for address in addresses]
            target = to + first * size
            _core.combine(
                code, *codes, row, rows, _WEIGHTS, least, _SCALE, rule.zero_sign, target, n
            )

        def check() -> None:
            keep = sizes.astype(np.int64) > np.array(least)[:, None]
            merged = rule.merged(np.where(keep, deltas, np.float32(0)))
            _expect(rule.name, out[:CHECKED], add_to_base(base, _SCALE, formats.widen(merged)))

        return Kernel(rule.name, dtype, (len(models) + 1) * size, run, check, out, models)

    outs = [_array(kind, n) for _ in _SCALES]
    places = [_at(one) for one in outs]
    ties = _RULES[1]

    def combine_scales(first: int, n: int) -> None:
        row, *rows = [address + first * size for address in addresses]
        codes = GATE_CODES[ties.gate], VOTE_CODES[ties.vote], BLEND_CODES[ties.blend]
        found = [place + first * size for place in places]
        _core.combine_scales(
            code, *codes, row, rows, _WEIGHTS, floors, _SCALES, ties.zero_sign, found, [], n
        )

    def combine_signs(first: int, n: int) -> None:
        row, *rows = [address + first * size for address in addresses]
        codes = GATE_CODES[ties.gate], VOTE_CODES[ties.vote], BLEND_CODES[ties.blend]
        out, other = [[place + first * size] for place in places[:2]]
        _core.combine_scales(
            code, *codes, row, rows, _WEIGHTS, floors, [_SCALE], ties.zero_sign, out, other, n
        )

    def check_signs() -> None:
        keep = sizes.astype(np.int64) > np.array(floors)[:, None]
        for zero, one in zip(("negative", "positive"), outs, strict=False):
            merged = formats.widen(_ties(zero, "mean")(np.where(keep, deltas, np.float32(0))))
            _expect("ties, both signs", one[:CHECKED], add_to_base(base, _SCALE, merged))

    def check_scales() -> None:
        keep = sizes.astype(np.int64) > np.array(floors)[:, None]
        merged = formats.widen(ties.merged(np.where(keep, deltas, np.float32(0))))
        for scale, one in zip(_SCALES, outs, strict=True):
            _expect("ties, 4 scales", one[:CHECKED], add_to_base(base, scale, merged))

    def survey(first: int, n: int) -> list[int]:
        row, other, *_ = [address + first * size for address in addresses]
        return _core.survey(code, row, other, n, low, high, listed + 4 * first, False)

    def check_survey() -> None:
        row = sizes[0]
        inside = row[(row > low) & (row < high)]
        counts = [np.sum(row >= low), np.sum(row > low), np.sum(row >= high), np.sum(row > high)]
        _expect("survey", np.array(survey(0, CHECKED)), np.array([*counts, inside.size]))
        _expect("survey", np.sort(interior[: inside.size]), np.sort(inside))

    return [
        *map(combine, _RULES),
        Kernel(
            "ties, 4 scales",
            dtype,
            (len(models) + len(outs)) * size,
            combine_scales,
            check_scales,
            outs[-1],
            [*models, *outs],
        ),
        Kernel(
            "ties, both signs",
            dtype,
            (len(models) + 2) * size,
            combine_signs,
            check_signs,
            outs[1],
            [*models, *outs[:2]],
        ),
        Kernel("survey", dtype, 2 * size, survey, check_survey, None, models),
    ]


def _conversions(dtype: str, n: int) -> list[Kernel]:
    """To float32 and back."""
    kind, code = np.dtype(_DTYPES[dtype]), DTYPE_CODES[dtype]
    size = kind.itemsize
    block = _model_blocks()[0]
    wide, words = _filled(block, n), _filled(block.astype(kind), n)
    wide_out, words_out = _array(np.float32, n), _array(kind, n)
    from_wide, from_words, to_wide, to_words = map(_at, (wide, words, wide_out, words_out))
    return [
        Kernel(
            "widen",
            dtype,
            size + 4,
            lambda at, n: _core.widen(from_words + at * size, code, to_wide + at * 4, n),
            lambda: _expect("widen", wide_out[:CHECKED], formats.widen(words[:CHECKED])),
            wide_out,
            [words],
        ),
        Kernel(
            "narrow",
            dtype,
            size + 4,
            lambda at, n: _core.narrow(from_wide + at * 4, to_words + at * size, code, n),
            lambda: _expect("narrow", words_out[:CHECKED], formats.narrow(wide[:CHECKED], kind)),
            words_out,
            [wide],
        ),
    ]


def _masks(n: int) -> list[Kernel]:
    """Making and applying packed masks, on float32 task vectors."""
    base, delta, merged = (_filled(block, n) for block in _delta_blocks()[:3])
    draw = np.random.default_rng(1)
    packed = [
        _filled(draw.integers(256, size=_BLOCK // 8, dtype=np.uint8), n // 8)
        for _ in range(_N_MASKS)
    ]
    mask, out = _array(np.uint8, n // 8), _array(np.float32, n)
    b, x, m, to_mask, to = map(_at, (base, delta, merged, mask, out))
    rows = [_at(row) for row in packed]
    head = [array[:CHECKED] for array in (base, delta, merged)]
    masks = [row[: CHECKED // 8] for row in packed]

    def check_mask(name: str, wanted: Callable[[], Array]) -> Callable[[], None]:
        return lambda: _expect(name, mask[: CHECKED // 8], wanted())

    threshold = np.float32(_TUNING_SPREAD)
    floor = int(threshold.view(np.int32)) - 1
    half = _N_MASKS // 2
    return [
        Kernel(
            "magnitude_mask",
            "F32",
            4 + 1 / 8,
            lambda at, n: _core.magnitude_mask(x + 4 * at, floor, to_mask + at // 8, n),
            lambda: _expect(
                "magnitude_mask", mask[: CHECKED // 8], magnitude_mask(head[1], threshold)
            ),
            mask,
            [delta],
        ),
        Kernel(
            "tall_mask",
            "F32",
            8 + 1 / 8,
            lambda at, n: _core.tall_mask(x + 4 * at, m + 4 * at, _SCALE, to_mask + at // 8, n),
            check_mask("tall_mask", lambda: tall_mask(head[1], head[2], _SCALE)),
            mask,
            [delta, merged],
        ),
        Kernel(
            f"consensus_mask of {_N_MASKS}",
            "bits",
            (_N_MASKS + 1) / 8,
            lambda at, n: _core.consensus_mask(
                [row + at // 8 for row in rows], half, to_mask + at // 8, n
            ),
            lambda: _expect(
                "consensus_mask", mask[: CHECKED // 8], consensus_mask(masks, CHECKED, half)
            ),
            mask,
            packed,
        ),
        Kernel(
            "apply_mask",
            "F32",
            12 + 1 / 8,
            lambda at, n: _core.apply_mask(
                b + 4 * at, m + 4 * at, rows[0] + at // 8, _SCALE, to + 4 * at, n
            ),
            lambda: _expect(
                "apply_mask", out[:CHECKED], apply_mask(head[0], head[2], masks[0], _SCALE)
            ),
            out,
        ),
    ]


def _signs(n: int) -> list[Kernel]:
    """The election and the blend alone, on float32 task vectors."""
    deltas = [_filled(block, n) for block in _delta_blocks()[1:]]
    signs, out = _array(np.int8, n), _array(np.float32, n)
    elected = _filled(np.tile(np.array([-1, 1, 1, 0], np.int8), _BLOCK // 4), n)
    rows, given, to_signs, to = [_at(delta) for delta in deltas], _at(elected), _at(signs), _at(out)
    head = np.stack([delta[:CHECKED] for delta in deltas])
    mean = BLEND_CODES[Blend.MEAN_OF_AGREEING]

    def at(first: int) -> list[int]:
        return [row + 4 * first for row in rows]

    return [
        Kernel(
            "elect_signs",
            "F32",
            4 * len(deltas) + 1,
            lambda i, n: _core.elect_signs(at(i), _WEIGHTS, False, -1, to_signs + i, n),
            lambda: _expect(
                "elect_signs", signs[:CHECKED], elect_signs(head, _WEIGHTS, zero="negative")
            ),
            signs,
            deltas,
        ),
        Kernel(
            "disjoint_merge",
            "F32",
            4 * len(deltas) + 1 + 4,
            lambda i, n: _core.disjoint_merge(at(i), _WEIGHTS, given + i, mean, to + 4 * i, n),
            lambda: _expect(
                "disjoint_merge", out[:CHECKED], disjoint_merge(head, elected[:CHECKED], _WEIGHTS)
            ),
            out,
            [*deltas, elected],
        ),
    ]


def _sums(n: int) -> list[Kernel]:
    """Kernels that add up over a whole tensor."""
    left, right = (_filled(block, n) for block in _delta_blocks()[1:3])
    a, b = _at(left), _at(right)
    delta = _array(np.float32, n)
    to = _at(delta)

    def check_contrast() -> None:
        wanted = contrast(left[:CHECKED], right[:CHECKED])
        _expect("contrast", delta[:CHECKED], wanted.delta)
        counts = [*wanted[:2], int(wanted.largest.view(np.uint32))]
        if _core.contrast(a, b, to, CHECKED) != counts:
            raise RuntimeError("contrast: counts differ from the reference")

    def check_dot() -> None:
        pair = [left[:CHECKED], right[:CHECKED]]
        bound = CHECKED * 2.0**-52 * float(np.sum(np.abs(np.multiply(*pair, dtype=np.float64))))
        if abs(_core.dot(a, b, CHECKED) - float(gram(pair)[0, 1])) > bound:
            raise RuntimeError("dot: differs from the reference by more than its rounding")

    def check_fingerprint() -> None:
        found = np.array(_core.fingerprint(a, 4 * CHECKED, 0), np.uint64)
        _expect("fingerprint", found, _content(left[:CHECKED].view(np.uint64).reshape(-1, 8)))

    return [
        Kernel(
            "dot",
            "F32",
            8,
            lambda at, n: _core.dot(a + 4 * at, b + 4 * at, n),
            check_dot,
            None,
            [left, right],
        ),
        Kernel(
            "contrast",
            "F32",
            12,
            lambda at, n: _core.contrast(a + 4 * at, b + 4 * at, to + 4 * at, n),
            check_contrast,
            delta,
            [left, right],
        ),
        Kernel(
            "fingerprint",
            "bytes",
            4,
            lambda at, n: _core.fingerprint(a + 4 * at, 4 * n, 4 * at),
            check_fingerprint,
            None,
            [left],
        ),
    ]


def _found_changes(n: int) -> list[Kernel]:
    """Finding and coding the changes of a patch, of 16-bit elements."""
    draw = np.random.default_rng(2)
    block = draw.integers(1 << 16, size=_BLOCK, dtype=np.uint16)
    changed = draw.random(_BLOCK) < _CHANGED
    old, new = _filled(block, n), _filled(block ^ changed.astype(np.uint16), n)
    packed = _filled(pack_bits(changed), n // 8)
    coded = _filled(encode_gaps(changed), n // 32)
    per_element = int(np.sum(changed)) / _BLOCK
    mask, values = _array(np.uint8, n // 8 + 64), _array(np.uint16, n + 64)
    gaps, of_gaps, of_mask = (_array(kind, n + 64) for kind in (np.uint8, np.uint16, np.uint16))
    a, b, p, g, to_mask, to_values, to_gaps, to_of_gaps, to_of_mask = map(
        _at, (old, new, packed, coded, mask, values, gaps, of_gaps, of_mask)
    )
    head = changed[:CHECKED]
    n_head = int(np.sum(head))

    def check_compact() -> None:
        _expect("compact", mask[: CHECKED // 8], pack_bits(head))
        _expect("compact", values[:n_head], np.ones(n_head, np.uint16))

    def check_positions(name: str, positions: Array) -> Callable[[], None]:
        return lambda: _expect(name, positions[:n_head], np.flatnonzero(head).astype(np.uint16))

    wanted = encode_gaps(head)
    return [
        Kernel(
            "compact 1 %",
            "16 bits",
            4 + 1 / 8 + 2 * per_element,
            lambda at, n: _core.compact(
                2, 0, a + 2 * at, b + 2 * at, n, to_mask + at // 8, to_values + 2 * at
            ),
            check_compact,
            values,
            [old, new],
        ),
        Kernel(
            "encode_gaps 1 %",
            "bits",
            1 / 8 + per_element,
            lambda at, n: _core.encode_gaps(p + at // 8, n, to_gaps + at),
            lambda: _expect("encode_gaps", gaps[: wanted.size], wanted),
            gaps,
            [packed],
        ),
        Kernel(
            "gap_positions 1 %",
            "bytes",
            1 / 32 * 3,
            lambda at, n: _core.gap_positions(g + at // 32, n // 32, to_of_gaps + 2 * at),
            check_positions("gap_positions", of_gaps),
            of_gaps,
            [coded],
        ),
        Kernel(
            "mask_positions 1 %",
            "bits",
            1 / 8 + 2 * per_element,
            lambda at, n: _core.mask_positions(p + at // 8, n, to_of_mask + 2 * at),
            check_positions("mask_positions", of_mask),
            of_mask,
            [packed],
        ),
    ]


def _made_changes(n: int) -> list[Kernel]:
    """Making the changes of a patch, of 16-bit elements; all positions are in one block."""
    draw = np.random.default_rng(3)
    words = draw.integers(1 << 16, size=_BLOCK, dtype=np.uint16)
    at_block = np.flatnonzero(draw.random(BLOCK) < _MANY_CHANGED).astype(np.uint16)
    share = at_block.size / BLOCK
    positions, values = _filled(at_block, n), _filled(words, n)
    elements, listed = _filled(words, n + BLOCK), _array(np.uint16, n)
    out = _array(np.uint16, n + BLOCK)
    p, v, e, to_listed, to = map(_at, (positions, values, elements, listed, out))
    n_listed = CHECKED // 2

    def scatter(first: int, n: int) -> None:
        at, count = int(first * share), int(n * share)
        _core.scatter(2, 2, p + 2 * at, count, v + 2 * at, to)

    def check_scatter() -> None:
        scatter(0, BLOCK)
        _expect("scatter", out[at_block[:n_listed]], values[:n_listed])

    return [
        Kernel("scatter 10 %", "16 bits", share * 6, scatter, check_scatter, None, [positions]),
        Kernel(
            "gather",
            "16 bits",
            6,
            lambda at, n: _core.gather(2, p + 2 * at, n, e, to_listed + 2 * at),
            lambda: _expect("gather", listed[:CHECKED], elements[positions[:CHECKED]]),
            listed,
            [positions, elements],
        ),
        Kernel(
            "change_all",
            "16 bits",
            6,
            lambda at, n: _core.change_all(2, 2, v + 2 * at, n, to + 2 * at),
            lambda: _expect("change_all", out[:CHECKED], values[:CHECKED]),
            out,
            [values],
        ),
    ]


def _fields(dtype: str, n: int) -> list[Kernel]:
    """Planes of bytes, of an expert alone and of what it changes of a base, and back."""
    kind = np.dtype(_DTYPES[dtype])
    unit = kind.itemsize
    base, expert = (_filled(block.astype(kind), n) for block in _model_blocks()[:2])
    made = []
    for fields, other in ((Fields.FLOAT, None), (Fields.DIFFERENCE, base)):
        name = "alone" if other is None else "of a base"
        n_bytes = (2 if other is None else 3) * unit
        inputs = [expert] if other is None else [expert, base]
        head = None if other is None else other[:CHECKED]
        wanted = split(expert[:CHECKED], fields.name.lower(), head)
        rows = [_filled(row, n) for row in wanted]
        planes, out = _array(np.uint8, unit * n), _array(np.dtype(f"u{unit}"), n)

        def split_run(
            first: int, n: int, fields: Fields = fields, other: Any = other, planes: Any = planes
        ) -> None:
            part = slice(first, first + n)
            _core.split_fields(
                values=expert[part].view(np.uint8),
                base=None if other is None else other[part].view(np.uint8),
                unit=unit,
                fields=fields,
                out=planes[unit * first : unit * (first + n)],
            )

        def join_run(
            first: int,
            n: int,
            fields: Fields = fields,
            other: Any = other,
            rows: Any = rows,
            out: Any = out,
        ) -> None:
            part = slice(first, first + n)
            _core.join_fields(
                planes=[row[part] for row in rows],
                base=None if other is None else other[part].view(np.uint8),
                unit=unit,
                fields=fields,
                out=out[part],
            )

        def check_split(lowest: Array = wanted[0], planes: Any = planes) -> None:
            _expect("split_fields", planes[:CHECKED], lowest)

        def check_join(
            fields: Fields = fields, head: Any = head, wanted: Any = wanted, out: Any = out
        ) -> None:
            _expect("join_fields", out[:CHECKED], join(wanted, fields.name.lower(), head))

        made += [
            Kernel(f"split_fields {name}", dtype, n_bytes, split_run, check_split, planes, inputs),
            Kernel(f"join_fields {name}", dtype, n_bytes, join_run, check_join, out, rows),
        ]
    return made


def _content(stripes: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """The eight sums of csrc/kernels/fingerprint.h over stripes [n, 8] from a tensor's start."""
    lane = np.arange(1, 9, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    stripe = np.arange(len(stripes), dtype=np.uint64)[:, None]
    mixed = stripes ^ (stripe * np.uint64(0xBF58476D1CE4E5B9) + lane)
    product = (mixed & np.uint64(0xFFFFFFFF)) * (mixed >> np.uint64(32))
    rotated = stripes << np.uint64(1) | stripes >> np.uint64(63)
    return np.asarray((product + rotated).sum(axis=0, dtype=np.uint64))


def _model_blocks() -> list[Floats]:
    """A base and three experts."""
    base, *deltas = _delta_blocks()
    return [base, *(base + delta for delta in deltas)]


def _delta_blocks() -> list[Floats]:
    """A base and three task vectors."""
    draw = np.random.default_rng(0)
    spreads = (_BASE_SPREAD, *[_TUNING_SPREAD] * len(_WEIGHTS))
    return [spread * draw.standard_normal(_BLOCK, np.float32) for spread in spreads]


def _array(kind: npt.DTypeLike, n: int) -> Array:
    """An array on whole pages, huge ones where the system has them."""
    n_bytes = max(n, 1) * np.dtype(kind).itemsize
    memory = mmap.mmap(-1, -(-n_bytes // mmap.PAGESIZE) * mmap.PAGESIZE)
    memory.madvise(mmap.MADV_HUGEPAGE)
    return np.frombuffer(memory, kind)[:n]


def _filled(block: Array, n: int) -> Array:
    array = _array(block.dtype, n)
    for first in range(0, n, block.size):
        part = array[first : first + block.size]
        part[:] = block[: part.size]
    return array


def _at(array: Array) -> int:
    return int(array.ctypes.data)


def _ranked(sizes: npt.NDArray[np.uint32], density: float) -> int:
    """The pattern of the smallest magnitude among a share of the largest."""
    return int(np.sort(sizes)[-max(1, int(sizes.size * density))])


def _expect(name: str, found: Array, wanted: Array) -> None:
    if found.astype(wanted.dtype).tobytes() != wanted.tobytes():
        raise RuntimeError(f"{name}: the first {found.size} results differ from the reference")
