"""Entropy coding: any fine-tune, or a checkpoint by itself, bit for bit in fewer bytes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ._codec import Codec


class Lossless(Codec):
    """For each task all of its tensors, bit for bit, entropy coded in blocks; nothing is shared.

    A block is 65,536 elements, which are decoded without the others. An element counts as the
    difference of its bits to the base's, as their exclusive or, or as the bits by themselves,
    whichever is smallest in a sample. Byte p of all elements of a block is one plane,
    which zstandard codes by its frequencies; the difference d counts as 2d, or as -2d - 1 below
    zero, and bits by themselves of floats are turned left by one, so that the exponent is one byte.
    A plane that would not become smaller stays as it is.

    Tensors are those of the files: of any dtype, scales and packed integers too, and of names and
    shapes that the base lacks. Without a base, a task is a checkpoint by itself. A tensor that two
    tasks have alike is stored once. The extra ``tallies[zstd]`` is needed.

    Hershcovitch et al., ZipNN: Lossless Compression for AI Models, 2024, arXiv 2411.05239.
    """

    name = "lossless"
    formula = "f_t, bit for bit: split into bytes of f_t - base, f_t ^ base or f_t, each coded"
    paper = "planes as in Hershcovitch et al. 2024, arXiv 2411.05239"
    family = "lossless"
    mask = None
    is_exact = True
    of_stored = True

    @classmethod
    def codes_integers(cls, parameters: Mapping[str, Any]) -> bool:
        return True
