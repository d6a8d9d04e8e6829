"""Read the adapters of other tools than PEFT, by the names of their tensors.

kohya's scripts, diffusers, LyCORIS and what follows them: files of factors, each module with an
``alpha`` of its own, or with the settings of diffusers in the file's metadata.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Final

from ...errors import InputError
from ...messages import counted, either, show
from ..changes import Added, Change, Magnitudes
from ..checkpoint import Checkpoint
from ..json_text import is_object, json_object, refuse_unreadable
from ..tensors import TensorInfo
from .adapter import Adapter, Edit
from .factors import check_dtype, reshaped
from .fitting import matrix_of
from .kinds import find_adapter
from .lycoris import hadamard, kronecker, product, refuse
from .other_names import Module, sort_names
from .peft_config import LoraConfig, lora_config

_METADATA: Final = "lora_adapter_metadata"
"""The key under which diffusers keeps the settings of PEFT, by component."""

_KINDS: Final = ("LoRA", "LoHa", "LoKr")

_SCALARS: Final[Mapping[str, str]] = {
    "F64": "<d",
    "F32": "<f",
    "F16": "<e",
    "I64": "<q",
    "I32": "<i",
    "I16": "<h",
    "I8": "<b",
    "U8": "<B",
}

_DIFFERENCES: Final = {"diff": "weight", "w_norm": "weight", "diff_b": "bias", "b_norm": "bias"}
"""Differences of whole tensors, and the parameter of the module that each is of."""


def read_other_tools(path: Path, checkpoint: Checkpoint) -> Adapter:
    """Read an adapter without adapter_config.json.

    Args:
        path: The adapter, as the user named it.
        checkpoint: Its tensors.

    Returns:
        The adapter. Names of modules are those of the file, with dots or with kohya's underscores.

    Raises:
        InputError: The tensors are none of an adapter that is read, or do not fit each other.
        StorageError: The system cannot read a scale.
    """
    found = sort_names(checkpoint.tensors.values())
    if found.unknown:
        _refuse_unknown(replace(checkpoint, tensors={one.name: one for one in found.unknown}))
    if not found.modules:
        raise InputError(
            f"{path}: holds no tensor of an adapter, expected factors such as lora_down and "
            "lora_up; download it again"
        )
    settings = _settings(checkpoint)
    kinds: set[str] = set()
    edits = [edit for module in found.modules for edit in _edits(module, settings, kinds)]
    named = [*filter(kinds.__contains__, _KINDS)] or ["differences of weights"]
    return Adapter(
        path,
        checkpoint.files,
        either(named, "and"),
        tuple(edits),
        warnings=tuple(_left_out(path, found.embeddings)),
    )


def _left_out(path: Path, embeddings: list[TensorInfo]) -> Iterator[str]:
    if embeddings:
        yield (
            f"{path}: leaves out {counted(len(embeddings), 'embedding')} of new tokens, such as "
            f"{show(embeddings[0].name)}, which are no weights of a model; load them as a textual "
            "inversion"
        )


def _refuse_unknown(unknown: Checkpoint) -> None:
    """Raise ``InputError`` for tensors of which no change of a model is known."""
    kind = find_adapter(unknown)
    tensor = kind.tensor if kind and kind.tensor else next(iter(unknown.tensors.values()))
    of = f"of the kind {kind.kind}" if kind and kind.kind else "of a kind that is not known"
    refuse(
        tensor,
        f"is a piece of an adapter {of}, expected {either(_KINDS)}, or differences of weights",
    )


def _edits(module: Module, settings: Mapping[str, LoraConfig], kinds: set[str]) -> Iterator[Edit]:
    """Yield the changes of one module: the product, the magnitudes, then differences."""
    pieces = dict(module.pieces)
    alpha = pieces.pop("alpha", None)

    def scale_of(rank: int | None) -> float:
        if rank is None:
            return 1.0
        config, name = _settings_of(module.name, settings)
        if config is not None:
            return config.scale_of(name, rank)
        return 1.0 if alpha is None else _scalar(alpha) / rank

    change: Change | None = None
    told: TensorInfo | None = None
    for prefix, kind, make in (("hada_", "LoHa", hadamard), ("lokr_", "LoKr", kronecker)):
        factors = {name: one for name, one in pieces.items() if name.startswith(prefix)}
        if factors:
            change, told = make(factors, scale_of), next(iter(factors.values()))
            kinds.add(kind)
            pieces = {name: one for name, one in pieces.items() if name not in factors}
    if "mid" in pieces:
        refuse(pieces["mid"], "is the core of a Tucker decomposition, which is not read")
    a, b = pieces.pop("A", None), pieces.pop("B", None)
    if a is not None and b is not None:
        whole = product(b, a)
        change, told = replace(whole, scale=scale_of(whole.right.shape[0])), a
        kinds.add("LoRA")
    elif a is not None or b is not None:
        one = a if a is not None else b
        assert one is not None
        refuse(one, "stands alone, expected the other factor of its pair beside it")
    if change is not None and told is not None:
        yield Edit(f"{module.name}.weight", change, told)
        for key in ("magnitude", "dora_scale"):
            vector = pieces.pop(key, None)
            if vector is not None:
                yield Edit(f"{module.name}.weight", _magnitudes(vector, change, key), vector)
        bias = pieces.pop("B.bias", None)
        if bias is not None:
            check_dtype(bias)
            rank = a.shape[0] if a is not None else None
            yield Edit(f"{module.name}.bias", Added(bias, scale_of(rank)), bias)
    for key, parameter in _DIFFERENCES.items():
        difference = pieces.pop(key, None)
        if difference is not None:
            check_dtype(difference)
            yield Edit(f"{module.name}.{parameter}", Added(difference), difference)
    if pieces or set(module.pieces) == {"alpha"}:
        refuse(next(iter((pieces or module.pieces).values())), "stands alone, without factors")


def _magnitudes(vector: TensorInfo, change: Change, key: str) -> Magnitudes:
    """Return the norms that DoRA gives to the rows, or in older files of LyCORIS to the columns."""
    check_dtype(vector)
    shape = matrix_of(change)
    assert shape is not None
    rows, columns = shape
    n_values = vector.n_elements
    of_rows = key == "magnitude" or not vector.shape or vector.shape[0] == rows
    if n_values == (rows if of_rows else columns):
        return Magnitudes(reshaped(vector, (n_values,)), columns, of_columns=not of_rows)
    refuse(
        vector,
        f"has shape {list(vector.shape)}, expected the norms of {rows} rows or {columns} columns "
        "(norms of a convolution's input channels are not read)",
    )


def _settings(checkpoint: Checkpoint) -> dict[str, LoraConfig]:
    """Return the settings that diffusers keeps in a file's metadata, by component."""
    text = checkpoint.metadata.get(_METADATA)
    if not text:
        return {}
    path = checkpoint.files[0]
    by_component: dict[str, dict[str, object]] = {}
    for key, value in json_object(text.encode(errors="replace"), f"{path}: {_METADATA}").items():
        component, _, setting = key.rpartition(".")
        by_component.setdefault(component, {})[setting] = value
    return {
        component: lora_config(config, path)
        for component, config in by_component.items()
        if is_object(config) and "r" in config
    }


def _settings_of(module: str, settings: Mapping[str, LoraConfig]) -> tuple[LoraConfig | None, str]:
    """Return the settings of a module's component, and the module's name in the component."""
    component, _, name = module.partition(".")
    if component in settings:
        return settings[component], name
    return settings.get(""), module


def _scalar(tensor: TensorInfo) -> float:
    """Read the value of a tensor of one element."""
    if tensor.n_elements != 1 or tensor.dtype not in (*_SCALARS, "BF16"):
        refuse(tensor, f"is {tensor.dtype} {list(tensor.shape)}, expected one number")
    try:
        with tensor.path.open("rb") as file:
            file.seek(tensor.offset)
            data = file.read(tensor.n_bytes)
    except OSError as error:
        refuse_unreadable(error, tensor.path)
    if tensor.dtype == "BF16":
        data, code = b"\0\0" + data, "<f"
    else:
        code = _SCALARS[tensor.dtype]
    if len(data) != struct.calcsize(code):
        refuse(tensor, "ends before its value; download the adapter again")
    value = float(struct.unpack(code, data)[0])
    if not abs(value) < float("inf"):
        refuse(tensor, f"is {value}, expected a finite number")
    return value
