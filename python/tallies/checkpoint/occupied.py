"""Objections to the place of a result: --overwrite replaces an earlier result and nothing else.

A merge and an unpacking leave ``tallies.json``, a packing ``store.json``, a patch ``patch.json``,
and a sweep ``sweep.json``; all name the files that were written.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from ..errors import InputError
from ..messages import some
from .json_text import is_object, json_object, read_text
from .metadata import RECIPE
from .parts import Part
from .safetensors import read_header
from .weight_names import SAFETENSORS, parse_name

REPORT_NAME: Final = "tallies.json"
"""The report on a merge or an unpacking, beside its result."""

SWEEP_NAME: Final = "sweep.json"
"""The report on a sweep, beside the directories of its candidates."""

STORE_NAME: Final = "store.json"
"""The description of a store."""

PATCH_NAME: Final = "patch.json"
"""The description of a patch, and in the header of one that is one file ``PATCH``."""

PATCH: Final = "tallies.patch"

PATCH_FILES: Final = "files"
"""The folder of the new small files in a patch, and beside it that of the old ones."""

PATCH_OLD_FILES: Final = "old-files"

_ADDING: Final = ".adding"
_OF_A_STORE: Final = (
    *(STORE_NAME, f".{STORE_NAME}.new", ".lock"),
    *(f"{_ADDING}/", f".{_ADDING}.tallies-partial/"),
)
"""Files of every store, and what is left of an addition that was killed."""


def objection_to_directory(path: Path, overwrite: bool) -> str | None:
    """Say why a result may not become the directory ``path``; None where it may.

    Args:
        path: The place of the result.
        overwrite: Allow an earlier result in that place.
    """
    try:
        full = os.path.lexists(path) and os.listdir(path)
        if full and not overwrite:
            return "is not empty; pass --overwrite to replace it"
        found = strangers(path) if full else []
    except NotADirectoryError:
        return "is a file, expected a directory to create"
    except OSError as error:
        return f"cannot be listed: {error.strerror or error}; choose another"
    if not found:
        return None
    return (
        f"holds {some(found)}, which tallies did not write ({len(found)} such), and --overwrite "
        "replaces only what it wrote; choose another, or remove it yourself"
    )


def objection_to_file(path: Path, overwrite: bool) -> str | None:
    """Say why a result may not become the file ``path``; None where it may."""
    if os.path.isdir(path):
        return (
            f"is a directory, expected a file to create; name a file, or a directory whose name "
            f"does not end in {SAFETENSORS}"
        )
    if not os.path.lexists(path):
        return None
    if not overwrite:
        return "exists; pass --overwrite to replace it"
    way_out = "--overwrite replaces nothing else; choose another, or remove it yourself"
    try:
        _, metadata = read_header(path)
    except InputError:
        return f"is no safetensors file, and {way_out}"
    if RECIPE not in metadata and PATCH not in metadata:
        return f"is a safetensors file that tallies did not write, and {way_out}"
    return None


def strangers(directory: Path) -> list[str]:
    """List what lies in a directory and is no file of an earlier result there, by relative path.

    A directory in which nothing is such a file is named itself. A link is a stranger, as no result
    has any; and so is a tensor file of another size than was written.

    Raises:
        OSError: A directory cannot be listed.
    """
    return list(_strangers(directory, "", _recorded(directory)))


def _strangers(root: Path, below: str, own: Mapping[str, int | None]) -> Iterator[str]:
    with os.scandir(root / below) as scanned:
        entries = sorted(scanned, key=lambda entry: entry.name)
    for entry in entries:
        path = below + entry.name
        if entry.is_dir(follow_symlinks=False):
            if f"{path}/" in own:
                continue
            if any(name.startswith(f"{path}/") for name in own):
                yield from _strangers(root, f"{path}/", own)
            else:
                yield f"{path}/"
        elif path not in own or not entry.is_file(follow_symlinks=False):
            yield path
        elif own[path] not in (None, entry.stat().st_size):
            yield f"{path} (of another size than was written)"


def _recorded(directory: Path) -> dict[str, int | None]:
    """Return the files that the records in a directory name, with their sizes where they say so."""
    own = _of_a_result(_record(directory / REPORT_NAME))
    own |= _of_a_result(_record(directory / SWEEP_NAME))
    own |= _of_a_patch(_record(directory / PATCH_NAME))
    for store in (directory, directory / _ADDING):
        own |= _of_a_store(_record(store / STORE_NAME))
    return own


def _record(path: Path) -> dict[str, Any]:
    """Return the content of a record that this package wrote; an empty one for anything else."""
    try:
        record = json_object(read_text(path), str(path)) if path.is_file() else {}
    except InputError:
        return {}
    return record if "tallies" in record else {}


def _of_a_result(report: Mapping[str, Any]) -> dict[str, int | None]:
    if not report:
        return {}
    output = report.get("output", report)
    files = output.get("files") if is_object(output) else None
    if not is_object(files):
        return {}
    own: dict[str, int | None] = {REPORT_NAME: None}
    for name, size in files.items():
        own[name] = size if type(size) is int else None
        own[_index_of(name)] = None
    own |= {str(name): None for name in report.get("auxiliary_files") or ()}
    own |= {str(name): None for name in output.get("other_files") or ()}
    return own


def _index_of(name: str) -> str:
    """Return the path of the index of a tensor file, were the file one of several."""
    folder, _, file = name.rpartition("/")
    parsed = parse_name(file)
    if parsed is None:
        return REPORT_NAME
    return Part(folder, parsed.stem, parsed.variant, (), {}).index_name


def _of_a_store(store: Mapping[str, Any]) -> dict[str, int | None]:
    checksums, small = store.get("checksums"), store.get("small_files")
    if not is_object(checksums):
        return {}
    names = [*_OF_A_STORE, *checksums]
    for task, files in small.items() if is_object(small) else ():
        names += [f"files/{task}/{name}" for name in files]
    return dict.fromkeys(names)


def _of_a_patch(patch: Mapping[str, Any]) -> dict[str, int | None]:
    stored, small = patch.get("stored"), patch.get("small_files")
    if not is_object(stored) or not is_object(small):
        return {}
    names = [PATCH_NAME, *(str(one.get("file")) for one in stored.values() if is_object(one))]
    names += [f"{folder}/{name}" for folder in (PATCH_FILES, PATCH_OLD_FILES) for name in small]
    return dict.fromkeys(names)
