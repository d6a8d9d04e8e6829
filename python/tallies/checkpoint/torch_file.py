"""The tensors of a ``.bin``, ``.pt`` or ``.pth`` file of ``torch.save``, without torch.

The file is a zip archive of a pickle and of the stored arrays. The pickle is read, never run
(``pickled.py``), and a tensor is a byte range of the file, with strides where the tensor is a view
whose elements do not lie end to end. A file holds a state dict, or a dict that has the state dict
under one of ``WRAPPERS`` and no tensors beside it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from ..errors import InputError
from ..messages import show
from ..spec.dtypes import DTYPES
from .json_text import DAMAGED
from .pickled import load
from .strided import is_row_major, span
from .tensors import MAX_TENSOR_BYTES, TensorInfo
from .torch_names import StoredTensor
from .torch_odd import Odd
from .torch_zip import SAVE_AGAIN, Archive, read_archive

WRAPPERS: Final = ("state_dict", "model_state_dict", "model", "module")
"""Names under which people's files have the state dict."""

_MAX_DEPTH: Final = 4
"""The depth of wrappers in wrappers."""


def read_torch_file(path: Path) -> tuple[list[TensorInfo], dict[str, str]]:
    """Read the tensors of one file, in the order of its state dict.

    Args:
        path: A zip archive of ``torch.save``.

    Returns:
        The tensors, and no metadata.

    Raises:
        InputError: If the file is damaged, or names or holds anything but tensors and containers.
        StorageError: If the file cannot be read.
    """
    archive = read_archive(path)
    pickle = archive.read("data.pkl")
    try:
        content, odd = load(pickle)
    except ValueError as error:
        raise InputError(f"{path}: data.pkl: {error}; {SAVE_AGAIN}") from None
    state_dict = _state_dict(path, content) if isinstance(content, dict) or not odd else {}
    if odd:
        raise InputError(f"{path}: data.pkl: {odd.why}; {odd.way_out}")
    tensors = []
    for name, tensor in state_dict.items():
        try:
            name.encode()
            tensors.append(_info(archive, name, tensor))
        except ValueError as error:
            raise InputError(f"{path}: tensor {show(name)}: {error}") from None
    return tensors, {}


def _state_dict(path: Path, content: object) -> Mapping[str, StoredTensor]:
    """Find the dict of tensors in what a file holds."""
    way = ""
    for _ in range(_MAX_DEPTH):
        if not isinstance(content, dict):
            raise InputError(
                f"{path}: holds {_kind(content)}{way}, expected a state dict; {SAVE_AGAIN}"
            )
        wrapped = [name for name in WRAPPERS if isinstance(content.get(name), dict)]
        if not wrapped:
            for name, value in content.items():
                if isinstance(value, Odd):
                    raise InputError(
                        f"{path}: tensor {show(name)}{way}: {value.why}; {value.way_out}"
                    )
                if not isinstance(name, str) or not isinstance(value, StoredTensor):
                    raise InputError(
                        f"{path}: entry {show(name)}{way} is {_kind(value)}, expected a tensor "
                        f"(or a state dict under one of {', '.join(WRAPPERS)}); {SAVE_AGAIN}"
                    )
            return content
        for name, value in content.items():
            if name != wrapped[0] and _holds_tensors(value):
                raise InputError(
                    f"{path}: holds tensors in entry {show(name)}{way} beside the state dict in "
                    f"{show(wrapped[0])}; save that alone: "
                    f"torch.save(torch.load(FILE, weights_only=True)[{wrapped[0]!r}], OUT)"
                )
        content = content[wrapped[0]]
        way += f" of {show(wrapped[0])}"
    raise InputError(f"{path}: holds wrappers in wrappers{way}; {SAVE_AGAIN}")


def _holds_tensors(value: object) -> bool:
    """Tell if there is a tensor anywhere in a value, which may contain itself."""
    seen: set[int] = set()
    left = [value]
    while left:
        one = left.pop()
        if isinstance(one, StoredTensor):
            return True
        if isinstance(one, dict | list | tuple) and id(one) not in seen:
            seen.add(id(one))
            left += one.values() if isinstance(one, dict) else one
    return False


def _info(archive: Archive, name: str, tensor: StoredTensor) -> TensorInfo:
    """Say where a tensor lies; ``ValueError`` tells what was found and expected."""
    storage, dtype = tensor.storage, tensor.dtype
    entry = archive.entries.get(f"data/{storage.key}")
    if entry is None:
        raise ValueError(f"its storage {show(f'data/{storage.key}')} is absent; {DAMAGED}")
    n_stored = storage.n_elements * DTYPES[storage.dtype or "U8"]
    if entry.n_bytes != n_stored:
        raise ValueError(
            f"its storage {show(f'data/{storage.key}')} has {entry.n_bytes} bytes, expected "
            f"{n_stored}; {DAMAGED}"
        )
    n_bytes = DTYPES[dtype]
    for size in tensor.shape:
        n_bytes *= size
        if n_bytes > MAX_TENSOR_BYTES:
            raise ValueError(f"shape {show(tensor.shape)} is beyond 2**63 bytes; {DAMAGED}")
    begin = tensor.offset * DTYPES[dtype] if n_bytes else 0  # an empty view may lie anywhere
    end = begin + span(tensor.shape, tensor.strides) * DTYPES[dtype]
    if end > entry.n_bytes:
        raise ValueError(
            f"shape {show(tensor.shape)}, strides {show(tensor.strides)} and offset "
            f"{tensor.offset} reach byte {end} of a storage of {entry.n_bytes}; {DAMAGED}"
        )
    return TensorInfo(
        name,
        dtype,
        tensor.shape,
        archive.path,
        entry.offset + begin,
        n_bytes,
        strides=None if is_row_major(tensor.shape, tensor.strides) else tensor.strides,
    )


def _kind(value: object) -> str:
    if isinstance(value, StoredTensor):
        return "a tensor"
    kind = type(value).__name__
    return f"an {kind}" if kind == "int" else f"a {kind}"
