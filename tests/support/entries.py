"""Names, dtypes and shapes of tensors, drawn by hypothesis or given, and files that hold them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from hypothesis import strategies as st

from tallies.checkpoint.checkpoint import Checkpoint
from tallies.checkpoint.layout import Entry, header, tensor_bytes
from tallies.spec.dtypes import DTYPES, fills_bytes

text = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
tensor_names = text.filter(lambda name: name != "__metadata__")
shapes = st.lists(st.integers(0, 5), max_size=4).map(tuple)
metadatas = st.dictionaries(text, text, max_size=3)
entries: st.SearchStrategy[list[Entry]] = st.lists(
    st.tuples(tensor_names, st.sampled_from(sorted(DTYPES)), shapes).filter(
        lambda entry: fills_bytes(entry[1], entry[2])
    ),
    max_size=8,
    unique_by=lambda entry: entry[0],
)


def filler(tensors: Sequence[Entry]) -> list[bytes]:
    """Return data for each tensor, different for each."""
    return [
        bytes((17 * i + j) % 256 for j in range(tensor_bytes(tensor)))
        for i, tensor in enumerate(tensors)
    ]


def write(path: Path, tensors: Sequence[Entry], metadata: dict[str, str] | None = None) -> None:
    """Write a file as the library lays it out."""
    head, offsets = header(tensors, metadata)
    data = filler(tensors)
    content = bytearray(head.ljust(len(head) + sum(map(len, data)), b"\xee"))
    for offset, part in zip(offsets, data, strict=True):
        content[offset : offset + len(part)] = part
    path.write_bytes(content)


def write_model(root: Path, tensors: Sequence[Entry], config: object = None) -> Checkpoint:
    write(root / "model.safetensors", tensors)
    if config is not None:
        (root / "config.json").write_text(json.dumps(config))
    return Checkpoint.open(root)


def assert_plain(error: BaseException) -> None:
    """Check that the message is one line that a terminal can show."""
    message = str(error)
    assert message.isprintable()
    assert len(message) < 2000
