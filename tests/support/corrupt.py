"""Broken checkpoints, each with the text its refusal must contain."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple


def file_bytes(header: object, data: bytes = b"") -> bytes:
    """A safetensors file; text and bytes become its header as they are, anything else as JSON."""
    if not isinstance(header, str | bytes):
        header = json.dumps(header)
    text = header.encode() if isinstance(header, str) else header
    return len(text).to_bytes(8, "little") + text + data


def entry(
    begin: object = 0, end: object = 4, *, dtype: object = "F32", shape: object = (1,)
) -> dict[str, Any]:
    """One tensor of a header: four bytes at the front, unless said otherwise."""
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def write_file(path: Path, *names: str) -> None:
    """A sound file of scalars."""
    header = {name: entry(4 * i, 4 * i + 4) for i, name in enumerate(names)}
    path.write_bytes(file_bytes(header, bytes(4 * len(names))))


def write_index(root: Path, weight_map: object, name: str = "model") -> None:
    content = json.dumps({"metadata": {}, "weight_map": weight_map})
    (root / f"{name}.safetensors.index.json").write_text(content)


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
    "metadata null": BrokenFile(file_bytes({"__metadata__": None}), "__metadata__ is None", False),
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
    "dtype F4": BrokenFile(
        file_bytes({"a": entry(dtype="F4", shape=[8])}, FOUR),
        "tensor 'a': dtype 'F4' is not supported",
        False,
    ),
    "dtype F8_E8M0": BrokenFile(
        file_bytes({"a": entry(dtype="F8_E8M0", shape=[4])}, FOUR),
        "'F8_E8M0' is not supported",
        False,
    ),
    "shape overflows": BrokenFile(
        file_bytes({"a": entry(shape=[2**32, 2**32])}, FOUR), "is beyond 2**63 bytes"
    ),
    "shape overflows before a zero": BrokenFile(
        file_bytes({"a": entry(0, 0, shape=[2**32, 2**32, 0])}), "is beyond 2**63 bytes"
    ),
    "shape without end": BrokenFile(
        file_bytes({"a": entry(shape=[10**17] * 100_000)}, FOUR), "is beyond 2**63 bytes"
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


def _places(weight_map: object) -> Callable[[Path], None]:
    """A directory whose one sound file, of tensor a, is not what the index says."""

    def make(root: Path) -> None:
        write_file(root / "model-1.safetensors", "a")
        write_index(root, weight_map)

    return make


def _index_text(text: str | bytes) -> Callable[[Path], None]:
    def make(root: Path) -> None:
        write_file(root / "model-1.safetensors", "a")
        content = text.encode() if isinstance(text, str) else text
        (root / "model.safetensors.index.json").write_bytes(content)

    return make


def _holds(*names: str) -> Callable[[Path], None]:
    """A directory of such files; a safetensors file holds one tensor, named after the file."""

    def make(root: Path) -> None:
        for name in names:
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            if name.endswith(".safetensors"):
                write_file(root / name, name)
            else:
                (root / name).write_bytes(b"{}")

    return make


def _tensor_in_two_files(root: Path) -> None:
    write_file(root / "model-1.safetensors", "a", "b")
    write_file(root / "model-2.safetensors", "b")
    write_index(root, {"a": "model-1.safetensors", "b": "model-2.safetensors"})


def _unnamed_tensor(root: Path) -> None:
    write_file(root / "model-1.safetensors", "a", "b")
    write_index(root, {"a": "model-1.safetensors"})


def _stale_file(root: Path) -> None:
    write_file(root / "model.safetensors", "a")
    write_file(root / "model-1.safetensors", "a")
    write_index(root, {"a": "model-1.safetensors"})


def _two_indexes(root: Path) -> None:
    write_file(root / "model-1.safetensors", "a")
    write_index(root, {"a": "model-1.safetensors"})
    write_index(root, {"a": "model-1.safetensors"}, "model.fp16")


def _same_tensor_no_index(root: Path) -> None:
    write_file(root / "one.safetensors", "a", "b")
    write_file(root / "two.safetensors", "b", "c")


def _linked_folder_outside(root: Path) -> None:
    outside = root.parent / "outside"
    outside.mkdir()
    write_file(outside / "model-1.safetensors", "a")
    (root / "inside").symlink_to(outside)
    write_index(root, {"a": "inside/model-1.safetensors"})


def _link_to_nothing(root: Path) -> None:
    (root / "model.safetensors").symlink_to(root / "blob")


def _damaged_shard(root: Path) -> None:
    (root / "model-1.safetensors").write_bytes(bytes(8))
    write_index(root, {"a": "model-1.safetensors"})


DIRECTORIES: dict[str, tuple[Callable[[Path], None], str]] = {
    "nothing": (_holds(), "holds no .safetensors file; give the directory of a model"),
    ".bin that is none": (_holds("pytorch_model.bin", "config.json"), "begins with b'{}'"),
    ".bin shards of an index of nothing": (
        _holds("pytorch_model.bin.index.json", "p-1.bin", "p-2.bin", "p-3.bin"),
        "pytorch_model.bin.index.json: weight_map is None",
    ),
    ".bin shards without an index": (
        _holds("config.json", "p-1.bin", "p-2.bin"),
        "p-1.bin: begins with b'{}'",
    ),
    ".pth that is none": (_holds("consolidated.00.pth"), "consolidated.00.pth: begins with b'{}'"),
    "only what trainers leave": (
        _holds("optimizer.pt", "rng_state_0.pth", "training_args.bin"),
        "only 'optimizer.pt', 'rng_state_0.pth', 'training_args.bin'; convert",
    ),
    "only GGUF": (_holds("model-Q4_K_M.gguf"), "only 'model-Q4_K_M.gguf'; convert"),
    "hidden weights": (_holds("._model.safetensors"), "holds no .safetensors file"),
    "a pipeline": (
        _holds("unet/a.safetensors", "vae/b.safetensors", "vae/c.safetensors"),
        "give one of its sub-directories ('unet', 'vae')",
    ),
    "an adapter": (
        _holds("adapter_config.json", "adapter_model.safetensors"),
        "is an adapter, expected a model; merge it into its base model first",
    ),
    "an adapter's configuration": (_holds("adapter_config.json", "x.safetensors"), "is an adapter"),
    "two files": (
        _holds("one.safetensors", "two.safetensors"),
        "holds 2 .safetensors files ('one.safetensors', 'two.safetensors') and no index; give the",
    ),
    "two files with a tensor each has": (
        _same_tensor_no_index,
        "no index; tensor 'b' is in 'one.safetensors' and in 'two.safetensors'; give the one",
    ),
    "one part of three": (
        _holds("model-00002-of-00003.safetensors"),
        "part 2 of 3, and no index; download the rest",
    ),
    "link to nothing": (_link_to_nothing, "model.safetensors: no such file"),
    "damaged shard": (_damaged_shard, "model-1.safetensors: header: not valid JSON"),
    "two indexes": (_two_indexes, "holds 2 indexes"),
    "stale file": (_stale_file, "holds model.safetensors and model.safetensors.index.json"),
    "tensor in two files": (
        _tensor_in_two_files,
        "1.safetensors: holds tensor 'b', which the index places in model-2.safetensors (1 such)",
    ),
    "tensor the index does not name": (
        _unnamed_tensor,
        "model-1.safetensors: holds tensor 'b', which the index does not name",
    ),
    "tensor not in its file": (
        _places({name: "model-1.safetensors" for name in "abcde"}),
        "holds 1 of the 5 tensors that the index places in it, not 'b', 'c', 'd', ...;",
    ),
    "file absent": (
        _places({"a": "model-1.safetensors", "b": "model-2.safetensors"}),
        "names 2 files, of which 1 are absent ('model-2.safetensors')",
    ),
    "index of nothing": (_places({}), "weight_map is {}"),
    "index of a list": (_places(["a"]), "weight_map is ['a']"),
    "index of numbers": (_places({"a": 1}), "weight_map is {'a': 1}"),
    "index without map": (_index_text("{}"), "weight_map is None"),
    "index an array": (_index_text("[]"), "found [], expected a JSON object"),
    "index not JSON": (_index_text(""), "not valid JSON"),
    "index not UTF-8": (_index_text(b"\xff"), "not UTF-8"),
    "index nested": (_index_text("[" * 100_000), "nested beyond all sense"),
    "index of 5000 digits": (_index_text("9" * 5000), "expected a JSON object"),
    "index with a name twice": (
        _index_text('{"weight_map":{"a":"model-1.safetensors","a":"model-1.safetensors"}}'),
        "the key 'a' appears twice",
    ),
    "index with a lone surrogate": (
        _index_text('{"weight_map":{"a":"\\ud800.safetensors"}}'),
        "weight_map is",
    ),
    "linked folder outside": (_linked_folder_outside, "expected a .safetensors file inside"),
}
DIRECTORIES |= {
    f"index naming {label}": (_places({"a": file}), "expected a .safetensors file inside")
    for label, file in {
        "an absolute path": "/model-1.safetensors",
        "its parent": "../model-1.safetensors",
        "its parent, after a detour": "x/../../model-1.safetensors",
        "its parent, as Windows writes it": "..\\model-1.safetensors",
        "a drive": "C:model-1.safetensors",
        "a network path": "\\\\host\\share\\model-1.safetensors",
        "a zero byte": "model-1.safetensors\0.safetensors",
        "a line break": "\n.safetensors",
        "nothing": "",
        "its own directory": ".",
        "another kind of file": "model-1.bin",
    }.items()
}
DIRECTORIES["index naming a file too long"] = (
    _places({"a": "x" * 5000 + ".safetensors"}),
    "of which 1 are absent",
)
