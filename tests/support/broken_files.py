"""Broken safetensors files, each with the text its refusal must contain."""

from __future__ import annotations

import json
from typing import NamedTuple

from tests.support.handmade import entry, file_bytes


class BrokenFile(NamedTuple):
    """``stock`` tells whether the stock library refuses it too."""

    content: bytes
    message: str
    stock: bool = True


FOUR = bytes(4)
ENTRY = json.dumps(entry())
BIG = 10**20

FILES: dict[str, BrokenFile] = {
    "nothing": BrokenFile(b"", "truncated: has 0 bytes"),
    "seven bytes": BrokenFile(bytes(7), "truncated: has 7 bytes"),
    "header length 0": BrokenFile(bytes(8), "header: not valid JSON"),
    "header length above the limit": BrokenFile(
        (100_000_001).to_bytes(8, "little") + b"{}", "header of 100000001 bytes, expected at most"
    ),
    "header length 2**64 - 1": BrokenFile(
        b"\xff" * 8 + b"{}", "header of 18446744073709551615 bytes"
    ),
    "header length beyond the file": BrokenFile(
        (3).to_bytes(8, "little") + b"{}", "truncated: has 10 bytes, the header alone takes 11"
    ),
    "not UTF-8": BrokenFile(file_bytes(b'{"\xff": 1}'), "header: not UTF-8 from byte 2 on"),
    "UTF-16": BrokenFile(file_bytes("{}".encode("utf-16")), "header: not UTF-8 from byte 0 on"),
    "byte order mark": BrokenFile(file_bytes("\ufeff{}"), "not valid JSON"),
    "not JSON": BrokenFile(file_bytes("{'a': 1}"), "not valid JSON"),
    "JSON cut short": BrokenFile(file_bytes(f'{{"a":{ENTRY}', FOUR), "not valid JSON"),
    "text after the JSON": BrokenFile(file_bytes(f'{{"a":{ENTRY}}}}}', FOUR), "not valid JSON"),
    "zero bytes after the JSON": BrokenFile(file_bytes("{}\0\0"), "not valid JSON"),
    "line break in a name": BrokenFile(file_bytes(f'{{"a\n":{ENTRY}}}', FOUR), "not valid JSON"),
    "array": BrokenFile(file_bytes([]), "found [], expected a JSON object"),
    "null": BrokenFile(file_bytes(None), "found None, expected a JSON object"),
    "nested arrays": BrokenFile(file_bytes("[" * 100_000), "nested beyond all sense"),
    "nested objects": BrokenFile(file_bytes('{"a":' * 100_000), "nested beyond all sense"),
    "metadata a list": BrokenFile(file_bytes({"__metadata__": ["pt"]}), "__metadata__ is ['pt']"),
    "metadata a number": BrokenFile(file_bytes({"__metadata__": {"n": 1}}), "__metadata__ is {'n'"),
    "metadata no text": BrokenFile(
        file_bytes('{"__metadata__":{"a":"\\udfff"}}'), "__metadata__ is"
    ),
    "metadata key twice": BrokenFile(
        file_bytes('{"__metadata__":{"format":"pt","format":"np"}}'),
        "the key 'format' appears twice",
        False,
    ),
    "name twice": BrokenFile(
        file_bytes(f'{{"a":{ENTRY},"a":{ENTRY}}}', FOUR), "the key 'a' appears twice", False
    ),
    "name no text": BrokenFile(
        file_bytes(f'{{"\\ud800":{ENTRY}}}', FOUR), "surrogates not allowed"
    ),
    "entry null": BrokenFile(file_bytes({"a": None}), "tensor 'a': found None, expected an object"),
    "entry an array": BrokenFile(
        file_bytes({"a": ["F32", [1], [0, 4]]}, FOUR), "tensor 'a': found ['F32'", False
    ),
    "unknown key": BrokenFile(
        file_bytes({"a": entry() | {"strides": [1]}}, FOUR), "tensor 'a': found {", False
    ),
    "key twice": BrokenFile(
        file_bytes('{"a":{"dtype":"F32","shape":[1],"shape":[1],"data_offsets":[0,4]}}', FOUR),
        "the key 'shape' appears twice",
    ),
    "dtype nobody knows": BrokenFile(
        file_bytes({"a": entry(dtype="F33")}, FOUR), "tensor 'a': dtype 'F33' is unknown"
    ),
    "dtype in lower case": BrokenFile(
        file_bytes({"a": entry(dtype="f32")}, FOUR), "dtype 'f32' is unknown"
    ),
    "dtype a list": BrokenFile(
        file_bytes({"a": entry(dtype=["F32"])}, FOUR), "dtype ['F32'] is unknown"
    ),
    "half a byte of F4": BrokenFile(
        file_bytes({"a": entry(0, 2, dtype="F4", shape=[3])}, bytes(2)),
        "F4 of shape [3] is no whole number of bytes",
    ),
    "two bits of F6": BrokenFile(
        file_bytes({"a": entry(0, 2, dtype="F6_E2M3", shape=[3])}, bytes(2)),
        "F6_E2M3 of shape [3] is no whole number of bytes",
    ),
    "too many bytes for F4": BrokenFile(
        file_bytes({"a": entry(dtype="F4", shape=[4])}, FOUR),
        "span 4 bytes, expected 2 for F4 of shape [4]",
    ),
    "shape overflows": BrokenFile(
        file_bytes({"a": entry(shape=[2**32, 2**32])}, FOUR), "is beyond 2**63 bytes"
    ),
    "shape overflows before a zero": BrokenFile(
        file_bytes({"a": entry(0, 0, shape=[2**32, 2**32, 0])}), "is beyond 2**63 bytes"
    ),
    "shape without end": BrokenFile(
        file_bytes({"a": entry(shape=[10**17] * 32)}, FOUR), "is beyond 2**63 bytes"
    ),
    "more dimensions than arrays have": BrokenFile(
        file_bytes({"a": entry(shape=[1] * 33)}, FOUR),
        "shape of 33 dimensions, expected at most 32; reshape the tensor where the file comes from",
        stock=False,
    ),
    "too few bytes for the shape": BrokenFile(
        file_bytes({"a": entry(shape=[2])}, FOUR), "span 4 bytes, expected 8 for F32 of shape [2]"
    ),
    "too many bytes for the shape": BrokenFile(
        file_bytes({"a": entry(shape=[])} | {"b": entry(4, 16, shape=[2])}, bytes(16)),
        "tensor 'b': data_offsets [4, 16] span 12 bytes, expected 8",
    ),
    "offsets reversed": BrokenFile(
        file_bytes({"a": entry(4, 0)}, FOUR), "data_offsets [4, 0], expected [begin, end]"
    ),
    "offsets beyond the data": BrokenFile(
        file_bytes({"a": entry(8, 12)}, FOUR), "begins at data byte 8, expected 0"
    ),
    "overlap in full": BrokenFile(
        file_bytes({"a": entry(), "b": entry()}, FOUR),
        "tensor 'b' begins at data byte 0, expected 4: it overlaps",
    ),
    "overlap in part": BrokenFile(
        file_bytes({"a": entry(), "b": entry(2, 6)}, bytes(6)),
        "tensor 'b' begins at data byte 2, expected 4: it overlaps",
    ),
    "hole at the front": BrokenFile(
        file_bytes({"a": entry(4, 8)}, bytes(8)),
        "begins at data byte 4, expected 0: it leaves a hole",
    ),
    "hole in the middle": BrokenFile(
        file_bytes({"a": entry(), "b": entry(5, 9)}, bytes(9)),
        "tensor 'b' begins at data byte 5, expected 4: it leaves a hole",
    ),
    "empty tensor inside another": BrokenFile(
        file_bytes({"a": entry(), "b": entry(2, 2, shape=[0])}, FOUR),
        "tensor 'b' begins at data byte 2, expected 4",
    ),
    "empty tensor beyond the data": BrokenFile(
        file_bytes({"a": entry(), "b": entry(9, 9, shape=[0])}, FOUR),
        "tensor 'b' begins at data byte 9, expected 4",
    ),
    "one byte short": BrokenFile(
        file_bytes({"a": entry()}, bytes(3)),
        f"truncated: has {len(file_bytes({'a': entry()})) + 3} bytes, the header needs "
        f"{len(file_bytes({'a': entry()})) + 4}",
    ),
    "no data": BrokenFile(file_bytes({"a": entry()}), "truncated: has"),
    "one byte more": BrokenFile(
        file_bytes({"a": entry()}, bytes(5)), "but the last tensor ends at"
    ),
    "data without tensors": BrokenFile(file_bytes({}, b"x"), "but the last tensor ends at 10"),
}
FILES |= {
    f"without {key}": BrokenFile(
        file_bytes({"a": {k: v for k, v in entry().items() if k != key}}, FOUR),
        "expected an object of dtype, shape and data_offsets",
    )
    for key in entry()
}
FILES |= {
    f"shape {label}": BrokenFile(
        file_bytes(f'{{"a":{{"dtype":"F32","shape":{shape},"data_offsets":[0,4]}}}}', FOUR),
        "tensor 'a': shape ",
    )
    for label, shape in {
        "null": "null",
        "an integer": "1",
        "text": '"1"',
        "of text": '["1"]',
        "of floats": "[1.0]",
        "of exponents": "[1e0]",
        "of booleans": "[true]",
        "of lists": "[[1]]",
        "negative": "[-1,-1]",
        "minus zero": "[-0]",
        "not a number": "[NaN]",
        "above 2**64": f"[{BIG}]",
        "of 5000 digits": f"[{'9' * 5000}]",
    }.items()
}
FILES |= {
    f"offsets {label}": BrokenFile(
        file_bytes(f'{{"a":{{"dtype":"F32","shape":[1],"data_offsets":{offsets}}}}}', FOUR),
        "tensor 'a': data_offsets ",
    )
    for label, offsets in {
        "null": "null",
        "an object": "{}",
        "one": "[0]",
        "three": "[0,4,4]",
        "of floats": "[0.0,4.0]",
        "of booleans": "[false,4]",
        "of text": '["0","4"]',
        "negative": "[-4,0]",
        "minus zero": "[-0,4]",
        "above 2**64": f"[{BIG},{BIG + 4}]",
    }.items()
}
