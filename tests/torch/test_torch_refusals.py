"""Arguments of the functions and operators that are refused by name."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch

import tallies.torch as functions
from tallies import InputError
from tests.support.operators import MASK, SIGNS, X

SHORT = torch.tensor([4.0, 5.0])

REFUSED: list[tuple[Callable[[], Any], str]] = [
    (lambda: functions.kth_magnitude([1.0], 1), "x: found list, expected a torch tensor"),  # type: ignore[arg-type]
    (lambda: functions.kth_magnitude(X.double(), 1), "x: found dtype float64, expected one of"),
    (lambda: functions.kth_magnitude(X[:0], 1), "x: found no elements, expected at least one"),
    (lambda: functions.kth_magnitude(X, 0), "k: found 0, expected a whole number from 1 to 9"),
    (lambda: functions.kth_magnitude(X, 10), "k: found 10, expected a whole number from 1 to 9"),
    (lambda: functions.kth_magnitude(X, 1.0), "k: found 1.0, expected a whole number"),  # type: ignore[arg-type]
    (lambda: functions.trim(X.to_sparse(), 0.5), "x: found layout torch.sparse_coo, expected"),
    (lambda: functions.trim(X, 1.5), "density: found 1.5, expected a number from 0 to 1"),
    (lambda: functions.trim(X, math.nan), "density: found nan, expected a number from 0 to 1"),
    (lambda: functions.trim(X, "0.5"), "density: found '0.5', expected a number"),  # type: ignore[arg-type]
    (
        lambda: functions.trim(X, 0.5, equal="frist"),
        "equal: found 'frist', expected one of keep, first",
    ),
    (lambda: functions.magnitude_mask(X, -1), "threshold: found -1, expected a number of 0 or"),
    (lambda: functions.magnitude_mask(X, "1"), "threshold: found '1', expected a number of 0 or"),  # type: ignore[arg-type]
    (lambda: functions.magnitude_mask(X, X), r"threshold: found a tensor of shape \(9,\), expect"),
    (lambda: functions.elect_signs([]), "deltas: found 0 tensors, expected 1 to 256"),
    (lambda: functions.elect_signs(torch.ones(257, 2)), "deltas: found 257 tensors"),
    (lambda: functions.elect_signs(3), "deltas: found int, expected a list of tensors"),  # type: ignore[arg-type]
    (lambda: functions.elect_signs(torch.ones(())), "deltas: found a 0-d tensor, expected"),
    (lambda: functions.elect_signs([X, SHORT]), r"deltas\[1\]: found shape \(2,\), .*\(9,\)"),
    (
        lambda: functions.elect_signs([X, X.half()]),
        r"deltas\[1\]: found dtype float16, expected that of deltas\[0\], float32",
    ),
    (lambda: functions.elect_signs([X], [1, 2]), "weights: found 2 values, expected one for each"),
    (lambda: functions.elect_signs([X], [1e39]), r"weights\[0\]: found 1e\+39, expected a finite"),
    (
        lambda: functions.elect_signs([X], vote="cuont"),
        "vote: found 'cuont', expected one of sum, count",
    ),
    (
        lambda: functions.elect_signs([X], zero="positiv"),
        "zero: found 'positiv', expected one of majority, pos",
    ),
    (lambda: functions.disjoint_merge([X], X), "signs: found dtype float32, expected one of int8"),
    (
        lambda: functions.disjoint_merge([SHORT], SIGNS),
        r"signs: found shape \(9,\), expected .*\(2,\)",
    ),
    (
        lambda: functions.disjoint_merge([X], SIGNS, blend="maen"),
        "blend: found 'maen', expected one of mean, sum, max",
    ),
    (lambda: functions.ties(X, [SHORT], density=1), r"experts\[0\]: found shape \(2,\), .* base"),
    (lambda: functions.ties(X, [X], density=2), r"density\[0\]: found 2, expected a number from 0"),
    (lambda: functions.ties(X, [X], density=2.0), r"density\[0\]: found 2, expected a number from"),
    (lambda: functions.ties(X, [SHORT], density=0.5), r"experts\[0\]: found shape \(2,\), .* base"),
    (lambda: functions.ties(X, [X], density=0.5, equal=["keep"]), "equal: found "),  # type: ignore[arg-type]
    (lambda: functions.ties(X, [X], density=0.5, scale="1"), "scale: found '1', expected a number"),  # type: ignore[arg-type]
    (lambda: functions.ties(X, [X], density=0.5, threads=0), "threads: found 0, expected a whole"),
    (lambda: functions.ties(X, [X], density=[-1]), r"density\[0\]: found -1, expected a number"),
    (lambda: functions.ties(X, [X], density=[1, 1]), "density: found 2 values, expected one"),
    (lambda: functions.ties(X, [X], density=1, weights=[]), "weights: found 0 values, expected"),
    (lambda: functions.ties(X, [X], density=1, scale=math.inf), "scale: found inf, expected a"),
    (
        lambda: functions.ties(X, [X], density=1, equal="firts"),
        "equal: found 'firts', expected one of keep, first",
    ),
    (
        lambda: functions.ties(X, [X], density=1, semantics="papr"),
        "semantics: found 'papr', expected one of paper, merg",
    ),
    (
        lambda: functions.ties(X, [X], density=1, equal="first", semantics="mergekit"),
        "parameters: equal: ties has it only in paper semantics",
    ),
    (lambda: functions.ties(X, [X], density=1, threads=0), "threads: found 0, expected a whole"),
    (
        lambda: functions.combine(X, [X], gate="all", vote="sum", blend="max"),
        "gate, vote and blend: found 'all sum max', expected one of: .*all none mean, .*magnitude",
    ),
    (
        lambda: functions.combine(X, [X], gate="all", vote="given", blend="sum_of_agreeing"),
        "gate, vote and blend: found 'all given sum_of_agreeing', expected",
    ),
    (lambda: functions.combine(X, [X]), "density: missing, and gate 'magnitude' needs a share"),
    (
        lambda: functions.combine(X, [X], gate="all", vote="none", blend="sum", density=0.5),
        "density: found one, expected none: gate 'all' ranks nothing",
    ),
    (
        lambda: functions.combine(X, [SHORT], density=1),
        r"experts\[0\]: found shape \(2,\), .* base",
    ),
    (lambda: functions.combine(None, [], density=1), "experts: found 0 tensors, expected 1 to 256"),
    (lambda: functions.combine(None, [X], density=1, zero="no"), "zero: found 'no', expected one"),
    (lambda: functions.trim(X.numpy(), 0.5), "x: found ndarray, expected a torch tensor"),  # type: ignore[arg-type]
    (lambda: functions.gram([X, 3]), r"deltas\[1\]: found 3, expected a torch tensor"),  # type: ignore[list-item]
    (lambda: functions.tall_mask(X, SHORT, 1), r"merged_delta: found shape \(2,\), .* expert_del"),
    (lambda: functions.tall_mask(X, X, -1), "lam: found -1, expected a finite number of 0 or more"),
    (lambda: functions.consensus_mask([], 3, 1), "packed_masks: found 0 tensors, expected 1 to"),
    (
        lambda: functions.consensus_mask([MASK, MASK[:1]], 9, 1),
        r"packed_masks\[1\]: found 1 bytes, expected 2 for 9 elements",
    ),
    (lambda: functions.consensus_mask([MASK], 9, -1), "k: found -1, expected a whole number from"),
    (lambda: functions.pack_bits(MASK), "mask: found dtype uint8, expected one of bool"),
    (lambda: functions.unpack_bits(MASK, 17), "packed: found 2 bytes, expected 3 for 17 elements"),
    (lambda: functions.unpack_bits(MASK.view(1, 2), 9), r"packed: found shape \(1, 2\), expected"),
    (lambda: functions.apply_mask(X, SHORT, MASK), r"shared: found shape \(2,\), .* base, \(9,\)"),
    (lambda: functions.apply_mask(X, X, MASK[:1]), "packed: found 1 bytes, expected 2 for 9 elem"),
    (lambda: functions.apply_mask(X, X, MASK, math.nan), "scale: found nan, expected a finite"),
    (lambda: functions.gram([X, X.int()]), r"deltas\[1\]: found dtype int32, expected one of"),
    (lambda: functions.block_dots(SHORT, [X]), r"grad: found shape \(2,\), .* deltas\[0\], \(9,\)"),
]


@pytest.mark.parametrize(("call", "message"), REFUSED)
def test_refused(call: Callable[[], Any], message: str) -> None:
    with pytest.raises(InputError, match=f"^{message}") as caught:
        call()
    assert "\n" not in str(caught.value)


UNSAFE: list[tuple[Callable[[], Any], str]] = [
    (lambda: torch.ops.tallies.kth_magnitude(X, 10), "k: found 10"),
    (lambda: torch.ops.tallies.trim(X, 1.5), "density: found 1.5"),
    (lambda: torch.ops.tallies.magnitude_mask(X, -1.0), "threshold: found -1"),
    (lambda: torch.ops.tallies.tall_mask(X, SHORT, 1.0), "merged_delta: found shape"),
    (lambda: torch.ops.tallies.consensus_mask([MASK], 99, 1), r"packed_masks\[0\]: found 2 bytes"),
    (lambda: torch.ops.tallies.pack_bits(MASK), "mask: found dtype uint8"),
    (lambda: torch.ops.tallies.unpack_bits(MASK, 99), "packed: found 2 bytes"),
    (lambda: torch.ops.tallies.apply_mask(X, SHORT, MASK), "shared: found shape"),
    (lambda: torch.ops.tallies.elect_signs([X, SHORT]), r"deltas\[1\]: found shape"),
    (lambda: torch.ops.tallies.elect_signs([X], [1.0, 1.0]), "weights: found 2 values"),
    (lambda: torch.ops.tallies.disjoint_merge([X], SIGNS[:2]), "signs: found shape"),
    (lambda: torch.ops.tallies.ties(X, [SHORT], density=[1.0]), r"experts\[0\]: found shape"),
    (lambda: torch.ops.tallies.merge_by_number(X, [X], 1 << 16, 0.5), "number: found 65536"),
    (lambda: torch.ops.tallies.merge_by_number(X, [X], -1, 0.5), "number: found -1, expected"),
    (lambda: torch.ops.tallies.merge_by_number(X, [X], 0x42, 0.5), "number: found 66, expected"),
    (lambda: torch.ops.tallies.gram([X, SHORT]), r"deltas\[1\]: found shape"),
    (lambda: torch.ops.tallies.block_dots(SHORT, [X]), "grad: found shape"),
]


@pytest.mark.parametrize(("call", "message"), UNSAFE)
def test_an_operator_called_directly_checks_as_well(call: Callable[[], Any], message: str) -> None:
    with pytest.raises(RuntimeError, match=rf"^tallies::\w+: {message}"):
        call()
