"""Applies a patch with NumPy alone, as docs/patches.md states the format."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


def read(path: Path) -> tuple[dict[str, Any], dict[str, Array]]:
    entries: dict[str, Array] = {}
    for file in path.glob("changes-*") if path.is_dir() else [path]:
        data = file.read_bytes()
        begin = 8 + int.from_bytes(data[:8], "little")
        head = json.loads(data[8:begin])
        metadata = head.pop("__metadata__", {})
        for name, one in head.items():
            first, end = one["data_offsets"]
            unit = (end - first) // max(np.prod(one["shape"], dtype=int), 1) or 1
            entries[name] = np.frombuffer(data[begin + first : begin + end], f"u{unit}")
    text = (path / "patch.json").read_text() if path.is_dir() else metadata["tallies.patch"]
    return json.loads(text), entries


def changed(part: dict[str, Any], codes: Array, blocks: Array) -> Array:
    if part["layout"] == "mask":
        return np.flatnonzero(np.unpackbits(codes, bitorder="little"))
    found, ends = [], blocks.reshape(-1, 2)[:, 0]
    for number, gaps in enumerate(np.split(codes.astype(np.int64), ends)[:-1]):
        found.append(number * 65536 + np.cumsum(gaps + (gaps != 255))[gaps != 255] - 1)
    return np.concatenate(found)


def apply(old: dict[str, Array], path: Path) -> dict[str, Array]:
    """Return the tensors that a patch makes, flat; all are unsigned integers of their bits."""
    manifest, entries = read(path)
    new = {}
    for tensor in manifest["tensors"]:
        name, change = tensor["name"], tensor["change"]
        parts, whole = tensor.get("parts", []), change in ("added", "replaced")
        if whole and parts:
            n = sum(part["n_elements"] for part in parts)
            new[name] = np.zeros(n, entries[f"{name}::0.values"].dtype)
        elif change != "removed":
            new[name] = entries[f"{name}::new"] if whole else old[name].ravel().copy()
        for number, part in enumerate(parts):
            prefix, at = f"{name}::{number}", np.arange(part["n_elements"])
            if part["layout"] in ("gaps", "mask"):
                at = changed(part, entries[f"{prefix}.positions"], entries[f"{prefix}.blocks"])
            if part["layout"] != "none":
                values, at = entries[f"{prefix}.values"][: len(at)], at + part["first"]
                kinds = {"xor": new[name][at] ^ values, "difference": new[name][at] + values}
                new[name][at] = kinds.get(manifest["values"], values)
    return new
