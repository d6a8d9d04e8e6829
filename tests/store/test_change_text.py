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

PRODUCT = Product(B, A, 0.1 + 0.2)

BELOW = Product(info("c", 2, 3), info("d", 3, 6), 1.0, 1)

SMALL = Product(info("e", 2, 1), info("f", 1, 1))

VALUES = info("v", 4, 6, offset=24)

STACK = Product(info("g", 2, 2, 5), info("h", 2, 5, 6))

CASES: list[tuple[Change, ...]] = [
    (PRODUCT,),
    (PRODUCT, PRODUCT, BELOW),
    (STACK,),
    (Hadamard(PRODUCT, Product(B, A), 2.5),),
    (Kronecker(A, SMALL), Kronecker(SMALL, A, -1.0)),
    (Added(VALUES, 0.5), Magnitudes(info("m", 4), 6), Magnitudes(info("m", 6), 6, True)),
    (Rows((1, 3), info("rows", 2, 6)), PRODUCT),
    (),
]

MISFITS: list[Change] = [
    Product(B, A, 0.5, 1),
    Product(B, A, 0.5, -1),
    Product(A, B),
    Product(B, A, float("nan")),
    Product(B, A, 10**400),
    Product(info("b", 4, 3), A),
    Product(info("b", 5, 2), A),
    Product(B, info("a", 2, 5)),
    Product(B, info("a", 2, 6, dtype="I64")),
    Product(info("g", 3, 2, 5), info("h", 3, 5, 6)),
    Product(info("g", 2, 2, 5), info("h", 1, 5, 6)),
    Product(info("b"), A),
    Hadamard(PRODUCT, BELOW),
    Kronecker(A, A),
    Kronecker(SMALL, info("k", 6, 3)),
    Added(A),
    Added(VALUES, float("inf")),
    Magnitudes(info("m", 5), 6),
    Magnitudes(info("m", 4), 0),
    Magnitudes(info("m", 4), 7),
    Rows((1, 4), info("rows", 2, 6)),
    Rows((3, 1), info("rows", 2, 6)),
    Rows((1, 1), info("rows", 2, 6)),
    Rows((1,), info("rows", 2, 6)),
    Rows((-1, 1), info("rows", 2, 6)),
    Rows((0, 1), info("rows", 2, 7)),
    Rows((), info("rows", 0, 6)),
]
"""Changes that no tensor of four rows and six columns has: kernels would read beyond the pieces."""


@pytest.mark.parametrize("change", MISFITS)
def test_a_change_that_does_not_fit_is_refused(change: Change) -> None:
    text, pieces = worded((change,), None)
    stored = {piece_name("w", i): piece for i, piece in enumerate(pieces)}
    with pytest.raises(ValueError, match="do not fit the tensor"):
        changed(text.encode(), BASE, stored)


def test_a_tensor_of_another_shape_in_the_place_of_the_base() -> None:
    text, (piece,) = worded((), info("w", 6, 4, offset=99))
    with pytest.raises(ValueError, match="another shape"):
        changed(text.encode(), BASE, {piece_name("w", 0): piece})


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
