"""Headers, output shards and the index have the bytes that the format asks for."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tallies.checkpoint.json_text import MAX_HEADER_BYTES
from tallies.checkpoint.layout import (
    ALIGNMENT,
    Entry,
    header,
    index_json,
    layout_shards,
    tensor_bytes,
)
from tallies.errors import InputError
from tallies.spec.dtypes import DTYPES
from tests.support.entries import entries, metadatas


@given(entries, metadatas, st.randoms())
def test_header_is_aligned_and_canonical(
    tensors: list[Entry], metadata: dict[str, str], random: Any
) -> None:
    head, offsets = header(tensors, metadata)
    assert len(head) % ALIGNMENT == 0
    end = len(head)
    sizes = [tensor_bytes(tensor) for tensor in tensors]
    for offset, size, (_, dtype, _) in sorted(zip(offsets, sizes, tensors, strict=True)):
        assert offset % DTYPES[dtype] == 0
        assert offset == end
        end += size
    order = random.sample(range(len(tensors)), len(tensors))
    shuffled = dict(random.sample(sorted(metadata.items()), len(metadata)))
    assert header([tensors[i] for i in order], shuffled) == (head, [offsets[i] for i in order])


def test_header_bytes() -> None:
    head, offsets = header([("a", "U8", (3,)), ("é", "F32", (2,)), ("c", "F32", ())], {"b": "1"})
    text = (
        '{"__metadata__":{"b":"1"},"c":{"dtype":"F32","shape":[],"data_offsets":[0,4]},'
        '"é":{"dtype":"F32","shape":[2],"data_offsets":[4,12]},'
        '"a":{"dtype":"U8","shape":[3],"data_offsets":[12,15]}}'
    )
    assert head == (184 + 64).to_bytes(8, "little") + text.encode().ljust(184 + 64)
    assert offsets == [256 + 12, 256 + 4, 256]
    assert header([]) == ((56).to_bytes(8, "little") + b"{}".ljust(56), [])


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ([("a", "F32", (1,)), ("a", "U8", (1,))], "tensor 'a': expected a name of its own"),
        ([("__metadata__", "F32", (1,))], "tensor '__metadata__': expected a name of its own"),
        ([("a", "F2", (2,))], "tensor 'a': dtype 'F2'"),
        ([("a", "F4", (3,))], r"tensor 'a': F4 of shape \(3,\) is no whole number of bytes"),
        ([("a", "F32", (-1,))], r"tensor 'a': shape \(-1,\)"),
    ],
)
def test_header_refuses(tensors: list[Entry], message: str) -> None:
    with pytest.raises(InputError, match=message):
        header(tensors)


def test_header_beyond_the_limit_of_readers() -> None:
    with pytest.raises(InputError, match="write smaller shards"):
        header([("x" * MAX_HEADER_BYTES, "U8", ())])


@given(entries, st.integers(1, 300))
def test_shards_are_full_and_in_order(tensors: list[Entry], max_shard_bytes: int) -> None:
    shards = layout_shards(tensors, max_shard_bytes)
    assert [t for shard in shards for t in shard.tensors] == sorted(
        tensors, key=lambda tensor: tensor[0].encode()
    )
    n = len(shards)
    assert [shard.name for shard in shards] == (
        [f"model-{i + 1:05d}-of-{n:05d}.safetensors" for i in range(n)]
        if n > 1
        else ["model.safetensors"]
    )
    for shard in shards:
        assert shard.n_bytes == sum(tensor_bytes(t) for t in shard.tensors)
        assert shard.n_bytes <= max_shard_bytes or len(shard.tensors) == 1
    for shard, following in pairwise(shards):
        assert shard.n_bytes + tensor_bytes(following.tensors[0]) > max_shard_bytes


def test_shards_by_example() -> None:
    sizes = {"a": 4, "b": 6, "c": 1, "d": 30, "e": 2, "f": 8}
    shards = layout_shards([(name, "U8", (size,)) for name, size in sizes.items()], 10)
    assert ["".join(t[0] for t in shard.tensors) for shard in shards] == ["ab", "c", "d", "ef"]
    assert [shard.n_bytes for shard in shards] == [10, 1, 30, 10]
    for refused in (0, -1):
        with pytest.raises(InputError, match="expected at least one byte"):
            layout_shards([], refused)


def test_index_bytes() -> None:
    shards = layout_shards([("b", "U8", (2,)), ("a", "U8", (1,)), ("c", "U8", (3,))], 3)
    assert index_json(shards).decode() == (
        "{\n"
        '  "metadata": {\n'
        '    "total_size": 6\n'
        "  },\n"
        '  "weight_map": {\n'
        '    "a": "model-00001-of-00002.safetensors",\n'
        '    "b": "model-00001-of-00002.safetensors",\n'
        '    "c": "model-00002-of-00002.safetensors"\n'
        "  }\n"
        "}\n"
    )
