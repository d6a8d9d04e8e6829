"""Arguments of the kernels that are refused by name, and the examples."""

from __future__ import annotations

import doctest
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from tallies import InputError, kernels
from tallies.kernels import masks, merges, products, steps
from tests.support.kernel_arrays import f32

X, Y = f32(1, 2, 3), f32(4, 5)

M = np.ones((2, 3), np.float32)

SIGNS = np.ones(3, np.int8)

MASK = np.ones(1, np.uint8)

REFUSED: list[tuple[Callable[[], Any], str]] = [
    (lambda: kernels.kth_magnitude([1.0], 1), "x: found list, expected a NumPy array"),  # type: ignore[arg-type]
    (lambda: kernels.kth_magnitude(np.ones(3), 1), "x: found dtype float64, expected one of"),
    (lambda: kernels.kth_magnitude(np.ones(3, ">f4"), 1), "x: found dtype >f4, expected one of"),
    (lambda: kernels.kth_magnitude(f32(), 1), "x: found no elements, expected at least one"),
    (lambda: kernels.kth_magnitude(X, 0), "k: found 0, expected a whole number from 1 to 3"),
    (lambda: kernels.kth_magnitude(X, 4), "k: found 4, expected a whole number from 1 to 3"),
    (lambda: kernels.kth_magnitude(X, 1.0), "k: found 1.0, expected a whole number"),  # type: ignore[arg-type]
    (lambda: kernels.kth_magnitude(X, True), "k: found True, expected a whole number"),
    (lambda: kernels.trim(X, 1.5), "density: found 1.5, expected a number from 0 to 1"),
    (lambda: kernels.trim(X, -0.1), "density: found -0.1, expected a number from 0 to 1"),
    (lambda: kernels.trim(X, np.nan), "density: found nan, expected a number from 0 to 1"),
    (lambda: kernels.trim(X, True), "density: found True, expected a number from 0 to 1"),
    (lambda: kernels.trim(X, "0.5"), "density: found '0.5', expected a number"),  # type: ignore[arg-type]
    (lambda: kernels.trim(X, 0.5, equal="frist"), "equal 'frist' .* did you mean 'first'"),
    (lambda: kernels.magnitude_mask(X, -1), "threshold: found -1, expected a number of 0 or more"),
    (lambda: kernels.elect_signs([]), "deltas: found 0 arrays, expected 1 to 256"),
    (lambda: kernels.elect_signs(np.ones((257, 2), np.float32)), "deltas: found 257 arrays"),
    (lambda: kernels.elect_signs(3), "deltas: found int, expected a sequence of arrays"),  # type: ignore[arg-type]
    (lambda: kernels.elect_signs(np.ones((), np.float32)), "deltas: found a 0-d array, expected"),
    (lambda: kernels.elect_signs([X, Y]), r"deltas\[1\]: found shape \(2,\), expected .*\(3,\)"),
    (
        lambda: kernels.elect_signs([X, X.astype(np.float16)]),
        r"deltas\[1\]: found dtype float16, expected that of deltas\[0\], float32",
    ),
    (lambda: kernels.elect_signs([X, X.astype(int)]), r"deltas\[1\]: found dtype int64, expected"),
    (lambda: kernels.elect_signs([X], [1, 2]), "weights: found 2 values, expected one for each of"),
    (lambda: kernels.elect_signs([X], 1.0), "weights: found 1.0, expected 1 numbers"),  # type: ignore[arg-type]
    (lambda: kernels.elect_signs([X], [np.nan]), r"weights\[0\]: found nan, expected a finite num"),
    (lambda: kernels.elect_signs([X], [1e39]), r"weights\[0\]: found 1e\+39, expected a finite"),
    (lambda: kernels.elect_signs([X], [10**400]), r"weights\[0\]: found 1000.*expected a finite"),
    (lambda: kernels.elect_signs([X], vote="cuont"), "vote 'cuont' .* did you mean 'count'"),
    (lambda: kernels.elect_signs([X], zero="positiv"), "zero 'positiv' .* did you mean 'positive'"),
    (lambda: kernels.disjoint_merge([X], [1, 1, 1]), "signs: found list, expected .* int8"),  # type: ignore[arg-type]
    (lambda: kernels.disjoint_merge([X], X), "signs: found float32, expected .* int8"),  # type: ignore[arg-type]
    (lambda: kernels.disjoint_merge([Y], SIGNS), r"signs: found shape \(3,\), expected .*\(2,\)"),
    (lambda: kernels.disjoint_merge([X], SIGNS, blend="maen"), "blend 'maen' .* mean 'mean'"),
    (lambda: kernels.ties(X, [Y], density=1), r"experts\[0\]: found shape \(2,\), .* base, \(3,\)"),
    (lambda: kernels.ties(X, [X, Y], density=1), r"experts\[1\]: found shape \(2,\)"),
    (lambda: kernels.ties(X, [X], density=2), "density: found 2, expected a finite number from 0"),
    (lambda: kernels.ties(X, [X], density=[1, 1]), "density: found 2 values, expected one"),
    (lambda: kernels.ties(X, [X], density=1, weights=[]), "weights: found 0 values, expected one"),
    (lambda: kernels.ties(X, [X], density=1, scale=np.inf), "scale: found inf, expected a finite"),
    (lambda: kernels.ties(X, [X], density=1, equal="firts"), "equal: 'firts' .*mean 'first'"),
    (lambda: kernels.ties(X, [X], density=1, semantics="papr"), "semantics 'papr' .*mean 'paper'"),
    (
        lambda: kernels.ties(X, [X], density=1, equal="first", semantics="mergekit"),
        "equal: ties has it only in paper semantics",
    ),
    (lambda: kernels.ties(X, [X], density=1, threads=0), "threads: found 0, expected a number"),
    (lambda: kernels.tall_mask(X, Y, 1), r"merged_delta: found shape \(2,\), .* expert_delta"),
    (lambda: kernels.tall_mask(X, X, -1), "lam: found -1, expected a finite number of 0 or more"),
    (lambda: kernels.tall_mask(X, X, np.inf), "lam: found inf, expected a finite number of 0"),
    (lambda: kernels.tall_mask(X, X, np.nan), "lam: found nan, expected a finite number of 0"),
    (lambda: kernels.consensus_mask([], 3, 1), "packed_masks: found 0 arrays, expected 1 to 256"),
    (
        lambda: kernels.consensus_mask([MASK, np.ones(2, np.uint8)], 3, 1),
        r"packed_masks\[1\]: found 2 bytes, expected 1 for 3 elements",
    ),
    (lambda: kernels.consensus_mask([MASK], 3, -1), "k: found -1, expected a whole number from 0"),
    (lambda: kernels.consensus_mask([MASK], -1, 1), "n: found -1, expected a whole number from 0"),
    (lambda: kernels.pack_bits([True]), "mask: found list, expected a NumPy array of bool"),  # type: ignore[arg-type]
    (lambda: kernels.pack_bits(MASK), "mask: found uint8, expected a NumPy array of bool"),  # type: ignore[arg-type]
    (lambda: kernels.unpack_bits(MASK, 9), "packed: found 1 bytes, expected 2 for 9 elements"),
    (lambda: kernels.unpack_bits(b"x", 8), "packed: found bytes, expected a packed mask"),  # type: ignore[arg-type]
    (lambda: kernels.unpack_bits(X, 24), r"packed: found float32 of shape \(3,\), expected"),  # type: ignore[arg-type]
    (lambda: kernels.apply_mask(X, Y, MASK), r"shared: found shape \(2,\), expected that of base"),
    (lambda: kernels.apply_mask(X, X, np.ones(2, np.uint8)), "packed: found 2 bytes, expected 1"),
    (lambda: kernels.apply_mask(X, X, MASK, np.nan), "scale: found nan, expected a finite number"),
    (lambda: kernels.low_rank(X, M, M), r"base: found shape \(3,\), expected a matrix"),
    (lambda: kernels.low_rank(M, M[:1], M), r"left: found shape \(1, 3\), expected \[2, rank\]"),
    (lambda: kernels.low_rank(M, M[:, :0], M[:0]), r"left: found shape \(2, 0\), expected"),
    (lambda: kernels.low_rank(M, M, M), r"right: found shape \(2, 3\), expected .*\(3, 3\)"),
    (lambda: kernels.low_rank(M, M[:, :2], M, np.inf), "scale: found inf, expected a finite num"),
    (lambda: kernels.gram([X, Y]), r"deltas\[1\]: found shape \(2,\), expected"),
]  # fmt: skip


@pytest.mark.parametrize(("call", "message"), REFUSED, ids=[text[:30] for _, text in REFUSED])
def test_arguments_are_refused_by_name_on_one_line(call: Callable[[], Any], message: str) -> None:
    with pytest.raises(InputError, match=message) as refusal:
        call()
    assert "\n" not in str(refusal.value)


def test_a_torch_tensor_is_told_where_to_go() -> None:
    import torch

    with pytest.raises(InputError, match=r"x: found Tensor, expected .*tallies\.torch"):
        kernels.trim(torch.ones(3), 0.5)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("module", "n_examples"), [(masks, 4), (merges, 4), (products, 1), (steps, 4)], ids=str
)
def test_examples(module: Any, n_examples: int) -> None:
    failed, attempted = doctest.testmod(module)
    assert failed == 0
    assert attempted >= n_examples
