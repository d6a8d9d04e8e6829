"""The steps of a merge on tensors: select, trim, elect, blend, inner products.

Tensors are float32, float16 or bfloat16, dense, of any shape and strides, all on the CPU or all on
one CUDA device, and are never changed. Bits are those of ``tallies.kernels``. Results carry no
gradient. On a CUDA device calls are queued on the current stream and wait for nothing.
"""

from __future__ import annotations

import torch
from torch import Tensor

from . import arguments
from .calling import Deltas, Weights, refusing

_kth_magnitude = torch.ops.tallies.kth_magnitude.default
_kth_magnitude_counted = torch.ops.tallies.kth_magnitude_counted.default
_trim = torch.ops.tallies.trim.default
_trim_counted = torch.ops.tallies.trim_counted.default
_elect_signs = torch.ops.tallies.elect_signs.default
_disjoint_merge = torch.ops.tallies.disjoint_merge.default
_masked_mean = torch.ops.tallies.masked_mean.default
_gram = torch.ops.tallies.gram.default
_block_dots = torch.ops.tallies.block_dots.default


@refusing
def kth_magnitude(x: Tensor, k: int) -> Tensor:
    """Return the k-th largest magnitude |x|, exact for any size.

    Equal magnitudes take one place each, both zeros are equal, and NaN ranks above infinity.

    Args:
        x: A tensor of any shape.
        k: The rank, from 1 to x.numel().

    Returns:
        The magnitude, float32, a tensor of no dimension.

    Raises:
        InputError: The tensor has no elements, or k is out of range.

    >>> kth_magnitude(torch.tensor([1.0, -3.0, 2.0, -3.0]), 2)
    tensor(3.)
    """
    return _kth_magnitude(x, k)  # type: ignore[no-any-return]


@refusing
def kth_magnitude_counted(x: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Return the k-th largest magnitude, and how many are above it and equal to it.

    The counts cost nothing: the ranking has them. They tell a choice among equal magnitudes, which
    programs make in different ways, from one that all make alike. On the CPU only.

    Args:
        x: A tensor of any shape.
        k: The rank, from 1 to x.numel().

    Returns:
        The magnitude, float32, a tensor of no dimension; and int64 [2], the number of entries of
        larger and of equal magnitude.

    Raises:
        InputError: The tensor has no elements or is on a device, or k is out of range.

    >>> kth_magnitude_counted(torch.tensor([1.0, -3.0, 2.0, -3.0, 4.0]), 2)
    (tensor(3.), tensor([1, 2]))
    """
    return _kth_magnitude_counted(x, k)  # type: ignore[no-any-return]


@refusing
def trim(x: Tensor, density: float, *, equal: str = "keep") -> Tensor:
    """Keep the entries of largest magnitude and set the others to +0: the trim of TIES.

    Let k = int(x.numel() * density). Density 1 keeps everything, density 0 nothing. Kept zeros keep
    their sign, and NaN ranks above infinity.

    Args:
        x: A tensor of any shape.
        density: The share of entries to keep, from 0 to 1.
        equal: "keep" keeps every entry that reaches the (k + 1)-th largest magnitude. "first" keeps
            exactly k, among equal magnitudes the first in row-major order.

    Returns:
        A new tensor of the shape and dtype of ``x``.

    Raises:
        InputError: The density is out of range, or the word is unknown.

    Yadav et al., TIES-Merging, 2023, arXiv 2306.01708.

    >>> trim(torch.tensor([1.0, -4.0, 2.0, -3.0, 0.0]), 0.2)
    tensor([ 0., -4.,  0., -3.,  0.])
    """
    return _trim(x, density, equal)  # type: ignore[no-any-return]


@refusing
def trim_counted(x: Tensor, density: float, *, equal: str = "first") -> tuple[Tensor, Tensor]:
    """Trim a tensor, and return how many entries fail although they equal the threshold.

    If none do, every way to choose among equal magnitudes gives the same values. Zeros never count:
    kept or not, they are zero. The count costs nothing. On the CPU only.

    Args:
        x: A tensor of any shape.
        density: The share of entries to keep, from 0 to 1.
        equal: The treatment of equal magnitudes, as in ``trim``; none fail with "keep".

    Returns:
        A new tensor of the shape and dtype of ``x``, and int64 of no dimension.

    Raises:
        InputError: The density is out of range, the word is unknown, or the tensor on a device.

    >>> trim_counted(torch.tensor([1.0, -4.0, 2.0, 4.0, 0.0]), 0.2)
    (tensor([ 0., -4.,  0.,  0.,  0.]), tensor(1))
    """
    return _trim_counted(x, density, equal)  # type: ignore[no-any-return]


@refusing
def elect_signs(
    deltas: Deltas, weights: Weights = None, *, vote: str = "sum", zero: str = "majority"
) -> Tensor:
    """Elect the sign of each element from the entries y_t = weight_t * delta_t.

    A sum that is NaN elects 0. A count takes a NaN entry as neither positive nor negative.

    Args:
        deltas: Task vectors of one shape and dtype.
        weights: A finite number for each task vector; 1 by default.
        vote: "sum" elects the sign of the sum of y_t, "count" the sign of the number of positive
            y_t minus the number of negative ones.
        zero: The sign where a vote is exactly zero: "positive", "negative", "drop" (0), or
            "majority", the sign of the sum of all other elected signs, negative if that sum is
            zero too.

    Returns:
        int8 of -1, 0 and 1 in the shape of one delta.

    Raises:
        InputError: Shapes or dtypes differ, or an argument is out of range.

    Yadav et al., TIES-Merging, 2023, arXiv 2306.01708.

    >>> elect_signs([torch.tensor([1.0, -3, 2]), torch.tensor([-1.0, -1, -1])])
    tensor([-1, -1,  1], dtype=torch.int8)
    """
    rows = arguments.rows_of("deltas", deltas)
    return _elect_signs(rows, arguments.numbers_of(weights), vote, zero)  # type: ignore[no-any-return]


@refusing
def disjoint_merge(
    deltas: Deltas, signs: Tensor, weights: Weights = None, *, blend: str = "mean"
) -> Tensor:
    """Blend the entries y_t = weight_t * delta_t that agree with each element's elected sign.

    An entry agrees when it is not zero and has the sign. The result is +0 where nothing agrees, and
    NaN where the sum of all y_t is NaN: one of them is, or both infinities are among them.

    Args:
        deltas: Task vectors of one shape and dtype.
        signs: The elected signs, int8 in the shape of one delta.
        weights: A finite number for each task vector; 1 by default.
        blend: "mean" divides the sum of the agreeing y_t by their number, "sum" does not divide,
            "max" takes the y_t of largest magnitude, and "weighted_mean" divides by the sum of the
            agreeing weights; a divisor of exactly 0 counts as 1.

    Returns:
        A new tensor of the shape and dtype of one delta.

    Raises:
        InputError: Shapes or dtypes differ, or an argument is out of range.

    Yadav et al., TIES-Merging, 2023, arXiv 2306.01708.

    >>> signs = torch.tensor([1, -1], dtype=torch.int8)
    >>> disjoint_merge(torch.tensor([[1.0, -2], [3, 4]]), signs)
    tensor([ 2., -2.])
    """
    rows = arguments.rows_of("deltas", deltas)
    return _disjoint_merge(rows, signs, arguments.numbers_of(weights), blend)  # type: ignore[no-any-return]


@refusing
def masked_mean(deltas: Deltas, masks: Deltas, weights: Weights = None) -> Tensor:
    """Average the entries y_t = weight_t * delta_t that masks have: the disjoint merge of PEFT.

    out = sum of the y_t in the masks / max(their number, 1). Masks may come from votes of other
    values than y_t, such as those without weights, and entries of zero count. On the CPU only.

    Args:
        deltas: Task vectors of one shape and dtype.
        masks: A bool tensor for each task vector, in its shape, or one tensor [N, ...].
        weights: A finite number for each task vector; 1 by default.

    Returns:
        A new tensor of the shape and dtype of one delta.

    Raises:
        InputError: Shapes or dtypes differ, or a weight is not finite.

    >>> masks = torch.tensor([[True, True], [False, True]])
    >>> masked_mean(torch.tensor([[1.0, 2], [3, 4]]), masks)
    tensor([1., 3.])
    """
    rows, kept = arguments.rows_of("deltas", deltas), arguments.rows_of("masks", masks)
    return _masked_mean(rows, kept, arguments.numbers_of(weights))  # type: ignore[no-any-return]


@refusing
def gram(deltas: Deltas) -> Tensor:
    """Return the inner products of task vectors, G[s, t] = sum of x_s * x_t over all elements.

    A product of two float32 values is exact in float64. Each stretch of 2048 elements is summed in
    eight interleaved parts, then 32 stretches in order, then all such sums in order. So the sum
    over n elements is off by at most (n / 65536 + 290) * 2**-53 times the sum of |x_s * x_t|. NaN
    and infinities reach the result.

    Args:
        deltas: Task vectors of one shape and dtype.

    Returns:
        float64 [N, N], exactly symmetric.

    Raises:
        InputError: Shapes or dtypes differ.

    >>> gram(torch.tensor([[1.0, 2], [3, -1]]))
    tensor([[ 5.,  1.],
            [ 1., 10.]], dtype=torch.float64)
    """
    return _gram(arguments.rows_of("deltas", deltas))  # type: ignore[no-any-return]


@refusing
def block_dots(grad: Tensor, deltas: Deltas) -> Tensor:
    """Return the inner products of a gradient with every task vector, d[t] = sum of grad * x_t.

    They are the gradient of a weighted sum's coefficients. Products are exact in float64 and summed
    as in ``gram``, without a temporary of the tensors' size where the tensors are contiguous. NaN
    and infinities reach the result.

    Args:
        grad: The gradient, in the shape of one delta; dtypes may differ.
        deltas: Task vectors of one shape and dtype.

    Returns:
        float64 [N].

    Raises:
        InputError: Shapes differ.

    >>> block_dots(torch.tensor([1.0, 2]), torch.tensor([[1.0, 2], [3, -1]]))
    tensor([5., 1.], dtype=torch.float64)
    """
    return _block_dots(grad, arguments.rows_of("deltas", deltas))  # type: ignore[no-any-return]
