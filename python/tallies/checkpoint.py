"""Checkpoints as maps from tensor name to byte range: headers, shards and what lies beside them.

Only headers, indexes and config.json are read, never tensor data. All of it is hostile text, so it
is checked in full here, with integers that cannot overflow, and nothing downstream checks again.
"""

from __future__ import annotations

import json
import math
import os
import re
import reprlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path, PureWindowsPath
from typing import Any, Final, NoReturn, TypeGuard

from .errors import InputError, StorageError

DTYPES: Final[Mapping[str, int]] = {
    "F64": 8,
    "F32": 4,
    "F16": 2,
    "BF16": 2,
    "F8_E4M3": 1,
    "F8_E5M2": 1,
    "I64": 8,
    "I32": 4,
    "I16": 2,
    "I8": 1,
    "U64": 8,
    "U32": 4,
    "U16": 2,
    "U8": 1,
    "BOOL": 1,
}
"""Bytes of an element, by the name that safetensors gives the dtype."""

FLOATS: Final = frozenset({"F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2"})
"""The floating-point ones among ``DTYPES``."""

MAX_HEADER_BYTES: Final = 100_000_000
"""The longest header that the stock library reads; our bound on index and config.json as well."""

_ADAPTER_FILES: Final = ("adapter_config.json", "adapter_model.safetensors", "adapter_model.bin")
_OTHER_DTYPES: Final = ("F4", "F6_E2M3", "F6_E3M2", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ", "C64")
_ENTRY_KEYS: Final = frozenset({"dtype", "shape", "data_offsets"})
_MAX_DIGITS: Final = 18  # 10**18 < 2**63: an integer this short fits every counter downstream
_MAX_TENSOR_BYTES: Final = 2**63 - 1

_WEIGHTS: Final = re.compile(
    r"\.(?:safetensors|bin|pt|pth|ckpt|gguf|h5|msgpack|onnx|onnx_data|ot|npz|pkl)"
    r"(?:\.index(?:\.[\w-]+)?\.json)?\Z",
    re.IGNORECASE,
)
_PART: Final = re.compile(r"-0*(\d+)-of-0*(\d+)\.safetensors\Z")
_HEAD: Final = re.compile(r"(?:\A(?:output|embed_out)|(?:\A|\.)lm_head)\.weight\Z")
_EMBEDDING: Final = re.compile(
    r"(?:\A|\.)(?:embed_tokens|wte|word_embeddings|tok_embeddings|shared|embed_in)\.weight\Z"
)
_QUANTISED: Final = {
    "bitsandbytes": re.compile(
        r"\.(?:SCB|weight_format|(?:nested_)?(?:absmax|quant_map)|quant_state\.\w+)\Z"
    ),
    "GPTQ or AWQ": re.compile(r"\.(?:qweight|qzeros)\Z"),
    "compressed-tensors": re.compile(r"\.weight_packed\Z"),
}

_DAMAGED: Final = "the file is damaged: copy or download it again"
_CONVERT: Final = (
    "convert the model to safetensors first (with transformers: from_pretrained, save_pretrained)"
)

_brief = reprlib.Repr()
_brief.maxstring = _brief.maxother = 120
show: Final[Callable[[object], str]] = _brief.repr
"""``repr`` on one line of bounded length, for text that strangers wrote."""


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """Where one tensor lies: ``n_bytes`` bytes of file ``path``, from absolute ``offset`` on."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    path: Path
    offset: int
    n_bytes: int

    @property
    def n_elements(self) -> int:
        """The product of the shape; 1 for a scalar."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class Checkpoint:
    """The tensors of a model on disk by name, in the order of the names' UTF-8 bytes.

    ``metadata`` joins the ``__metadata__`` of the files; where they differ, the first file's stays.

    ``Checkpoint.open("llama-3.2-1b").tensors["model.norm.weight"].shape`` is ``(2048,)``.
    """

    path: Path
    tensors: dict[str, TensorInfo]
    files: tuple[Path, ...]
    metadata: dict[str, str]

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> Checkpoint:
        """Read the headers of a ``.safetensors`` file, or of a directory with one or with an index.

        Raises ``InputError`` for anything but a complete, well-formed checkpoint, ``StorageError``
        where the system cannot read it.
        """
        root = Path(path)
        shards: Mapping[Path, set[str] | None]
        if os.path.isdir(path):
            shards = _find_shards(root)
        elif os.path.isfile(path):
            _refuse_other_file(root)
            shards = {root: None}
        else:
            _refuse_absent(os.fspath(path))
        tensors, metadata = _read_shards(shards)
        # Code points sort as their UTF-8 bytes do: no need to encode the names.
        return cls(root, dict(sorted(tensors.items())), tuple(sorted(shards)), metadata)

    @property
    def n_bytes(self) -> int:
        """Bytes of tensor data, headers not counted."""
        return sum(tensor.n_bytes for tensor in self.tensors.values())

    def config(self) -> dict[str, Any]:
        """config.json of a directory; empty without one, and for a single file."""
        path = self.path / "config.json"
        return _json_object(_read_text(path), str(path)) if os.path.isfile(path) else {}

    def auxiliary_files(self) -> list[Path]:
        """Relative paths of the files to copy byte for byte: configuration, tokenizer and the like.

        Everything below the directory but weights of any format, their indexes, ``tallies.json``
        and what is hidden; nothing for a single file. Links to files count as files (hub caches
        consist of them), links to directories are not followed, a link to nothing raises
        ``InputError``.
        """
        if not os.path.isdir(self.path):
            return []
        files: list[Path] = []
        for parent, directories, names in os.walk(self.path, onerror=_refuse_unreadable):
            directories[:] = [name for name in directories if not name.startswith(".")]
            files += [Path(parent, name) for name in names if _is_auxiliary(name)]
        for path in files:
            if not os.path.exists(path):
                raise InputError(f"{path}: is a link to nothing; restore the file or remove it")
        return sorted(path.relative_to(self.path) for path in files if os.path.isfile(path))


def read_header(path: Path) -> tuple[list[TensorInfo], dict[str, str]]:
    """The tensors of one safetensors file, in the order of its header, and its ``__metadata__``.

    Accepts what the stock library accepts, less what that resolves in silence (duplicate or unknown
    keys, entries that are no objects); raises ``InputError`` for all else.
    """
    text, data_begin, file_size = _read_header_text(path)
    entries = _json_object(text, f"{path}: header", unique_keys=True)
    metadata = entries.pop("__metadata__", {})
    if not _is_texts(metadata):
        raise InputError(
            f"{path}: header: __metadata__ is {show(metadata)}, expected an object of strings; "
            f"{_DAMAGED}"
        )
    tensors = []
    for name, entry in entries.items():
        try:
            name.encode()  # "\ud800" is JSON, but not text
            dtype, shape, begin, end = _parse_entry(entry)
        except ValueError as error:
            raise InputError(f"{path}: tensor {show(name)}: {error}") from None
        tensors.append(TensorInfo(name, dtype, shape, path, data_begin + begin, end - begin))
    data_end = _tile(path, tensors, data_begin)
    if file_size < data_end:
        raise InputError(
            f"{path}: truncated: has {file_size} bytes, the header needs {data_end}; {_DAMAGED}"
        )
    if file_size > data_end:
        raise InputError(
            f"{path}: has {file_size} bytes, but the last tensor ends at {data_end}; {_DAMAGED}"
        )
    return tensors, metadata


def refuse_scaled_fp8(checkpoint: Checkpoint) -> None:
    """Raise ``InputError`` if a float8 tensor has a scale, in any shard, or by config.json.

    Float8 tensors whose values stand for themselves pass.
    """
    configured = _quantisation(checkpoint.config())
    for name, tensor in checkpoint.tensors.items():
        if tensor.dtype in ("F8_E4M3", "F8_E5M2"):
            scale = _scale_of(name, checkpoint.tensors)
            found = f"scale tensor {show(scale)}" if scale else configured
            if found:
                raise InputError(
                    f"{tensor.path}: tensor {show(name)} is {tensor.dtype} with a {found}; scaled "
                    "float8 is not supported; dequantise the checkpoint to BF16 first"
                )


def refuse_quantised(checkpoint: Checkpoint) -> None:
    """Raise ``InputError`` if the weights are quantised (bitsandbytes, GPTQ, AWQ, MXFP4 ...).

    Told by config.json and by the names and dtypes these tools give their tensors.
    """
    way_out = "quantised weights cannot be merged; merge the original (bf16, fp16, fp32) checkpoint"
    if configured := _quantisation(checkpoint.config()):
        raise InputError(
            f"{checkpoint.path / 'config.json'}: has a {configured}; {way_out}, or remove the key "
            "if the weights are no longer quantised"
        )
    for name, tensor in checkpoint.tensors.items():
        for tool, pattern in _QUANTISED.items():
            if pattern.search(name):
                raise InputError(
                    f"{tensor.path}: tensor {show(name)} was written by {tool}; {way_out}"
                )
        if tensor.dtype in ("I8", "U8") and (scale := _scale_of(name, checkpoint.tensors)):
            raise InputError(
                f"{tensor.path}: tensor {show(name)} is {tensor.dtype} with the scale tensor "
                f"{show(scale)}; {way_out}"
            )


def tied_pairs(checkpoint: Checkpoint) -> list[tuple[str, str]]:
    """Pairs (alias, canonical) of an output head and the input embedding it may share.

    Both are stored, agree in shape and dtype, and config.json, or its text model's part, says
    ``tie_word_embeddings``. Headers cannot show whether the bits are equal: compare them.
    """
    config = checkpoint.config()
    parts = (config, *(config.get(key) for key in ("text_config", "llm_config")))
    if not any(_is_object(part) and part.get("tie_word_embeddings") is True for part in parts):
        return []
    tensors = checkpoint.tensors
    embeddings = [name for name in tensors if _EMBEDDING.search(name)]
    pairs = []
    for head in filter(_HEAD.search, tensors):
        shape, dtype = tensors[head].shape, tensors[head].dtype
        fitting = [
            name
            for name in embeddings
            if tensors[name].shape == shape and tensors[name].dtype == dtype
        ]
        if fitting:
            # Several: the nearest in the module tree (one model of many), else T5's "shared".
            rank = {name: (_kinship(name, head), "shared" in name) for name in fitting}
            pairs.append((head, max(fitting, key=rank.__getitem__)))
    return pairs


def _find_shards(root: Path) -> Mapping[Path, set[str] | None]:
    """The weight files of a directory, and the names its index places in each (None: no index)."""
    names = _visible_files(root)
    if any(name in names for name in _ADAPTER_FILES):
        _refuse_adapter(root)
    weights = [name for name in names if name.endswith(".safetensors")]
    indexes = [name for name in names if name.endswith(".safetensors.index.json")]
    if len(indexes) > 1:
        raise InputError(
            f"{root}: holds {len(indexes)} indexes ({_some(indexes)}), expected one; "
            "move the other variants elsewhere"
        )
    if indexes:
        shards = _read_index(root / indexes[0])
        if "model.safetensors" in weights and root / "model.safetensors" not in shards:
            raise InputError(
                f"{root}: holds model.safetensors and {indexes[0]}, which does not name it; "
                "remove whichever is stale"
            )
        return shards
    if not weights:
        _refuse_no_weights(root, names)
    if len(weights) > 1:
        _refuse_no_index(root, weights)
    part = _PART.search(weights[0])
    if part and part[2] != "1":
        raise InputError(
            f"{root}: holds {weights[0]}, part {part[1]} of {part[2]}, and no index; "
            "download the rest of the model"
        )
    return {root / weights[0]: None}


def _read_index(index: Path) -> Mapping[Path, set[str]]:
    """The files of a ``weight_map``, all inside its directory, and the names it places in each."""
    content = _json_object(_read_text(index), str(index), unique_keys=True)
    weight_map = content.get("weight_map")
    if not _is_texts(weight_map) or not weight_map:
        raise InputError(
            f"{index}: weight_map is {show(weight_map)}, expected an object of file names; "
            f"{_DAMAGED}"
        )
    shards: dict[Path, set[str]] = {}
    by_file: dict[str, set[str]] = {}
    for name, file in weight_map.items():
        by_file.setdefault(file, set()).add(name)
    for file, names in by_file.items():
        _check_inside(index, file, min(names))
        shards.setdefault(index.parent / file, set()).update(names)
    if absent := [path.name for path in shards if not os.path.isfile(path)]:
        raise InputError(
            f"{index}: names {len(shards)} files, of which {len(absent)} are absent "
            f"({_some(absent)}); download the rest of the model"
        )
    return dict(sorted(shards.items()))


def _check_inside(index: Path, file: str, tensor: str) -> None:
    """Refuse a file of an index that is not a ``.safetensors`` file below its directory.

    The file itself may be a link, as in a hub cache; a directory on the way may not lead outside.
    """
    # Windows' reading of a path sees every separator, drive and root that any system may see.
    parts = PureWindowsPath(file)
    plain = file.isprintable() and not parts.anchor and ".." not in parts.parts
    if plain and file.endswith(".safetensors"):
        parent = os.path.realpath((index.parent / file).parent)
        if Path(parent).is_relative_to(os.path.realpath(index.parent)):
            return
    raise InputError(
        f"{index}: places tensor {show(tensor)} in {show(file)}, expected a .safetensors file "
        "inside the directory of the index; download the index again"
    )


def _read_shards(
    shards: Mapping[Path, set[str] | None],
) -> tuple[dict[str, TensorInfo], dict[str, str]]:
    """Read all headers; each file must hold exactly the names that the index places in it."""
    tensors: dict[str, TensorInfo] = {}
    metadata: dict[str, str] = {}
    strays: list[TensorInfo] = []
    for path, names in shards.items():
        found, texts = read_header(path)
        metadata = texts | metadata
        here = {tensor.name: tensor for tensor in found if names is None or tensor.name in names}
        strays += [tensor for tensor in found if tensor.name not in here]
        if names and (absent := sorted(names - here.keys())):
            raise InputError(
                f"{path}: holds {len(here)} of the {len(names)} tensors that the index places in "
                f"it, not {_some(absent)}; download this file and the index again"
            )
        tensors |= here
    for tensor in strays:
        home = tensors.get(tensor.name)
        raise InputError(
            f"{tensor.path}: holds tensor {show(tensor.name)}, which the index "
            + (f"places in {home.path.name}" if home else "does not name")
            + f" ({len(strays)} such); download this file and the index again"
        )
    return tensors, metadata


def _read_header_text(path: Path) -> tuple[bytes, int, int]:
    """The JSON of a header, the offset at which the data begin, and the size of the file."""
    try:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size < 8:
                raise InputError(
                    f"{path}: truncated: has {size} bytes, the length of the header alone takes 8; "
                    f"{_DAMAGED}"
                )
            n_header = int.from_bytes(file.read(8), "little")
            if n_header > MAX_HEADER_BYTES:
                raise InputError(
                    f"{path}: header of {n_header} bytes, expected at most {MAX_HEADER_BYTES}; "
                    "not a safetensors file"
                )
            if n_header > size - 8:
                raise InputError(
                    f"{path}: truncated: has {size} bytes, the header alone takes {8 + n_header}; "
                    f"{_DAMAGED}"
                )
            text = file.read(n_header)
    except OSError as error:
        _refuse_unreadable(error, path)
    if len(text) < n_header:
        raise StorageError(f"{path}: shrank while it was read; wait for its writer, then run again")
    return text, 8 + n_header, size


def _read_text(path: Path) -> bytes:
    try:
        with open(path, "rb") as file:
            text = file.read(MAX_HEADER_BYTES + 1)
    except OSError as error:
        _refuse_unreadable(error, path)
    if len(text) > MAX_HEADER_BYTES:
        raise InputError(f"{path}: expected JSON of at most {MAX_HEADER_BYTES} bytes; {_DAMAGED}")
    return text


def _json_object(text: bytes, where: str, *, unique_keys: bool = False) -> dict[str, Any]:
    hook = _unique if unique_keys else None
    try:
        value: object = json.loads(text.decode(), object_pairs_hook=hook, parse_int=_integer)
    except UnicodeDecodeError as error:
        raise InputError(f"{where}: not UTF-8 from byte {error.start} on; {_DAMAGED}") from None
    except RecursionError:
        raise InputError(f"{where}: JSON nested beyond all sense; {_DAMAGED}") from None
    except ValueError as error:
        raise InputError(f"{where}: not valid JSON: {error}; {_DAMAGED}") from None
    if not _is_object(value):
        raise InputError(f"{where}: found {show(value)}, expected a JSON object; {_DAMAGED}")
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object; a key given twice has no meaning that all readers share."""
    unique = dict(pairs)
    if len(unique) < len(pairs):
        ((key, _),) = Counter(key for key, _ in pairs).most_common(1)
        raise ValueError(f"the key {show(key)} appears twice")
    return unique


def _integer(digits: str) -> int | float:
    """As in the stock library's parser, ``-0`` and integers beyond its range are no integers."""
    return int(digits) if len(digits) <= _MAX_DIGITS and digits != "-0" else float(digits)


def _parse_entry(entry: object) -> tuple[str, tuple[int, ...], int, int]:
    """dtype, shape, begin and end of a tensor; ``ValueError`` tells what was found and expected."""
    if not isinstance(entry, dict) or entry.keys() != _ENTRY_KEYS:
        raise ValueError(
            f"found {show(entry)}, expected an object of dtype, shape and data_offsets; {_DAMAGED}"
        )
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPES:
        wrong = "not supported" if dtype in _OTHER_DTYPES else "unknown"
        raise ValueError(f"dtype {show(dtype)} is {wrong}, expected one of {', '.join(DTYPES)}")
    if not _is_sizes(shape):
        raise ValueError(f"shape {show(shape)}, expected non-negative integers; {_DAMAGED}")
    if not _is_sizes(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise ValueError(
            f"data_offsets {show(offsets)}, expected [begin, end], 0 <= begin <= end; {_DAMAGED}"
        )
    n_bytes = DTYPES[dtype]
    for size in shape:
        n_bytes *= size
        if n_bytes > _MAX_TENSOR_BYTES:  # stop here: the product of a hostile shape has no end
            raise ValueError(f"shape {show(shape)} is beyond 2**63 bytes; {_DAMAGED}")
    begin, end = offsets
    if end - begin != n_bytes:
        raise ValueError(
            f"data_offsets {show(offsets)} span {end - begin} bytes, expected {n_bytes} for "
            f"{dtype} of shape {show(shape)}; {_DAMAGED}"
        )
    return dtype, tuple(shape), begin, end


def _tile(path: Path, tensors: Iterable[TensorInfo], data_begin: int) -> int:
    """Where the data end, if the tensors lie end to end: no holes, no overlaps."""
    end = data_begin
    for tensor in sorted(tensors, key=lambda tensor: (tensor.offset, tensor.n_bytes)):
        if tensor.offset != end:
            wrong = "overlaps the one before" if tensor.offset < end else "leaves a hole before it"
            raise InputError(
                f"{path}: tensor {show(tensor.name)} begins at data byte "
                f"{tensor.offset - data_begin}, expected {end - data_begin}: it {wrong}; {_DAMAGED}"
            )
        end += tensor.n_bytes
    return end


def _is_object(value: object) -> TypeGuard[dict[str, Any]]:
    return isinstance(value, dict)


def _is_texts(value: object) -> TypeGuard[dict[str, str]]:
    """Whether a JSON value is an object of strings, all of them encodable."""
    if not isinstance(value, dict) or not all(isinstance(text, str) for text in value.values()):
        return False
    try:
        "".join((*value, *value.values())).encode()
    except UnicodeEncodeError:
        return False
    return True


def _is_sizes(value: object) -> TypeGuard[list[int]]:
    return isinstance(value, list) and all(type(size) is int and size >= 0 for size in value)


def _is_auxiliary(name: str) -> bool:
    return not (_WEIGHTS.search(name) or name.startswith(".") or name == "tallies.json")


def _quantisation(config: Mapping[str, Any]) -> str | None:
    """The key by which config.json, or the part of a sub-model, declares quantised weights."""
    for part in (config, *filter(_is_object, config.values())):
        for key in ("quantization_config", "compression_config"):
            if found := part.get(key):
                method = found.get("quant_method") if _is_object(found) else found
                return f"{key} ({show(method)})"
    return None


def _scale_of(name: str, tensors: Mapping[str, TensorInfo]) -> str | None:
    """The scale of a tensor, as DeepSeek, vLLM, ModelOpt, ComfyUI and MXFP4 name it."""
    names = [name + suffix for suffix in ("_scale", "_scale_inv")]
    names.append(name.removesuffix("_blocks") + "_scales")
    if name.endswith(".weight"):
        module = name.removesuffix("weight")
        names += [module + suffix for suffix in ("scale", "scale_weight", "input_scale")]
    return next((scale for scale in names if scale in tensors), None)


def _kinship(a: str, b: str) -> int:
    """How many leading components two dotted names share."""
    pairs = zip(a.split("."), b.split("."), strict=False)
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))


def _visible_files(root: Path) -> list[str]:
    """Names of the files in a directory, links to nothing included: those must not pass unseen."""
    try:
        with os.scandir(root) as entries:
            return sorted(
                entry.name
                for entry in entries
                if not entry.name.startswith(".")
                and (entry.is_file() or not os.path.exists(entry.path))
            )
    except OSError as error:
        _refuse_unreadable(error, root)


def _some(names: Sequence[str]) -> str:
    """The first names of a list, for a message."""
    return ", ".join(map(show, names[:3])) + (", ..." if len(names) > 3 else "")


def _refuse_unreadable(error: OSError, path: Path | None = None) -> NoReturn:
    file = path or error.filename
    if isinstance(error, FileNotFoundError):
        raise InputError(f"{file}: no such file; copy or download it again") from None
    raise StorageError(f"{file}: cannot be read: {error.strerror}") from None


def _refuse_absent(path: str) -> NoReturn:
    if not path or os.path.exists(path):
        raise InputError(f"{path!r}: expected a directory or a .safetensors file")
    if "+" in path:
        raise InputError(
            f"{path}: no such file or directory; a model with an adapter (model+adapter) is not "
            "supported: merge the adapter into its model first (PEFT: merge_and_unload)"
        )
    raise InputError(
        f"{path}: no such file or directory; expected a directory or a .safetensors file (download "
        "models of a hub first)"
    )


def _refuse_adapter(path: Path) -> NoReturn:
    raise InputError(
        f"{path}: is an adapter, expected a model; merge it into its base model first "
        "(PEFT: merge_and_unload)"
    )


def _refuse_other_file(path: Path) -> None:
    if path.name in _ADAPTER_FILES:
        _refuse_adapter(path)
    if path.name.endswith(".index.json"):
        raise InputError(f"{path}: is an index; give the directory that holds it")
    if path.suffix != ".safetensors":
        raise InputError(f"{path}: expected a .safetensors file or a directory; {_CONVERT}")


def _refuse_no_weights(root: Path, names: Iterable[str]) -> NoReturn:
    others = list(filter(_WEIGHTS.search, names))
    if others:
        raise InputError(f"{root}: holds no .safetensors file, only {_some(others)}; {_CONVERT}")
    below = sorted(path.parent.name for path in root.glob("*/*.safetensors"))
    if below:
        raise InputError(
            f"{root}: holds no .safetensors file itself; give one of its sub-directories "
            f"({_some(list(dict.fromkeys(below)))})"
        )
    raise InputError(f"{root}: holds no .safetensors file; give the directory of a model")


def _refuse_no_index(root: Path, weights: Sequence[str]) -> NoReturn:
    homes: dict[str, str] = {}
    twice = ""
    for file in weights:
        for tensor in read_header(root / file)[0]:
            home = homes.setdefault(tensor.name, file)
            if home != file and not twice:
                twice = f"; tensor {show(tensor.name)} is in {show(home)} and in {show(file)}"
    raise InputError(
        f"{root}: holds {len(weights)} .safetensors files ({_some(weights)}) and no index{twice}; "
        "give the one file that is meant, or download model.safetensors.index.json"
    )
