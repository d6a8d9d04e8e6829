"""Find the weight files of a model, one or those that an index names, and refuse all others."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PureWindowsPath
from typing import Final, NoReturn

from ..errors import InputError
from ..messages import counted, either, show, some
from .formats import FORMATS, SUFFIXES, Format, format_of
from .json_text import DAMAGED, is_texts, json_object, read_text, refuse_unreadable
from .parts import Part
from .tensors import TensorInfo
from .weight_names import WeightName, parse_name

_ADAPTER_FILES: Final = ("adapter_config.json", "adapter_model.safetensors", "adapter_model.bin")

_NOT_READ: Final = (
    *(".ckpt", ".gguf", ".h5", ".msgpack", ".onnx", ".onnx_data", ".ot", ".npz", ".pkl"),
)
"""Ends of the names of weights in formats that are not read."""

_WEIGHTS: Final = re.compile(
    rf"(?:{'|'.join(map(re.escape, (*SUFFIXES, *_NOT_READ)))})"
    r"(?:\.index(?:\.[\w-]+)?\.json)?\Z",
    re.IGNORECASE,
)
"""Names of weights of any format, and of their indexes."""

_FILE: Final = f"file named {either(SUFFIXES)}"
_WEIGHT_FILE: Final = f"file of weights named {either(SUFFIXES)}"

_PART: Final = re.compile(r"-0*(\d+)-of-0*(\d+)\.\w+\Z")

_CONVERT: Final = (
    "convert the model to safetensors first (with transformers: from_pretrained, save_pretrained)"
)


@dataclass(frozen=True)
class Shards:
    """The weight files of one directory, and the names that an index places in each.

    Without an index the names are None: a file holds what it holds.
    """

    named: WeightName
    """The index, or the one file."""
    names: Mapping[Path, set[str] | None]

    def read(self, folder: str = "") -> tuple[Part, dict[str, TensorInfo]]:
        """Read the headers of all files; tensors of a folder are named ``FOLDER/NAME``."""
        tensors, metadata = read_shards(self.names)
        stem, variant = self.named.saved_stem, self.named.variant
        part = Part(folder, stem, variant, tuple(sorted(self.names)), metadata)
        if folder:
            renamed = (replace(one, name=f"{folder}/{one.name}") for one in tensors.values())
            tensors = {one.name: one for one in renamed}
        return part, tensors


def one_file(path: Path) -> Shards:
    """Return a weight file that is a model by itself; InputError for one of no format read."""
    refuse_other_file(path)
    return Shards(_parsed(path.name), {path: None})


def _parsed(name: str) -> WeightName:
    found = parse_name(name)
    assert found is not None, name
    return found


def find_shards(root: Path) -> Shards:
    """Find the weight files of a directory.

    In a directory with files of two formats, safetensors win, as in transformers; a format with a
    file or an index of the usual name wins over one without.
    """
    names = _visible_files(root)
    if any(name in names for name in _ADAPTER_FILES):
        _refuse_adapter(root)
    found = [form for form in FORMATS if any(map(form.is_of_a_model, names))]
    if not found:
        _refuse_no_weights(root, names)
    usual = [form for form in found if any(map(form.is_usual, names))]
    return _find_shards_of(root, (usual or found)[0], names)


def _find_shards_of(root: Path, form: Format, names: Sequence[str]) -> Shards:
    """Find the weight files of one format."""
    weights = [name for name in names if form.has_weights(name)]
    indexes = [name for name in names if form.is_index(name)]
    if len(indexes) > 1:
        raise InputError(
            f"{root}: holds {len(indexes)} indexes ({some(indexes)}), expected one; "
            "move the other variants elsewhere"
        )
    if indexes:
        shards = _read_index(root / indexes[0], form)
        if form.usual_name in weights and root / form.usual_name not in shards:
            raise InputError(
                f"{root}: holds {form.usual_name} and {indexes[0]}, which does not name it; "
                "remove whichever is stale"
            )
        return Shards(_parsed(indexes[0]), shards)
    if form.others_are_strangers and form.usual_name in weights:
        weights = [form.usual_name]
    if len(weights) > 1:
        _refuse_no_index(root, form, weights)
    part = _PART.search(weights[0])
    if part and part[2] != "1":
        raise InputError(
            f"{root}: holds {weights[0]}, part {part[1]} of {part[2]}, and no index; "
            "download the rest of the model"
        )
    return Shards(_parsed(weights[0]), {root / weights[0]: None})


def _read_index(index: Path, form: Format) -> Mapping[Path, set[str]]:
    """Read the files of a ``weight_map``, all in its directory, and the names that each holds."""
    content = json_object(read_text(index), str(index), unique_keys=True)
    weight_map = content.get("weight_map")
    if not is_texts(weight_map) or not weight_map:
        raise InputError(
            f"{index}: weight_map is {show(weight_map)}, expected an object of file names; "
            f"{DAMAGED}"
        )
    shards: dict[Path, set[str]] = {}
    by_file: dict[str, set[str]] = {}
    for name, file in weight_map.items():
        by_file.setdefault(file, set()).add(name)
    for file, names in by_file.items():
        _check_inside(index, form, file, min(names))
        shards.setdefault(index.parent / file, set()).update(names)
    if absent := [path.name for path in shards if not os.path.isfile(path)]:
        raise InputError(
            f"{index}: names {counted(len(shards), 'file')}, of which {len(absent)} "
            f"{'is' if len(absent) == 1 else 'are'} absent ({some(absent)}); download the rest of "
            "the model"
        )
    return dict(sorted(shards.items()))


def _check_inside(index: Path, form: Format, file: str, tensor: str) -> None:
    """Refuse a file of an index that is not a file of its format below its directory.

    The file itself may be a link, as in a hub cache; a directory on the way may not lead outside.
    """
    # Windows' reading of a path sees every separator, drive and root that any system may see.
    parts = PureWindowsPath(file)
    plain = file.isprintable() and not parts.anchor and ".." not in parts.parts
    if plain and file.endswith(form.suffixes):
        parent = os.path.realpath((index.parent / file).parent)
        if Path(parent).is_relative_to(os.path.realpath(index.parent)):
            return
    raise InputError(
        f"{index}: places tensor {show(tensor)} in {show(file)}, expected a file named "
        f"{either(form.suffixes)} inside the directory of the index; download the index again"
    )


def read_shards(
    shards: Mapping[Path, set[str] | None],
) -> tuple[dict[str, TensorInfo], dict[str, str]]:
    """Read all headers; each file must hold exactly the names that the index places in it."""
    tensors: dict[str, TensorInfo] = {}
    metadata: dict[str, str] = {}
    strays: list[TensorInfo] = []
    for path, names in shards.items():
        found, texts = format_of(path).read(path)
        metadata = texts | metadata
        here = {tensor.name: tensor for tensor in found if names is None or tensor.name in names}
        strays += [tensor for tensor in found if tensor.name not in here]
        if names and (absent := sorted(names - here.keys())):
            raise InputError(
                f"{path}: holds {len(here)} of the {len(names)} tensors that the index places in "
                f"it, not {some(absent)}; download this file and the index again"
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


def is_auxiliary(name: str) -> bool:
    """Return whether a file beside the weights, by its name, is copied along with them."""
    return not (_WEIGHTS.search(name) or name.startswith(".") or name == "tallies.json")


def _visible_files(root: Path) -> list[str]:
    """List the files in a directory, links to nothing included: those must not pass unseen."""
    try:
        with os.scandir(root) as entries:
            return sorted(
                entry.name
                for entry in entries
                if not entry.name.startswith(".")
                and (entry.is_file() or not os.path.exists(entry.path))
            )
    except OSError as error:
        refuse_unreadable(error, root)


def refuse_absent(path: str) -> NoReturn:
    """Raise InputError for a path that is neither file nor directory."""
    if not path or os.path.exists(path):
        raise InputError(f"{path!r}: expected a directory, or a {_FILE}")
    if "+" in path:
        raise InputError(
            f"{path}: no such file or directory; a model with an adapter (model+adapter) is not "
            "supported: merge the adapter into its model first (PEFT: merge_and_unload)"
        )
    raise InputError(
        f"{path}: no such file or directory; expected a directory, or a {_FILE} (download models "
        "of a hub first)"
    )


def _refuse_adapter(path: Path) -> NoReturn:
    raise InputError(
        f"{path}: is an adapter, expected a model; merge it into its base model first "
        "(PEFT: merge_and_unload)"
    )


def refuse_other_file(path: Path) -> None:
    """Raise InputError for a file of no format that is read."""
    if path.name in _ADAPTER_FILES:
        _refuse_adapter(path)
    if path.name.endswith(".index.json"):
        raise InputError(f"{path}: is an index; give the directory that holds it")
    if path.suffix not in SUFFIXES:
        raise InputError(f"{path}: expected a directory, or a {_FILE}; {_CONVERT}")


def _refuse_no_weights(root: Path, names: Iterable[str]) -> NoReturn:
    others = list(filter(_WEIGHTS.search, names))
    if others:
        raise InputError(f"{root}: holds no {_WEIGHT_FILE}, only {some(others)}; {_CONVERT}")
    below = sorted(path.parent.name for path in root.glob("*/*") if path.suffix in SUFFIXES)
    if below:
        raise InputError(
            f"{root}: holds no {_WEIGHT_FILE} itself; give one of its sub-directories "
            f"({some(list(dict.fromkeys(below)))})"
        )
    raise InputError(f"{root}: holds no {_WEIGHT_FILE}; give the directory of a model")


def _refuse_no_index(root: Path, form: Format, weights: Sequence[str]) -> NoReturn:
    homes: dict[str, str] = {}
    twice = ""
    for file in weights:
        for tensor in form.read(root / file)[0]:
            home = homes.setdefault(tensor.name, file)
            if home != file and not twice:
                twice = f"; tensor {show(tensor.name)} is in {show(home)} and in {show(file)}"
    raise InputError(
        f"{root}: holds {len(weights)} files named {either(form.suffixes)} ({some(weights)}) and "
        f"no index{twice}; give the one file that is meant, or download "
        f"{form.usual_name}.index.json"
    )
