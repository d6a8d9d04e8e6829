"""Describes one tensor of a store: what each task has of it."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from typing import Any

from ..checkpoint.data import chunks
from ..checkpoint.tensors import TensorInfo
from ..errors import InputError
from ..messages import unknown_of_many
from ..store.families.family import refuse_other
from ..store.families.registry import family_of
from ..store.manifest import DENSE, SHARED, Manifest, open_files
from ..store.origins import root_of
from ..store.sharing import with_borrowed


def stored_tensor(path: str | os.PathLike[str], name: str) -> dict[str, Any]:
    """Describe how a store keeps a tensor of each of its tasks, as plain data.

    Nothing is read but headers and the masks of the tensor.

    Args:
        path: The store.
        name: The name of the tensor.

    Returns:
        ``path``, ``kind`` (``tensor``), ``name``, ``dtype`` and ``shape`` (those of the base, or
        None where it lacks the tensor), ``stored`` (the kind, as ``inspect_store`` has it),
        ``tied_to``, ``shared`` (entries for all tasks together), and ``tasks`` by name. A task has
        ``form`` (a dtype and shape of its own, or None), ``lacking`` (True where it does not have
        the tensor), ``candidates`` (while a choice is due; there are no entries then), ``entries``,
        their ``n_bytes``, and ``mask_share``: the share of the elements that its mask has, or None
        without a mask. An entry has ``dtype``, ``shape``, ``n_bytes``, ``file`` and ``offset``.

    Raises:
        InputError: The directory is no store or a damaged one, or has no such tensor.
        StorageError: A file cannot be read.
    """
    root = root_of(path)
    manifest = Manifest.read(root)
    files = open_files(root, manifest)
    forms = [form for task in manifest.tasks.values() for form in task.forms]
    known = dict.fromkeys([*manifest.tensors, *forms])
    if name not in known:
        raise InputError(f"{root}: tensor {unknown_of_many(name, known)}")
    tensor = manifest.tensors.get(name)
    held = (tensor and tensor.tied_to) or name
    places = {one.path: file for file, row in files.items() for one in row.values()}
    family = family_of(manifest.codec, manifest.parameters)
    parts = family.parts(held)

    def is_part(entry: str) -> bool:
        return entry in parts or (entry not in known and entry.rpartition("::")[0] == held)

    def entries(row: Mapping[str, TensorInfo]) -> dict[str, Any]:
        return {
            entry: {
                "dtype": one.dtype,
                "shape": list(one.shape),
                "n_bytes": one.n_bytes,
                "file": places[one.path],
                "offset": one.offset,
            }
            for entry, one in row.items()
            if is_part(entry)
        }

    tasks = {}
    for label, task in manifest.tasks.items():
        form = task.forms.get(name)
        own: Mapping[str, TensorInfo] = {}
        if task.file:
            own = with_borrowed(files, task.file, task.borrowed, family.parts)
        found = entries(own)
        tasks[label] = {
            "form": {"dtype": form[0], "shape": list(form[1])} if form else None,
            "lacking": name in task.lacks or (tensor is None and form is None),
            "candidates": [] if task.file else list(task.candidates),
            "entries": found,
            "n_bytes": sum(one["n_bytes"] for one in found.values()),
            "mask_share": _mask_share(manifest, held, own),
        }
    return {
        "path": str(root),
        "kind": "tensor",
        "name": name,
        "dtype": tensor.dtype if tensor else None,
        "shape": list(tensor.shape) if tensor else None,
        "stored": tensor.kind if tensor else DENSE,
        "tied_to": tensor.tied_to if tensor else None,
        "shared": entries(files.get(SHARED, {})),
        "tasks": tasks,
    }


def _mask_share(manifest: Manifest, name: str, own: Mapping[str, TensorInfo]) -> float | None:
    """Return the share of the elements that a mask has; None without a mask of choices."""
    tensor = manifest.tensors.get(name)
    family = family_of(manifest.codec, manifest.parameters)
    if tensor is None or not tensor.is_coded or name not in own or family.why_not_counted():
        return None
    refuse_other(own, family.entries(tensor.form(name))[:1])
    n_set = sum(int.from_bytes(chunk, "little").bit_count() for chunk in chunks(own[name]))
    return n_set / max(math.prod(tensor.shape), 1)
