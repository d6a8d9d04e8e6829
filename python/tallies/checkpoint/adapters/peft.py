"""The adapters that PEFT writes: adapter_config.json, and the tensors of adapter_model.

A weight W is changed to W + scale * B A. Embeddings and the layers of GPT-2 store the transposed
matrix. Every rule here is PEFT's own, as its ``merge_and_unload`` has it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Final, NoReturn

from ...errors import InputError
from ...messages import show
from ..changes import Added, Magnitudes, Product
from ..tensors import TensorInfo
from .adapter import Adapter, Edit
from .factors import as_matrix, check_dtype, reshaped, turned
from .peft_config import LoraConfig, kind_of, lora_config, refuse_kind
from .peft_names import Pieces, Sorted, sort_names

_UNLOAD: Final = "save the adapter again, or merge it into its model (PEFT: merge_and_unload)"

_PAIRS: Final = (("lora_A", "lora_B"), ("lora_embedding_A", "lora_embedding_B"))


def read_peft(
    path: Path,
    files: tuple[Path, ...],
    tensors: Iterable[TensorInfo],
    config: dict[str, object],
    config_path: Path,
) -> Adapter:
    """Read an adapter that PEFT wrote.

    Args:
        path: The adapter, as the user named it.
        files: Its files: the weights and the configuration.
        tensors: The tensors of the weights.
        config: The configuration.
        config_path: Its file.

    Raises:
        InputError: The adapter is of a kind that is no change of weights, or is damaged.
    """
    kind = kind_of(config, config_path)
    if kind not in _READERS:
        refuse_kind(config_path, kind, tuple(_READERS))
    name, read = _READERS[kind]
    pieces = sort_names(tensors)
    edits = [*_replaced(pieces), *read(pieces, config, config_path)]
    if not edits:
        raise InputError(
            f"{files[0]}: holds no tensor of an adapter; {_UNLOAD.replace('save', 'download', 1)}"
        )
    base = config.get("base_model_name_or_path")
    return Adapter(
        path,
        files,
        name,
        tuple(edits),
        base=base if isinstance(base, str) and base else None,
        config=config,
    )


def _replaced(pieces: Sorted) -> Iterable[Edit]:
    """Yield the tensors that stand in the place of the model's: ``modules_to_save``, biases."""
    for name, tensor in pieces.whole.items():
        yield Edit(name, tensor, tensor)


def _read_lora(pieces: Sorted, config: Mapping[str, object], path: Path) -> Iterable[Edit]:
    settings = lora_config(config, path)
    for module in pieces.modules:
        yield from _lora_of(module, settings)


def _lora_of(module: Pieces, config: LoraConfig) -> Iterable[Edit]:
    """Yield the changes of one module: the product, then the magnitudes, then the bias."""
    left = dict(module.tensors)
    for a_name, b_name in _PAIRS:
        a, b = left.pop(a_name, None), left.pop(b_name, None)
        if a is None and b is None:
            continue
        if a is None or b is None:
            present, absent = (b, a_name) if b is not None else (a, b_name)
            assert present is not None
            _refuse(present, f"stands alone, expected {absent} of {show(module.module)} beside it")
        name = f"{module.module}.weight"
        is_embedding = a_name == "lora_embedding_A"
        plain = _product(a, b, module, config)
        columns = plain.right.shape[1]
        swapped = (config.fan_in_fan_out and not is_embedding) or is_embedding
        readings = [turned(plain), plain] if swapped else [plain, turned(plain)]
        if is_embedding or len(a.shape) > 2:
            readings = readings[:1]
        edits = [Edit(name, reading, b) for reading in readings]
        yield _with_others(edits)
        vector = left.pop("lora_magnitude_vector", None)
        if vector is not None:
            yield _with_others(_magnitudes(name, vector, readings, plain, columns))
        elif config.dora:
            _refuse(b, f"has no lora_magnitude_vector of {show(module.module)} beside it")
        bias = left.pop("lora_B.bias", None)
        if bias is not None:
            check_dtype(bias)
            rank = config.rank_of(module.module)
            scale = config.scale_of(module.module, rank)
            yield Edit(f"{module.module}.bias", Added(bias, scale), bias)
    for tensor in left.values():
        _refuse(tensor, "is a piece of no pair of factors")


def _product(a: TensorInfo, b: TensorInfo, module: Pieces, config: LoraConfig) -> Product:
    """Return B A as a matrix of the outputs by the inputs."""
    for tensor in (a, b):
        check_dtype(tensor)
        if len(tensor.shape) < 2:
            _refuse(tensor, f"has shape {show(tensor.shape)}, expected a matrix")
    rank = config.rank_of(module.module)
    matrix_a, matrix_b = as_matrix(a), as_matrix(b)
    if matrix_a.shape[0] != rank:
        _refuse(
            a,
            f"has shape {show(a.shape)}, expected the rank {rank} first, which {config.path.name} "
            f"states for {show(module.module)}",
        )
    if matrix_b.shape[1] != rank:
        groups = " (a convolution of several groups is not merged)" if len(b.shape) > 2 else ""
        _refuse(b, f"has shape {show(b.shape)}, expected the rank {rank} last{groups}")
    return Product(matrix_b, matrix_a, config.scale_of(module.module, rank))


def _magnitudes(
    name: str, vector: TensorInfo, readings: list[Product], plain: Product, columns: int
) -> list[Edit]:
    """Return the norms that DoRA gives to the outputs, for each reading of the matrix."""
    check_dtype(vector)
    rows = plain.left.shape[0]
    if vector.n_elements != rows:
        _refuse(vector, f"has shape {show(vector.shape)}, expected {rows} elements")
    flat = reshaped(vector, (rows,))
    return [
        Edit(
            name,
            Magnitudes(flat, columns) if reading is plain else Magnitudes(flat, rows, True),
            vector,
        )
        for reading in readings
    ]


def _with_others(edits: list[Edit]) -> Edit:
    first, *others = edits
    return Edit(first.name, first.change, first.told_by, tuple(others))


def _refuse(tensor: TensorInfo, found: str) -> NoReturn:
    raise InputError(f"{tensor.path}: tensor {show(tensor.name)} {found}; {_UNLOAD}")


_Reader = Callable[[Sorted, Mapping[str, object], Path], Iterable[Edit]]

_READERS: Final[Mapping[str, tuple[str, _Reader]]] = {"LORA": ("LoRA", _read_lora)}
"""The names of the kinds that are read, and who reads them, by PEFT's names."""
