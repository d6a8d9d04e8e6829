"""Find the parts of a model: its directory's weights, and those of its sub-directories.

Sub-directories are parts where a file of the model says so: ``modules.json`` and
``router_config.json`` of sentence-transformers, ``model_index.json`` of diffusers.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Final

from ..errors import InputError
from ..messages import show
from .causes import refuse_no_weights
from .json_text import is_object, json_value, read_text
from .shards import Shards, find_shards, visible_files

_PIPELINES: Final = ("model_index.json", "modular_model_index.json")
_MODULES: Final = "modules.json"
_ROUTERS: Final = ("router_config.json", "config.json")

_MAX_FOLDERS: Final = 1000
"""A router may lead to routers; more folders than this are a circle or an attack."""


def find_parts(root: Path, folders: list[str], variant: str) -> dict[str, Shards]:
    """Find the weight files of a model's parts, by folder.

    In a pipeline the sub-directories are the model, and weights beside them are a copy of it.

    Args:
        root: The model's directory.
        folders: The sub-directories that the model declares.
        variant: The variant to read where there are several, such as ``fp16``.

    Raises:
        InputError: There are no weights, or those of a directory are not complete.
    """
    found = {}
    for folder in folders:
        shards = find_shards(root / folder, variant)
        if shards is not None:
            found[folder] = shards
    if found and any(os.path.isfile(root / name) for name in _PIPELINES):
        return found
    own = find_shards(root, variant)
    if own is not None:
        return {"": own, **found}
    if not found:
        refuse_no_weights(root, visible_files(root))
    return found


def declared_folders(root: Path) -> list[str]:
    """List the sub-directories that files of a model name as its modules or components.

    Returns:
        Paths below ``root`` of directories that are there, with slashes, each once.

    Raises:
        InputError: A file names a directory outside the model, or is damaged.
    """
    found: dict[str, None] = {}
    left = [""]
    while left:
        folder = left.pop(0)
        for source, name in _named(root, folder):
            inner = _inside(source, f"{folder}/{name}" if folder else name)
            if inner and inner not in found and os.path.isdir(root / inner):
                found[inner] = None
                left.append(inner)
        if len(found) > _MAX_FOLDERS:
            raise InputError(f"{root}: has more than {_MAX_FOLDERS} modules, expected fewer")
    return list(found)


def _named(root: Path, folder: str) -> Iterator[tuple[Path, str]]:
    """Yield the files of a directory that name sub-directories, with each name."""
    if not folder:
        for path, modules in _contents(root, (_MODULES,)):
            for module in modules if isinstance(modules, list) else ():
                if is_object(module) and isinstance(module.get("path"), str):
                    yield path, module["path"]
        for path, index in _contents(root, _PIPELINES):
            for name, component in index.items() if is_object(index) else ():
                if _is_component(name, component):
                    yield path, name
    # A router that is a module may have its structure in config.json; the model's own is another.
    for path, router in _contents(root / folder, _ROUTERS if folder else _ROUTERS[:1]):
        if is_object(router) and is_object(router.get("structure")):
            types = router.get("types")
            for name in types if is_object(types) else ():
                yield path, name


def _contents(directory: Path, names: Iterable[str]) -> Iterator[tuple[Path, object]]:
    """Yield those of these files of JSON that a directory has, with what they say."""
    for name in names:
        if os.path.isfile(path := directory / name):
            yield path, json_value(read_text(path), str(path))


def _is_component(name: str, value: object) -> bool:
    """Tell if an entry of a pipeline's index is a component: a library and a class."""
    is_pair = isinstance(value, list) and len(value) > 1 and isinstance(value[0], str)
    return is_pair and not name.startswith("_")


def _inside(source: Path, name: str) -> str:
    """Return a path below the model's directory in its plain form; nothing for the model's own."""
    windows = PureWindowsPath(name)
    if windows.anchor or ".." in windows.parts or not (name.isprintable() and "\\" not in name):
        raise InputError(
            f"{source}: names the directory {show(name)}, expected one inside the model; download "
            "the file again"
        )
    plain = PurePosixPath(name).as_posix()
    return "" if plain == "." else plain
