"""Safetensors files are read as the stock library reads them, or refused in a line."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import safetensors
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save

from tallies.checkpoint import json_text
from tallies.checkpoint import safetensors as reading
from tallies.checkpoint.checkpoint import Checkpoint
from tallies.checkpoint.json_text import MAX_TENSORS
from tallies.checkpoint.layout import Entry
from tallies.checkpoint.safetensors import read_header
from tallies.checkpoint.shards import find_shards
from tallies.engine.arrays import array_shape
from tallies.errors import InputError, StorageError
from tallies.spec.dtypes import DTYPES
from tests.support import broken_files
from tests.support.entries import assert_plain, entries, filler, metadatas, write
from tests.support.handmade import entry, file_bytes
from tests.support.odd_json import numbers, odd_json

TORCH = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "F8_E8M0": torch.float8_e8m0fnu,
    "F8_E4M3FNUZ": torch.float8_e4m3fnuz,
    "F8_E5M2FNUZ": torch.float8_e5m2fnuz,
    "F4": torch.float4_e2m1fn_x2,
    "C64": torch.complex64,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U64": torch.uint64,
    "U32": torch.uint32,
    "U16": torch.uint16,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}


def stock_read(content: bytes) -> dict[str, tuple[str, tuple[int, ...], bytes]]:
    """Return dtype, shape and data of each tensor, as the stock library reads them."""
    tensors = safetensors.deserialize(content)  # type: ignore[no-untyped-call]
    return {
        name: (value["dtype"], tuple(value["shape"]), bytes(value["data"]))
        for name, value in tensors
    }


@given(entries, metadatas)
def test_reads_what_the_stock_library_writes(
    scratch: Path, tensors: list[Entry], metadata: dict[str, str]
) -> None:
    tensors = [one for one in tensors if array_shape(one[1], one[2]) is not None]
    data = filler(tensors)
    stock = {
        name: torch.tensor(list(part), dtype=torch.uint8)
        .view(TORCH[dtype])
        .reshape(array_shape(dtype, shape) or ())
        for (name, dtype, shape), part in zip(tensors, data, strict=True)
    }
    content = save(stock, metadata or None)
    scratch.write_bytes(content)
    checkpoint = Checkpoint.open(scratch)
    assert checkpoint.metadata == metadata
    assert checkpoint.n_bytes == sum(map(len, data))
    assert list(checkpoint.tensors) == sorted((t[0] for t in tensors), key=str.encode)
    for (name, dtype, shape), part in zip(tensors, data, strict=True):
        tensor = checkpoint.tensors[name]
        assert (tensor.name, tensor.dtype, tensor.shape) == (name, dtype, shape)
        assert (tensor.path, tensor.n_bytes) == (scratch, len(part))
        assert tensor.n_stored * DTYPES[dtype] == len(part)
        assert content[tensor.offset : tensor.offset + tensor.n_bytes] == part


@given(entries, metadatas)
def test_stock_library_reads_what_header_lays_out(
    scratch: Path, tensors: list[Entry], metadata: dict[str, str]
) -> None:
    write(scratch, tensors, metadata)
    content = scratch.read_bytes()
    expected = {t[0]: (t[1], t[2], d) for t, d in zip(tensors, filler(tensors), strict=True)}
    assert stock_read(content) == expected
    with safetensors.safe_open(scratch, framework="numpy") as file:
        assert (file.metadata() or {}) == metadata
    checkpoint = Checkpoint.open(scratch)
    for name, (dtype, shape, data) in expected.items():
        tensor = checkpoint.tensors[name]
        assert (tensor.dtype, tensor.shape) == (dtype, shape)
        assert content[tensor.offset : tensor.offset + tensor.n_bytes] == data


@pytest.mark.parametrize("case", broken_files.FILES.values(), ids=broken_files.FILES.keys())
def test_broken_file_is_refused(tmp_path: Path, case: broken_files.BrokenFile) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(case.content)
    for place in (path, tmp_path):
        with pytest.raises(InputError) as caught:
            Checkpoint.open(place)
        assert str(caught.value).startswith(f"{path}: ")
        assert case.message in str(caught.value)
        assert_plain(caught.value)
    if case.stock:
        with pytest.raises(safetensors.SafetensorError):
            stock_read(case.content)
    else:
        stock_read(case.content)


def agree_or_refuse(path: Path, content: bytes) -> None:
    """Check that the reader refuses in one line, or finds the tensors of the stock library."""
    path.write_bytes(content)
    try:
        tensors, _ = read_header(path)
    except InputError as error:
        assert_plain(error)
        return
    assert stock_read(content) == {
        t.name: (t.dtype, t.shape, content[t.offset : t.offset + t.n_bytes]) for t in tensors
    }


@given(st.binary(max_size=200))
def test_random_bytes(scratch: Path, content: bytes) -> None:
    agree_or_refuse(scratch, content)
    agree_or_refuse(scratch, file_bytes(content))


SOUND: dict[str, Any] = {
    "a": entry(0, 4, shape=[1]),
    "b": entry(4, 16, dtype="BF16", shape=[2, 3]),
    "c": entry(16, 16, dtype="I64", shape=[0, 7]),
    "__metadata__": {"format": "pt"},
}
places = st.sampled_from(
    [(name, key, i) for name in "abc" for key in SOUND["a"] for i in (0, 1, None)]
    + [("__metadata__", "format", None)]
    + [(name, None, None) for name in SOUND]
)


def n_items(value: object) -> int:
    return len(value) if isinstance(value, list) else 0


@st.composite
def odd_headers(draw: st.DrawFn) -> tuple[object, bytes]:
    """Draw the header of a sound file of 16 bytes with some values, at any depth, replaced."""
    root = {"": copy.deepcopy(SOUND)}
    for place in draw(st.lists(places, max_size=3)):
        at: Any = root
        last: Any = ""
        for step in place:
            inner = at[last]
            if step in (inner if isinstance(inner, dict) else range(n_items(inner))):
                at, last = inner, step
        at[last] = draw(numbers if isinstance(at[last], int) else odd_json)
    return root[""], bytes(draw(st.sampled_from([16, 15, 17, 0, 4])))


@given(odd_headers())
def test_odd_headers(scratch: Path, case: tuple[object, bytes]) -> None:
    agree_or_refuse(scratch, file_bytes(*case))


@given(entries, st.data())
def test_damaged_bytes(scratch: Path, tensors: list[Entry], data: st.DataObject) -> None:
    write(scratch, tensors, {"format": "pt"})
    content = bytearray(scratch.read_bytes())
    alphabet = st.binary(min_size=1, max_size=2) | st.sampled_from([b'"', b"-", b"0", b"[", b"\\"])
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(content) - 1))
        replaced = data.draw(st.integers(0, 2))
        content[at : at + replaced] = data.draw(alphabet)
    agree_or_refuse(scratch, bytes(content))


@given(entries.filter(len), st.data())
def test_truncated_file_is_refused(
    scratch: Path, tensors: list[Entry], data: st.DataObject
) -> None:
    write(scratch, tensors)
    content = scratch.read_bytes()
    scratch.write_bytes(content[: data.draw(st.integers(0, len(content) - 1))])
    with pytest.raises(InputError, match="truncated: has "):
        read_header(scratch)


def test_unreadable_file_is_a_storage_error(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="cannot be read"):
        read_header(tmp_path)


def test_file_that_shrinks_is_a_storage_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes((100).to_bytes(8, "little") + b"{}")
    monkeypatch.setattr("os.fstat", lambda _: SimpleNamespace(st_size=1000))
    with pytest.raises(StorageError, match="shrank while it was read"):
        read_header(path)


EMPTY = b'{"dtype":"F32","shape":[0],"data_offsets":[0,0]}'

CROWDED: dict[str, Callable[[int], bytes]] = {
    "tensors": lambda n: b"{" + b",".join(b'"t%d":%s' % (i, EMPTY) for i in range(n)) + b"}",
    "values": lambda n: b"{" + b",".join(b'"%d":0' % i for i in range(9 * n)) + b"}",
    "dimensions": lambda n: b'{"t":[' + b"0," * (16 * n) + b"0]}",
    "brackets": lambda n: b'{"t":' + b"[" * (16 * n) + b"]}",
}


@pytest.mark.parametrize("kind", CROWDED)
def test_a_header_of_too_many_values_is_refused_before_it_is_parsed(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its objects would take many times the memory of the text, and minutes."""
    n = MAX_TENSORS * (2 if kind == "tensors" else 1)
    path = tmp_path / "model.safetensors"
    text = CROWDED[kind](n)
    path.write_bytes(len(text).to_bytes(8, "little") + text)
    monkeypatch.setattr(json, "loads", lambda *_, **__: pytest.fail("parsed"))
    with pytest.raises(InputError, match=f"header: has far more values than {MAX_TENSORS} tensors"):
        read_header(path)


@pytest.mark.parametrize("sign", ["\U0001f600", "\\ud83d\\ude00"], ids=["emoji", "escapes"])
def test_a_long_header_with_wide_characters_is_refused_before_it_is_decoded(
    tmp_path: Path, sign: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One such character makes Python keep all others in four bytes as well."""
    path = tmp_path / "model.safetensors"
    text = b'{"%s": %s}' % (sign.encode(), EMPTY)
    path.write_bytes(len(text).to_bytes(8, "little") + text)
    assert read_header(path)[0][0].name == "\U0001f600"
    monkeypatch.setattr(json_text, "MAX_WIDE_BYTES", len(text) - 1)
    monkeypatch.setattr(json, "loads", lambda *_, **__: pytest.fail("parsed"))
    with pytest.raises(InputError, match=rf"header: {len(text)} bytes with characters beyond"):
        read_header(path)


def test_a_file_has_a_most_of_tensors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "MAX_TENSORS", 3)
    path = tmp_path / "model.safetensors"
    for n in (3, 4):
        text = CROWDED["tensors"](n)
        path.write_bytes(len(text).to_bytes(8, "little") + text)
        if n == 3:
            assert len(read_header(path)[0]) == 3
    with pytest.raises(InputError, match="has 4 tensors, expected at most 3; write the model in"):
        read_header(path)


def test_an_index_of_too_many_values_is_refused(tmp_path: Path) -> None:
    values = ",".join(f'"{i}":""' for i in range(8 * MAX_TENSORS))
    (tmp_path / "model.safetensors.index.json").write_text(f'{{"weight_map":{{{values}}}}}')
    with pytest.raises(InputError, match=r"index\.json: has far more values than"):
        find_shards(tmp_path)
