"""Read the weights of one directory, or one file: which files hold them, and their headers."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path, PureWindowsPath

from ..errors import InputError
from ..messages import counted, either, show, some
from .builds import builds, choose
from .causes import refuse_other_file
from .formats import Format, format_of
from .json_text import (
    DAMAGED,
    is_texts,
    json_object,
    read_text,
    refuse_crowded,
    refuse_unreadable,
)
from .parts import Part
from .tensors import TensorInfo
from .weight_names import WeightName, parse_name


@dataclass(frozen=True)
class Shards:
    """The weight files of one directory, and the names that an index places in each.

    Without an index the names are None: a file holds what it holds.
    """

    head: WeightName
    """The index, the one file, or the first of the files."""
    names: Mapping[Path, set[str] | None]

    def read(self, folder: str = "") -> tuple[Part, dict[str, TensorInfo]]:
        """Read the headers of all files; tensors of a folder are named ``FOLDER/NAME``."""
        tensors, metadata = _read(self.names)
        stem, variant = self.head.saved_stem, self.head.variant
        part = Part(folder, stem, variant, tuple(sorted(self.names)), metadata)
        if folder:
            renamed = (replace(one, name=f"{folder}/{one.name}") for one in tensors.values())
            tensors = {one.name: one for one in renamed}
        return part, tensors


def one_file(path: Path) -> Shards:
    """Return a weight file that is a model by itself; InputError for one of no format read."""
    refuse_other_file(path)
    name = parse_name(path.name)
    assert name is not None, path
    return Shards(name, {path: None})


def indexed_names(root: Path) -> set[str] | None:
    """Return the names of the tensors that the index of a directory places in files.

    Args:
        root: The directory.

    Returns:
        The names; None where no index says which weights are read.

    Raises:
        InputError: As of ``find_shards``.
    """
    found = find_shards(root)
    if found is None or None in found.names.values():
        return None
    return {name for names in found.names.values() for name in names or ()}


def find_shards(root: Path, variant: str = "") -> Shards | None:
    """Find the weight files of a directory; None where it has none.

    Args:
        root: The directory.
        variant: The variant to read where there are several, such as ``fp16``.

    Raises:
        InputError: The files are not complete, or leave several models to choose from.
    """
    found = builds(visible_files(root))
    if not found:
        return None

    @cache  # choosing takes the files of an index, reading the names in them
    def placed(name: WeightName, form: Format) -> dict[Path, set[str]]:
        return _placed(root / name.text, form)

    build = choose(root, found, variant, placed)
    if build.head.is_index:
        shards = placed(build.head, build.form)
        return Shards(build.head, _all_there(root / build.head.text, build.form, shards))
    files = build.shards or (build.head,)
    return Shards(build.head, {root / name.text: None for name in files})


def _all_there(
    index: Path, form: Format, shards: Mapping[Path, set[str]]
) -> Mapping[Path, set[str]]:
    """Return the files that an index names, in order; InputError where some are absent."""
    if absent := [path.name for path in shards if not os.path.isfile(path)]:
        others = [
            name
            for name in visible_files(index.parent)
            if form.has_weights(name) and index.parent / name not in shards
        ]
        way_out = "download the rest of the model"
        if len(absent) == len(shards) and others:
            way_out = f"it is the index of another build than {some(others)}: download it again"
        raise InputError(
            f"{index}: names {counted(len(shards), 'file')}, of which {len(absent)} "
            f"{'is' if len(absent) == 1 else 'are'} absent ({some(absent)}); {way_out}"
        )
    return dict(sorted(shards.items()))


def _placed(index: Path, form: Format) -> dict[Path, set[str]]:
    """Read the places of a ``weight_map``, all in its directory."""
    text = read_text(index)
    refuse_crowded(text, str(index))
    content = json_object(text, str(index), unique_keys=True)
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
    return shards


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


def _read(
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
        if names is None and (twice := sorted(here.keys() & tensors.keys())):
            raise InputError(
                f"{path}: holds tensor {show(twice[0])}, which {tensors[twice[0]].path.name} holds "
                "as well, and no index says which counts; download both files and the index again"
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


def visible_files(root: Path) -> list[str]:
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
