"""Loads the operators ``torch.ops.tallies.*`` from the native library, and states their shapes.

Every operator checks its arguments before a kernel reads an address, so that a direct call is as
safe as its function: RuntimeError has the words of the function's InputError. Results are new
tensors without a gradient.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

import tallies._core as native

OLDEST: Final = (2, 10)
"""The first torch whose stable ABI has all that the operators use."""


def load(library: Path, register: str) -> None:
    """Register the operators of a native library with torch.

    Args:
        library: The file of the library.
        register: The name of its function that registers them.

    Raises:
        ImportError: torch is too old, the library is missing, or torch refused the operators.
    """
    found = torch.__version__
    if tuple(int(part) for part in found.split(".")[:2]) < OLDEST:
        raise ImportError(
            f"tallies.torch: found torch {found}, expected {OLDEST[0]}.{OLDEST[1]} or newer; "
            "install one: pip install -U torch"
        )
    if not library.exists():
        raise ImportError(
            f"tallies.torch: {library.name} is missing, this tallies was built without the torch "
            "operators; build it with TALLIES_TORCH=ON, the default"
        )
    try:
        function = getattr(ctypes.CDLL(str(library)), register)
    except (OSError, AttributeError) as error:
        raise ImportError(
            f"tallies.torch: {library.name} does not fit torch {found}: {error}"
        ) from error
    function.restype = ctypes.c_char_p
    message: bytes | None = function()
    if message is not None:
        raise ImportError(
            f"tallies.torch: torch {found} refused the operators: {message.decode()}; are they "
            "registered already?"
        )


def load_for_cuda(folder: Path) -> str | None:
    """Register the operators of CUDA tensors, and return why there are none, if there are none.

    The first call with a tensor on a device opens the kernels and the device, so that a process
    that forks may import this module before.
    """
    if torch.version.cuda is None:
        return f"torch {torch.__version__} is built without CUDA"
    try:
        load(folder / "_torch_cuda.so", "tallies_torch_cuda_register")
    except ImportError as error:
        return str(error)
    return None


# Beside the compiled module, which in an editable installation is not beside this file.
_FOLDER: Final = Path(native.__file__).parent
load(_FOLDER / "_torch.so", "tallies_torch_register")
CUDA_PROBLEM: Final = load_for_cuda(_FOLDER)
"""The reason why there are no operators for CUDA tensors; None if there are."""


def _like_first(x: Tensor, *_: Any, **__: Any) -> Tensor:
    return x.new_empty(x.shape)


def _like_rows(rows: Sequence[Tensor], *_: Any, **__: Any) -> Tensor:
    return rows[0].new_empty(rows[0].shape)


def _like_base_or_rows(base: Tensor | None, rows: Sequence[Tensor], *_: Any, **__: Any) -> Tensor:
    like = rows[0] if base is None else base
    return like.new_empty(like.shape)


def _many(
    bases: Sequence[Tensor] | None,
    experts: Sequence[Tensor],
    n_experts: Sequence[int],
    *others: Any,
    **keywords: Any,
) -> tuple[list[Tensor], Tensor, Tensor]:
    names = [one.name for one in torch.ops.tallies.combine_many.default._schema.arguments]
    dtype = {**dict(zip(names[3:], others, strict=False)), **keywords}.get("dtype")
    firsts = [experts[sum(n_experts[:t])] for t in range(len(n_experts))]
    like = firsts if bases is None else bases
    n = len(like)
    return (
        [one.new_empty(one.shape, dtype=dtype) for one in like],
        like[0].new_empty(n, dtype=torch.int64),
        like[0].new_empty(n, dtype=torch.bool),
    )


def _packed_like(x: Tensor, *_: Any, **__: Any) -> Tensor:
    return x.new_empty((x.numel() + 7) // 8, dtype=torch.uint8)


SHAPES: Final[dict[str, Callable[..., Any]]] = {
    "kth_magnitude": lambda x, k: x.new_empty((), dtype=torch.float32),
    "kth_magnitude_counted": lambda x, k: (
        x.new_empty((), dtype=torch.float32),
        x.new_empty(2, dtype=torch.int64),
    ),
    "trim": _like_first,
    "trim_counted": lambda x, *_, **__: (
        x.new_empty(x.shape),
        x.new_empty((), dtype=torch.int64),
    ),
    "masked_mean": _like_rows,
    "combine_many": _many,
    "magnitude_mask": _packed_like,
    "tall_mask": _packed_like,
    "consensus_mask": lambda packed_masks, n, k: packed_masks[0].new_empty((n + 7) // 8),
    "pack_bits": _packed_like,
    "unpack_bits": lambda packed, n: packed.new_empty(n, dtype=torch.bool),
    "change_elements_": lambda *_, **__: None,
    "apply_mask": _like_first,
    "elect_signs": lambda deltas, *_, **__: deltas[0].new_empty(deltas[0].shape, dtype=torch.int8),
    "disjoint_merge": _like_rows,
    "ties": _like_first,
    "combine": _like_base_or_rows,
    "merge_by_number": _like_base_or_rows,
    "low_rank": _like_first,
    "gram": lambda deltas: deltas[0].new_empty((len(deltas), len(deltas)), dtype=torch.float64),
    "block_dots": lambda grad, deltas: grad.new_empty(len(deltas), dtype=torch.float64),
}
"""Functions that return each operator's result for tensors without values."""

_WITHOUT_GRADIENT: Final[Any] = torch.library.Library("tallies", "IMPL", "Autograd")  # type: ignore[no-untyped-call]


def _on_one_device(name: str, shape: Callable[..., Any]) -> Callable[..., Any]:
    """Return the function of an operator's result, which refuses tensors of several devices.

    A call with a meta tensor among others would have a result that no kernel fills.
    """
    arguments = getattr(torch.ops.tallies, name).default._schema.arguments

    def of(*args: Any, **keywords: Any) -> Any:
        given = [*zip((one.name for one in arguments), args, strict=False), *keywords.items()]
        first: tuple[str, torch.device] | None = None
        for argument, value in given:
            is_list = isinstance(value, (list, tuple))
            for i, one in enumerate(value if is_list else [value]):
                if not isinstance(one, Tensor):
                    continue
                label = f"{argument}[{i}]" if is_list else argument
                first = first or (label, one.device)
                if one.device != first[1]:
                    raise RuntimeError(
                        f"tallies::{name}: {label}: found a tensor on {one.device}, expected all "
                        f"on {first[1]}, as {first[0]} is; move one of them"
                    )
        return shape(*args, **keywords)

    return of


for _name, _shape in SHAPES.items():
    torch.library.register_fake(f"tallies::{_name}", _on_one_device(_name, _shape))
    # Without it torch would hang a node that only warns on every result.
    _WITHOUT_GRADIENT.impl(_name, torch.library.fallthrough_kernel)
