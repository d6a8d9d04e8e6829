"""The changes that LyCORIS makes of factors: LoCon, LoHa and LoKr."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final, NoReturn

from ...errors import InputError
from ...messages import show
from ..changes import Hadamard, Kronecker, Product
from ..tensors import TensorInfo
from .factors import as_matrix, check_dtype

Pieces = Mapping[str, TensorInfo]
ScaleOf = Callable[[int | None], float]
"""The factor on a product, from its rank; from None where no factor has a rank."""

_UNLOAD: Final = (
    "merge the adapter where it loads (diffusers: fuse_lora; PEFT: merge_and_unload), or save it "
    "again"
)


def refuse(tensor: TensorInfo, found: str) -> NoReturn:
    """Raise ``InputError`` for a tensor of an adapter, with a way out."""
    raise InputError(f"{tensor.path}: tensor {show(tensor.name)} {found}; {_UNLOAD}")


def product(left: TensorInfo, right: TensorInfo, scale: float = 1.0) -> Product:
    """Return left @ right of two factors, each as a matrix of its first dimension by the rest."""
    for tensor in (left, right):
        check_dtype(tensor)
        if len(tensor.shape) < 2 or not tensor.n_elements:
            refuse(tensor, f"has shape {list(tensor.shape)}, expected a matrix")
    a, b = as_matrix(left), as_matrix(right)
    if a.shape[1] != b.shape[0]:
        refuse(
            left,
            f"has shape {list(left.shape)}, and {show(right.name)} has shape {list(right.shape)}: "
            f"the ranks {a.shape[1]} and {b.shape[0]} must be equal",
        )
    return Product(a, b, scale)


def hadamard(pieces: Pieces, scale_of: ScaleOf) -> Hadamard:
    """Return the change of LoHa.

    Args:
        pieces: The tensors by their names in the file: ``hada_w1_a`` and so on.
        scale_of: The factor on the change, from the rank.

    Raises:
        InputError: A piece is absent or does not fit the others, or there is a core tensor.
    """
    first = next(iter(pieces.values()))
    for core in ("hada_t1", "hada_t2"):
        if core in pieces:
            refuse(pieces[core], "is the core of a Tucker decomposition, which is not read")
    names = ("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b")
    absent = [name for name in names if name not in pieces]
    if absent:
        refuse(first, f"is a piece of LoHa without {absent[0]} beside it")
    w1_a, w1_b, w2_a, w2_b = (pieces[name] for name in names)
    a, b = product(w1_a, w1_b), product(w2_a, w2_b)
    if (a.left.shape[0], a.right.shape[1]) != (b.left.shape[0], b.right.shape[1]):
        refuse(
            w1_a,
            f"belongs to a product of {a.left.shape[0]} x {a.right.shape[1]}, and "
            f"{show(w2_a.name)} to one of {b.left.shape[0]} x {b.right.shape[1]}",
        )
    return Hadamard(a, b, scale_of(w1_b.shape[0]))


def kronecker(pieces: Pieces, scale_of: ScaleOf) -> Kronecker:
    """Return the change of LoKr.

    Args:
        pieces: The tensors by their names in the file: ``lokr_w1``, ``lokr_w2_a`` and so on.
        scale_of: The factor on the change, from the rank of the second factor, or else of the
            first; from None where both are whole.

    Raises:
        InputError: A piece is absent or does not fit the others, or there is a core tensor.
    """
    for core in ("lokr_t1", "lokr_t2"):
        if core in pieces:
            refuse(pieces[core], "is the core of a Tucker decomposition, which is not read")
    left, right = _factor(pieces, "lokr_w1"), _factor(pieces, "lokr_w2")
    ranks = [one.right.shape[0] for one in (right, left) if isinstance(one, Product)]
    return Kronecker(left, right, scale_of(ranks[0] if ranks else None))


def _factor(pieces: Pieces, name: str) -> TensorInfo | Product:
    whole = pieces.get(name)
    if whole is not None:
        check_dtype(whole)
        if len(whole.shape) < 2 or not whole.n_elements:
            refuse(whole, f"has shape {list(whole.shape)}, expected a matrix")
        return as_matrix(whole)
    for absent, present in ((f"{name}_a", f"{name}_b"), (f"{name}_b", f"{name}_a")):
        if absent not in pieces:
            one = pieces.get(present, next(iter(pieces.values())))
            refuse(one, f"is a piece of LoKr without {name} or {absent} beside it")
    return product(pieces[f"{name}_a"], pieces[f"{name}_b"])
