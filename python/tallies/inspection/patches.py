"""Describes a patch: what becomes of each tensor, and how it is stored."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from ..errors import InputError
from ..messages import unknown_of_many
from ..patches.layout import frames_name
from ..patches.opened import Patch


def patched_tensor(found: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Return the facts of one tensor of a patch, as ``inspect_patch`` found them.

    Raises:
        InputError: Neither model of the patch has the tensor.
    """
    if name not in found["tensors"]:
        known = unknown_of_many(name, found["tensors"])
        raise InputError(f"{found['path']}: tensor {known}; a patch names those of its models")
    return {"path": found["path"], "kind": "tensor", "name": name, **found["tensors"][name]}


def inspect_patch(patch: Patch) -> dict[str, Any]:
    """Return the facts of a patch as plain data, from its manifest and headers alone."""
    sizes = {name: entry.n_bytes for name, entry in patch.entries.items()}
    tensors = {}
    for one in patch.manifest.tensors:
        names = [whole for name in one.entries() for whole in (name, frames_name(name))]
        tensors[one.name] = {
            "change": one.change,
            "dtype": one.dtype,
            "shape": list(one.shape),
            "layouts": dict(sorted(Counter(part.layout for part in one.parts).items())),
            "n_changed": one.n_changed,
            "n_bytes": sum(sizes.get(name, 0) for name in names),
        }
    return {
        "path": patch.label,
        "kind": "patch",
        "values": patch.manifest.values,
        "coder": patch.manifest.coder,
        "old": patch.manifest.old,
        "new": patch.manifest.new,
        "n_bytes": patch.n_bytes,
        "tensors": tensors,
        "small_files": {name: one.change for name, one in patch.manifest.small_files.items()},
    }
