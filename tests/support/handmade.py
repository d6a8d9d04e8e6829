"""Safetensors files and indexes written by hand, sound or not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def file_bytes(header: object, data: bytes = b"") -> bytes:
    """Return a safetensors file; text and bytes become its header as they are, others as JSON."""
    if not isinstance(header, str | bytes):
        header = json.dumps(header)
    text = header.encode() if isinstance(header, str) else header
    return len(text).to_bytes(8, "little") + text + data


def entry(
    begin: object = 0, end: object = 4, *, dtype: object = "F32", shape: object = (1,)
) -> dict[str, Any]:
    """Return one tensor of a header: four bytes at the front, unless said otherwise."""
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def write_file(path: Path, *names: str) -> None:
    """Write a sound file of scalars."""
    header = {name: entry(4 * i, 4 * i + 4) for i, name in enumerate(names)}
    path.write_bytes(file_bytes(header, bytes(4 * len(names))))


def write_index(root: Path, weight_map: object, name: str = "model") -> None:
    content = json.dumps({"metadata": {}, "weight_map": weight_map})
    (root / f"{name}.safetensors.index.json").write_text(content)
