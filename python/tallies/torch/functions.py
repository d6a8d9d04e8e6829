"""The functions on tensors, with the names and arguments of ``tallies.kernels``.

Tensors are float32, float16 or bfloat16, dense, of any shape and strides, all on the CPU or all on
one CUDA device, and are never changed. The bits are those of ``tallies.kernels``, as are equal
magnitudes, zeros and NaN; sums run in float32 in the order of the experts. Results carry no
gradient. On a CUDA device calls are queued on the current stream and wait for nothing; that has
been tried in an emulator, and on no device yet.

``deltas`` are N tensors of one shape and dtype, or one tensor [N, ...]. Arguments are checked
first: InputError names the one that is wrong, what was found and expected. Each function is one
operator ``torch.ops.tallies.NAME``, which ``torch.compile`` takes whole.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import ParamSpec

import torch
from torch import Tensor

from . import arguments

Deltas = Sequence[Tensor] | Tensor
Weights = Sequence[float] | Tensor | None

P = ParamSpec("P")

_OPS = torch.ops.tallies
_kth_magnitude = _OPS.kth_magnitude.default
_trim = _OPS.trim.default
_magnitude_mask = _OPS.magnitude_mask.default
_tall_mask = _OPS.tall_mask.default
_consensus_mask = _OPS.consensus_mask.default
_pack_bits = _OPS.pack_bits.default
_unpack_bits = _OPS.unpack_bits.default
_apply_mask = _OPS.apply_mask.default
_elect_signs = _OPS.elect_signs.default
_disjoint_merge = _OPS.disjoint_merge.default
_ties = _OPS.ties.default
_combine = _OPS.combine.default
_gram = _OPS.gram.default
_block_dots = _OPS.block_dots.default


def _refusing(function: Callable[P, Tensor]) -> Callable[P, Tensor]:
    """The function, with what its operator refuses as an InputError."""

    @functools.wraps(function)
    def call(*args: P.args, **keywords: P.kwargs) -> Tensor:
        try:
            return function(*args, **keywords)
        except Exception as error:
            refused = arguments.refusal(error, function, args, keywords)
            if refused is None:
                raise
            raise refused from None

    return call


@_refusing
def kth_magnitude(x: Tensor, k: int) -> Tensor:
    """The k-th largest magnitude |x|, counted from 1: a float32 tensor of no dimension.

    Equal magnitudes take one place each, both zeros are equal, and NaN counts as larger than
    infinity. Raises InputError for a tensor without elements and for k outside 1 to x.numel().

    >>> kth_magnitude(torch.tensor([1.0, -3.0, 2.0, -3.0]), 2)
    tensor(3.)
    """
    return _kth_magnitude(x, k)  # type: ignore[no-any-return]


@_refusing
def trim(x: Tensor, density: float, *, equal: str = "keep") -> Tensor:
    """The entries of ``x`` of largest magnitude, and +0 elsewhere: the trim of TIES.

    With k = int(x.numel() * density), ``equal="keep"`` keeps every entry that reaches the
    (k + 1)-th largest magnitude, ``equal="first"`` exactly k, the first in row-major order among
    equal ones. Density 1 keeps everything, density 0 nothing; NaN counts as the largest magnitude.
    Returns the shape and dtype of ``x``. Raises InputError for a density outside 0 to 1.

    >>> trim(torch.tensor([1.0, -4.0, 2.0, -3.0, 0.0]), 0.2)
    tensor([ 0., -4.,  0., -3.,  0.])
    """
    return _trim(x, density, equal)  # type: ignore[no-any-return]


@_refusing
def magnitude_mask(x: Tensor, threshold: float | Tensor) -> Tensor:
    """Packed |x| >= threshold, the threshold rounded to float32: uint8 [(n + 7) // 8].

    Entries equal to the threshold are in, so that 0 takes everything. NaN reaches every threshold,
    and only NaN reaches NaN. The threshold may be what ``kth_magnitude`` returns; as a tensor it
    breaks a compiled graph, and is waited for. Raises InputError for a negative threshold.

    >>> unpack_bits(magnitude_mask(torch.tensor([1, -2, 3, -0.5]), 2), 4)
    tensor([False,  True,  True, False])
    """
    if type(threshold) is not float:
        threshold = arguments.threshold(threshold)
    return _magnitude_mask(x, threshold)  # type: ignore[no-any-return]


@_refusing
def tall_mask(expert_delta: Tensor, merged_delta: Tensor, lam: float) -> Tensor:
    """Packed |x| > lam * |m - x|: where the merged task vector stands for one expert's own.

    x is the expert's task vector, m the merged one, of the same shape; dtypes may differ. Where
    both sides are equal, as where x and m are zero, or either is NaN, the bit is clear. Raises
    InputError for shapes that differ and for lam below 0.

    >>> x, m = torch.tensor([0.1, 1, 0]), torch.tensor([1.0, 1, 0])
    >>> unpack_bits(tall_mask(x, m, 0.4), 3)
    tensor([False,  True, False])
    """
    return _tall_mask(expert_delta, merged_delta, lam)  # type: ignore[no-any-return]


@_refusing
def consensus_mask(packed_masks: Sequence[Tensor] | Tensor, n: int, k: int) -> Tensor:
    """Packed: the elements that at least ``k`` of the masks contain.

    ``packed_masks`` are N packed masks of ``n`` elements, or one tensor [N, (n + 7) // 8]; bits
    past the n-th are ignored. k = 0 takes every element, k above N none. Raises InputError for
    masks of another length.

    >>> masks = [pack_bits(torch.tensor([True, True])), pack_bits(torch.tensor([True, False]))]
    >>> unpack_bits(consensus_mask(masks, 2, 2), 2)
    tensor([ True, False])
    """
    return _consensus_mask(arguments.rows_of("packed_masks", packed_masks), n, k)  # type: ignore[no-any-return]


@_refusing
def pack_bits(mask: Tensor) -> Tensor:
    """A boolean tensor of any shape as a packed mask, in row-major order.

    Bit i % 8 of byte i // 8 is element i; the bits after the last are zero. Raises InputError for
    another dtype.

    >>> pack_bits(torch.tensor([True, False, False, True]))
    tensor([9], dtype=torch.uint8)
    """
    return _pack_bits(mask)  # type: ignore[no-any-return]


@_refusing
def unpack_bits(packed: Tensor, n: int) -> Tensor:
    """The ``n`` elements of a packed mask as a boolean tensor [n].

    Raises InputError for a mask of another length.

    >>> unpack_bits(torch.tensor([9], dtype=torch.uint8), 4)
    tensor([ True, False, False,  True])
    """
    return _unpack_bits(packed, n)  # type: ignore[no-any-return]


@_refusing
def apply_mask(base: Tensor, shared: Tensor, packed: Tensor, scale: float = 1.0) -> Tensor:
    """base + scale * (shared where the mask is set, +0 elsewhere): one expert reconstructed.

    ``base`` and ``shared`` have one shape, their dtypes may differ; the result has the shape and
    dtype of ``base``. Product and sum are rounded in float32, the result once. A NaN or infinity of
    ``shared`` counts only where the mask is set. Raises InputError for shapes that differ and a
    mask of another length.

    >>> packed = torch.tensor([5], dtype=torch.uint8)
    >>> apply_mask(torch.ones(3), torch.tensor([2.0, 4, 6]), packed, 0.5)
    tensor([2., 1., 4.])
    """
    return _apply_mask(base, shared, packed, scale)  # type: ignore[no-any-return]


@_refusing
def elect_signs(
    deltas: Deltas, weights: Weights = None, *, vote: str = "sum", zero: str = "majority"
) -> Tensor:
    """The elected sign of each element, int8 of -1, 0 and 1 in the shape of one delta.

    With y_t = weight_t * delta_t, ``vote="sum"`` takes the sign of the in-order sum of y_t,
    ``vote="count"`` that of the number of positive y_t minus the number of negative ones. A vote of
    exactly zero takes the sign that ``zero`` says: "positive", "negative", "drop" (0), or
    "majority": that of the sum of all signs elected without it, negative if that is zero too. A sum
    that is NaN elects 0. Raises InputError for shapes or dtypes that differ.

    >>> elect_signs([torch.tensor([1.0, -3, 2]), torch.tensor([-1.0, -1, -1])])
    tensor([-1, -1,  1], dtype=torch.int8)
    """
    rows = arguments.rows_of("deltas", deltas)
    return _elect_signs(rows, arguments.numbers_of(weights), vote, zero)  # type: ignore[no-any-return]


@_refusing
def disjoint_merge(
    deltas: Deltas, signs: Tensor, weights: Weights = None, *, blend: str = "mean"
) -> Tensor:
    """One value per element from the entries that agree with its elected sign.

    ``signs`` is int8 in the shape of one delta; y_t = weight_t * delta_t agrees when it is not zero
    and has the sign. Over the agreeing entries, in order: "mean": sum of y_t over their number;
    "sum": sum of y_t; "max": the y_t of largest magnitude; "weighted_mean": sum of y_t over the sum
    of their weights, a divisor of exactly 0 counting as 1. +0 where nothing agrees, NaN where the
    sum of all y_t is. Returns the shape and dtype of one delta. Raises InputError for shapes or
    dtypes that differ.

    >>> signs = torch.tensor([1, -1], dtype=torch.int8)
    >>> disjoint_merge(torch.tensor([[1.0, -2], [3, 4]]), signs)
    tensor([ 2., -2.])
    """
    rows = arguments.rows_of("deltas", deltas)
    return _disjoint_merge(rows, signs, arguments.numbers_of(weights), blend)  # type: ignore[no-any-return]


@_refusing
def ties(
    base: Tensor,
    experts: Deltas,
    *,
    density: float | Sequence[float] | Tensor,
    scale: float = 1.0,
    weights: Weights = None,
    equal: str = "keep",
    semantics: str = "paper",
    threads: int | None = None,
) -> Tensor:
    """TIES of one tensor: trim each task vector, elect signs, average what agrees.

    y_t = w_t trim(f_t - base); s = sign(sum_t y_t); out = base + scale * mean{y_t : sign(y_t) = s}.

    ``experts`` are N tensors in the shape of ``base``, or one tensor [N, ...]; dtypes may differ,
    and the result has the base's. ``density`` is one share from 0 to 1 or one per expert. Equal
    magnitudes are treated as ``trim`` does, zero sums take the majority over the tensor, zeros
    never agree, and NaN and infinities reach the result where they stay. ``semantics="mergekit"``
    gives that tool's result. ``threads`` defaults to all cores. Raises InputError for shapes that
    differ and numbers out of range.

    >>> experts = torch.tensor([[4.0, 1, -2, 0], [2, -3, 1, 0]])
    >>> ties(torch.zeros(4), experts, density=0.5)
    tensor([ 3., -3., -2.,  0.])
    """
    rows = arguments.rows_of("experts", experts)
    return _ties(  # type: ignore[no-any-return]
        base,
        rows,
        arguments.densities(density, len(rows)),
        scale,
        arguments.numbers_of(weights),
        equal,
        semantics,
        threads,
    )


@_refusing
def combine(
    base: Tensor | None,
    experts: Deltas,
    *,
    gate: str = "magnitude",
    vote: str = "sum",
    blend: str = "mean_of_agreeing",
    density: float | Sequence[float] | Tensor | None = None,
    weights: Weights = None,
    scale: float = 1.0,
    zero: str = "majority",
    equal: str = "keep",
    threads: int | None = None,
) -> Tensor:
    """Any gate, vote and blend that is compiled, on one tensor: out = base + scale * merged.

    y_t = w_t gate(f_t - base); s is the sign that the vote elects; the blend makes one value of the
    y_t of an element, or of those that agree with s. ``base`` may be None: the experts are then
    task vectors, and the result is scale * merged in the shape and dtype of the first.

    ``gate="magnitude"`` needs a ``density`` as ``ties`` does and treats equal magnitudes as
    ``trim`` does; ``gate="all"`` takes none. A vote of exactly zero takes the sign that ``zero``
    says, as in ``elect_signs``; ``vote="none"`` elects none. ``blend="mean"`` divides by the sum of
    the weights. Zeros never agree; NaN and infinities reach the result where they stay. Arguments
    are otherwise those of ``ties``. Raises InputError for shapes that differ, numbers out of range,
    and combinations that are not compiled, with a list of those that are.

    >>> experts = torch.tensor([[4.0, 1, -2, 0], [2, -3, 1, 0]])
    >>> combine(torch.ones(4), experts, density=1.0, vote="count", blend="largest_agreeing")
    tensor([ 4., -3., -2.,  0.])
    >>> combine(None, experts, gate="all", vote="none", blend="sum", scale=0.5)
    tensor([ 3.0000, -1.0000, -0.5000,  0.0000])
    """
    rows = arguments.rows_of("experts", experts)
    return _combine(  # type: ignore[no-any-return]
        base,
        rows,
        gate,
        vote,
        blend,
        None if density is None else arguments.densities(density, len(rows)),
        arguments.numbers_of(weights),
        scale,
        zero,
        equal,
        threads,
    )


@_refusing
def gram(deltas: Deltas) -> Tensor:
    """Inner products of the task vectors, G[s, t] = sum of x_s * x_t over all elements.

    Returns float64 [N, N], exactly symmetric. A product of two float32 values is exact in float64;
    each stretch of 2048 elements is summed in eight interleaved parts, 32 stretches in order, and
    what they make in order, so that the sum over n elements is off by at most
    (n / 65536 + 290) * 2**-53 times that of |x_s * x_t|. NaN and infinities reach the result.
    Raises InputError for shapes or dtypes that differ.

    >>> gram(torch.tensor([[1.0, 2], [3, -1]]))
    tensor([[ 5.,  1.],
            [ 1., 10.]], dtype=torch.float64)
    """
    return _gram(arguments.rows_of("deltas", deltas))  # type: ignore[no-any-return]


@_refusing
def block_dots(grad: Tensor, deltas: Deltas) -> Tensor:
    """Inner products of one gradient with every task vector, d[t] = sum of grad * x_t: float64 [N].

    This is the gradient of a weighted sum's coefficients. ``grad`` has the shape of one delta;
    dtypes may differ. Products are exact in float64, and summed as in ``gram``, without a temporary
    of the tensors' size where they are contiguous. NaN and infinities reach the result. Raises
    InputError for shapes that differ.

    >>> block_dots(torch.tensor([1.0, 2]), torch.tensor([[1.0, 2], [3, -1]]))
    tensor([5., 1.], dtype=torch.float64)
    """
    return _block_dots(grad, arguments.rows_of("deltas", deltas))  # type: ignore[no-any-return]
