"""Frames of elements: what goes in comes out, and what no encoder made is refused."""

from __future__ import annotations

import builtins
import tracemalloc
from array import array
from typing import Any

import numpy as np
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from tallies import InputError
from tallies.coding import BLOCK, Coded, Damaged, Fields, decode, encode

UNITS = (1, 2, 4, 8)


def patterns(n: int, unit: int, seed: int = 0) -> Any:
    """Patterns of which the high bytes vary little, as the exponents of weights do."""
    random = np.random.default_rng(seed)
    rows = random.integers(0, 256, (n, unit), np.uint8)
    rows[:, -1] = random.binomial(8, 0.5, n)
    return rows.reshape(-1).view(f"u{unit}")


@settings(max_examples=40)
@given(
    st.integers(0, 3 * BLOCK), st.sampled_from(UNITS), st.sampled_from(Fields), st.booleans(),
    st.integers(1, 3),
)  # fmt: skip
def test_back_and_forth(n: int, unit: int, fields: Fields, has_base: bool, threads: int) -> None:
    values = patterns(n, unit)
    base = values + patterns(n, unit, 1) // 3 if has_base else None
    coded = encode(values, unit, fields, base=base, threads=threads)
    assert coded == encode(values, unit, fields, base=base)
    assert len(coded.sizes) == -(-n // BLOCK) * unit
    found = decode(coded.frames, coded.sizes, n, unit, fields, base=base, threads=threads)
    assert bytes(found) == values.tobytes()


def test_threads_change_no_byte() -> None:
    values = patterns(40 * BLOCK + 7, 4)
    coded = encode(values, 4, threads=4)
    assert coded == encode(values, 4)
    assert coded.n_bytes < 0.9 * values.nbytes
    out = np.empty_like(values)
    assert decode(coded.frames, coded.sizes, values.size, 4, out=out, threads=4) is out
    assert np.array_equal(out, values)


def test_elements_are_decoded_over_their_base() -> None:
    base = patterns(2 * BLOCK + 9, 2)
    values = base + 3
    coded = encode(values, 2, Fields.DIFFERENCE, base=base)
    out = base.copy()
    decode(coded.frames, coded.sizes, out.size, 2, Fields.DIFFERENCE, base=out, out=out)
    assert np.array_equal(out, values)


def test_a_plane_that_does_not_shrink_is_kept() -> None:
    values = np.random.default_rng(0).integers(0, 256, BLOCK + 5, np.uint8)
    coded = encode(values, 1)
    assert coded.frames == values.tobytes()
    assert list(coded.sizes) == [BLOCK, 5]


def test_a_block_is_decoded_alone() -> None:
    values = patterns(3 * BLOCK, 2)
    coded = encode(values, 2, Fields.FLOAT)
    begin, middle = sum(coded.sizes[:2]), coded.sizes[2:4]
    data = coded.frames[begin : begin + sum(middle)]
    found = decode(data, middle, BLOCK, 2, Fields.FLOAT)
    assert bytes(found) == values[BLOCK : 2 * BLOCK].tobytes()


def test_another_program_reads_the_frames() -> None:
    values = patterns(BLOCK, 2)
    coded = encode(values, 2)
    low, high = coded.frames[: coded.sizes[0]], coded.frames[coded.sizes[0] :]
    planes = values.view(np.uint8).reshape(-1, 2).T
    assert low == planes[0].tobytes()
    assert zstandard.ZstdDecompressor().decompress(high) == planes[1].tobytes()


def changed(coded: Coded, **changes: Any) -> tuple[bytes, Any]:
    return changes.get("frames", coded.frames), changes.get("sizes", coded.sizes)


def test_what_no_encoder_made_is_refused() -> None:
    values = patterns(BLOCK + 100, 2)
    coded = encode(values, 2)
    sizes = list(coded.sizes)
    high = coded.frames[sizes[0] : sizes[0] + sizes[1]]
    cases = [
        (coded.frames[:-1], coded.sizes),
        (coded.frames + b"x", coded.sizes),
        (coded.frames, coded.sizes[:-1]),
        (coded.frames, coded.sizes + array("I", [1])),
        (coded.frames, array("I", [0, sum(sizes[:2]), *sizes[2:]])),
        (coded.frames, array("I", [sizes[0] - 1, sizes[1] + 1, *sizes[2:]])),
        (coded.frames, array("I", [2**32 - 1] * 4)),
        (coded.frames.replace(high, b"\0" * len(high)), coded.sizes),
        (coded.frames.replace(high, high[: len(high) // 2] + bytes(len(high) - len(high) // 2)),
         coded.sizes),
    ]  # fmt: skip
    for frames, lengths in cases:
        with pytest.raises(Damaged):
            decode(frames, lengths, values.size, 2)


def test_a_frame_that_decodes_to_more_is_refused_in_bounded_memory() -> None:
    bomb = zstandard.ZstdCompressor(level=19).compress(bytes(1 << 28))
    assert len(bomb) < BLOCK
    tracemalloc.start()
    with pytest.raises(Damaged, match="stated sizes"):
        decode(bomb, array("I", [len(bomb)]), BLOCK, 1)
    assert tracemalloc.get_traced_memory()[1] < 1 << 22
    tracemalloc.stop()
    with pytest.raises(Damaged):
        decode(bomb, array("I", [len(bomb)]), 1 << 28, 1)


def test_a_frame_that_decodes_to_less_is_refused() -> None:
    short = zstandard.ZstdCompressor().compress(bytes(100))
    with pytest.raises(Damaged):
        decode(short, array("I", [len(short)]), 101, 1)


def test_the_extra_is_named_where_the_package_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "zstandard":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(InputError, match=r"pip install 'tallies\[zstd\]'"):
        encode(b"abc", 1)
    with pytest.raises(InputError, match=r"pip install 'tallies\[zstd\]'"):
        decode(b"abc", array("I", [3]), 3, 1)
