"""The adapters that PEFT writes: adapter_config.json, and the tensors of adapter_model.

A weight W is changed to W + scale * B A. Embeddings and the layers of GPT-2 store the transposed
matrix. Every rule here is PEFT's own, as its ``merge_and_unload`` has it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Final

from ...errors import InputError
from ...messages import show
from ..changes import Added, Change, Magnitudes, Product
from ..strided import row_major
from ..tensors import TensorInfo
from .adapter import Adapter, Edit, one_of
from .factors import as_matrix, check_dtype, refuse, reshaped, turned
from .lycoris import hadamard, kronecker
from .peft_config import LoraConfig, base_of, kind_of, lora_config, lycoris_config, refuse_kind
from .peft_names import Pieces, Sorted, sort_names
from .peft_tokens import TOKENS, read_tokens, token_rows

_PAIRS: Final[tuple[tuple[str, str], ...]] = (
    ("lora_A", "lora_B"),
    ("lora_embedding_A", "lora_embedding_B"),
)


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
    base = base_of(config, config_path)
    edits = [*_replaced(pieces), *read(pieces, config, config_path)]
    if not edits:
        raise InputError(
            f"{files[0]}: holds no tensor of an adapter; download it again, or merge it into its "
            "model where it loads (PEFT: merge_and_unload)"
        )
    return Adapter(path, files, name, tuple(edits), base=base, config=config)


def _replaced(pieces: Sorted) -> Iterable[Edit]:
    """Yield the tensors that stand in the place of the model's: ``modules_to_save``, biases."""
    for name, tensor in pieces.whole.items():
        yield Edit(name, tensor, tensor)


def _refuse_other_values(pieces: Sorted, config: LoraConfig) -> None:
    """Refuse values of a changed weight that PEFT does not load."""
    changed = {one.module for one in pieces.modules if one.tensors.keys() - {TOKENS}}
    for name, tensor in pieces.whole.items():
        module, _, own = name.rpartition(".")
        # Behind ".base_layer" PEFT saves the model's own values.
        is_own = ".base_layer." in tensor.name
        if own == "weight" and module in changed and not is_own and not config.saves(module):
            raise InputError(
                f"{tensor.path}: tensor {show(tensor.name)} has values of a weight that factors "
                f"change, but modules_to_save in {config.path.name} does not name "
                f"{show(module)}, so that PEFT ignores them; remove the tensor, or merge the "
                "adapter into its model (PEFT: merge_and_unload)"
            )


def _read_lora(pieces: Sorted, config: Mapping[str, object], path: Path) -> Iterable[Edit]:
    settings = lora_config(config, path)
    _refuse_other_values(pieces, settings)
    for module in pieces.modules:
        names = settings.parameters_of(module.module)
        if names and {*module.tensors} <= {"lora_A", "lora_B"}:
            yield _of_parameter(module, names, settings)
            continue
        yield from _lora_of(module, settings)
        vectors = module.tensors.get(TOKENS)
        if vectors is not None:
            yield from token_rows(module.module, vectors, settings.tokens, path)


def _lora_of(module: Pieces, config: LoraConfig) -> Iterable[Edit]:
    """Yield the changes of one module: the product, then the magnitudes, then the bias."""
    left = {key: tensor for key, tensor in module.tensors.items() if key != TOKENS}
    for names in _PAIRS:
        if not left.keys() & {*names}:
            continue
        a, b = _pair(left, module, *names)
        plain = _product(a, b, module, config)
        name = f"{module.module}.weight"
        if names[0] == "lora_embedding_A":
            readings = [turned(plain)]
        elif len(a.shape) > 2:
            readings = [plain]
        else:
            readings = [turned(plain), plain] if config.fan_in_fan_out else [plain, turned(plain)]
        yield one_of([Edit(name, product, b) for product in readings])
        vector = left.pop("lora_magnitude_vector", None)
        if vector is not None and not config.dora:
            raise InputError(
                f"{vector.path}: tensor {show(vector.name)} has the norms of DoRA, but use_dora in "
                f"{config.path.name} is not true, so that PEFT ignores them; set use_dora to true "
                "if the adapter was trained with it, else remove the tensor, or merge the adapter "
                "into its model (PEFT: merge_and_unload)"
            )
        if vector is not None:
            yield one_of(_magnitudes(name, vector, readings, plain))
        elif config.dora:
            refuse(b, f"has no lora_magnitude_vector of {show(module.module)} beside it")
        bias = left.pop("lora_B.bias", None)
        if bias is not None:
            check_dtype(bias)
            scale = config.scale_of(module.module, config.rank_of(module.module))
            yield Edit(f"{module.module}.bias", Added(bias, scale), bias)
    for tensor in left.values():
        refuse(tensor, "is a piece of no pair of factors")


def _pair(
    left: dict[str, TensorInfo], module: Pieces, a_name: str, b_name: str
) -> tuple[TensorInfo, TensorInfo]:
    """Take both factors of a module out of its tensors."""
    a, b = left.pop(a_name, None), left.pop(b_name, None)
    if a is None or b is None:
        there, absent = (a, b_name) if a is not None else (b, a_name)
        assert there is not None
        refuse(there, f"stands alone, expected {absent} of {show(module.module)} beside it")
    for tensor in (a, b):
        check_dtype(tensor)
        if len(tensor.shape) < 2:
            refuse(tensor, f"has shape {show(tensor.shape)}, expected a matrix")
    return a, b


def _of_parameter(module: Pieces, names: tuple[str, ...], config: LoraConfig) -> Edit:
    """Return the change of one of several parameters of a module.

    The model's tensors tell which; a name whose rank the factors do not have is none of them.
    """
    readings: list[Edit] = []
    refusals: list[InputError] = []
    for short in names:
        try:
            readings += _stacked(module, f"{module.module}.{short}", config)
        except InputError as refusal:
            refusals.append(refusal)
    if not readings:
        raise refusals[0]
    return one_of(readings)


def _stacked(module: Pieces, name: str, config: LoraConfig) -> list[Edit]:
    """Return the changes that may be a parameter's: of a matrix, or of one for each expert.

    The factors of all experts are in one: A [experts * rank, in], B [out, rank * experts].
    """
    a, b = _pair(dict(module.tensors), module, "lora_A", "lora_B")
    rank = config.rank_of(name)
    n = a.shape[0] // rank
    if len(a.shape) > 2 or len(b.shape) > 2 or not a.shape[0] == b.shape[1] == n * rank > 0:
        refuse(
            a,
            f"of shape {show(a.shape)} and {show(b.name)} of shape {show(b.shape)} have no "
            f"product of the rank {rank}, which {config.path.name} states for {show(name)}",
        )
    scale = config.scale_of(name, rank)
    right = reshaped(a, (n, rank, a.shape[1]))
    by_expert = reshaped(b, (b.shape[0], rank, n))
    out, k, expert = by_expert.strides or row_major(by_expert.shape)
    left = replace(by_expert, shape=(n, b.shape[0], rank), strides=(expert, out, k))
    stack = Product(left, right, scale)
    matrix = [Product(as_matrix(b), as_matrix(a), scale)] if n == 1 else []
    return [Edit(name, one, b) for one in (*matrix, stack, turned(stack))]


def _product(a: TensorInfo, b: TensorInfo, module: Pieces, config: LoraConfig) -> Product:
    """Return B A as a matrix of the outputs by the inputs."""
    rank = config.rank_of(module.module)
    matrix_a, matrix_b = as_matrix(a), as_matrix(b)
    if matrix_a.shape[0] != rank:
        refuse(
            a,
            f"has shape {show(a.shape)}, expected the rank {rank} first, which {config.path.name} "
            f"states for {show(module.module)}",
        )
    if matrix_b.shape[1] != rank:
        groups = " (a convolution of several groups is not merged)" if len(b.shape) > 2 else ""
        refuse(b, f"has shape {show(b.shape)}, expected the rank {rank} last{groups}")
    return Product(matrix_b, matrix_a, config.scale_of(module.module, rank))


def _magnitudes(
    name: str, vector: TensorInfo, readings: list[Product], plain: Product
) -> list[Edit]:
    """Return the norms that DoRA gives to the outputs, for each reading of the matrix."""
    check_dtype(vector)
    rows, columns = plain.left.shape[0], plain.right.shape[1]
    if vector.n_elements != rows:
        refuse(vector, f"has shape {show(vector.shape)}, expected {rows} elements")
    norms = reshaped(vector, (rows,))
    of_rows, of_columns = Magnitudes(norms, columns), Magnitudes(norms, rows, of_columns=True)
    return [Edit(name, of_rows if product is plain else of_columns, vector) for product in readings]


def _hadamard(pieces: Mapping[str, TensorInfo], config: LoraConfig, module: str) -> Change:
    return hadamard(pieces, lambda rank: config.scale_of(module, config.rank_of(module)))


def _kronecker(pieces: Mapping[str, TensorInfo], config: LoraConfig, module: str) -> Change:
    whole = pieces.get("lokr_w2")
    if whole is not None and len(whole.shape) == 3:
        # PEFT 0.21 lines up the dimensions from the last on, which mixes channels and outputs.
        refuse(
            whole, "is the factor of a convolution of one dimension, which PEFT multiplies amiss"
        )
    return kronecker(pieces, lambda rank: config.scale_of(module, config.rank_of(module)))


def _read_lycoris(
    make: Callable[[Mapping[str, TensorInfo], LoraConfig, str], Change],
) -> _Reader:
    """Return a reader of an adapter whose modules are each of one change."""

    def read(pieces: Sorted, config: Mapping[str, object], path: Path) -> Iterable[Edit]:
        settings = lycoris_config(config, path)
        for module in pieces.modules:
            change = make(module.tensors, settings, module.module)
            first = next(iter(module.tensors.values()))
            yield Edit(f"{module.module}.weight", change, first)

    return read


_Reader = Callable[[Sorted, Mapping[str, object], Path], Iterable[Edit]]

_READERS: Final[Mapping[str, tuple[str, _Reader]]] = {
    "LORA": ("LoRA", _read_lora),
    "LOHA": ("LoHa", _read_lycoris(_hadamard)),
    "LOKR": ("LoKr", _read_lycoris(_kronecker)),
    "TRAINABLE_TOKENS": ("trainable tokens", read_tokens),
}
"""The names of the kinds that are read, and who reads them, by PEFT's names."""
