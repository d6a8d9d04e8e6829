"""The text of a tensor's changes is read back as the changes that it was made of."""

from __future__ import annotations

from pathlib import Path

import pytest

from tallies.checkpoint.changes import (
    Added,
    Change,
    Hadamard,
    Kronecker,
    Magnitudes,
    Product,
    Rows,
)
from tallies.checkpoint.tensors import TensorInfo
from tallies.store.families._change_text import changed, piece_name, worded


def info(name: str, *shape: int, offset: int = 0, dtype: str = "F32") -> TensorInfo:
    return TensorInfo(name, dtype, shape, Path("adapter"), offset, 4)


BASE = TensorInfo("w", "BF16", (4, 6), Path("base"), 64, 48)

A, B = info("a", 2, 6, offset=8), info("b", 4, 2, offset=16)

PRODUCT = Product(B, A, 0.1 + 0.2, 1)

CASES: list[tuple[Change, ...]] = [
    (PRODUCT,),
    (PRODUCT, PRODUCT, Product(A, B)),
    (Hadamard(PRODUCT, Product(A, B), 2.5),),
    (Kronecker(A, Product(B, A)), Kronecker(Product(B, A), B, -1.0)),
    (Added(A, 0.5), Magnitudes(info("m", 4), 6), Magnitudes(info("m", 6), 6, True)),
    (Rows((1, 3), info("rows", 2, 6)), PRODUCT),
    (),
]


@pytest.mark.parametrize("changes", CASES)
@pytest.mark.parametrize("replaced", [False, True])
def test_it_is_read_back(changes: tuple[Change, ...], replaced: bool) -> None:
    replacement = info("w", 4, 6, offset=99) if replaced else None
    text, pieces = worded(changes, replacement)
    assert len({*pieces}) == len(pieces)
    stored = {piece_name("w", i): piece for i, piece in enumerate(pieces)}
    found = changed(text.encode(), BASE, stored)
    assert found.changes == changes
    assert found.offset == (99 if replaced else BASE.offset)


def test_changes_of_the_base_come_first() -> None:
    text, (left, right) = worded((PRODUCT,), None)
    base = TensorInfo("w", "BF16", (4, 6), Path("base"), 0, 48, changes=(Added(A),))
    found = changed(text.encode(), base, {"w::0": left, "w::1": right})
    assert found.changes == (Added(A), PRODUCT)


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"[]",
        b"{}",
        b'{"changes": 3}',
        b'{"changes": [{"change": "product"}]}',
        b'{"changes": [{"change": "other", "left": "::0"}]}',
        b'{"changes": [{"change": "added", "values": "::7"}]}',
        b'{"changes": ["::0"]}',
        b'{"replaces": "::7", "changes": []}',
        b"\xff",
    ],
)
def test_other_texts_are_refused(text: bytes) -> None:
    with pytest.raises(ValueError):
        changed(text, BASE, {"w::0": A})
