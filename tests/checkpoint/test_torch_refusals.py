"""Files of ``torch.save`` are refused before any tensor data is read."""

from __future__ import annotations

import argparse
import io
import os
import pickle
import struct
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tallies.checkpoint.checkpoint import Checkpoint
from tallies.checkpoint.data import chunks
from tallies.errors import InputError, TalliesError
from tests.support.torch_files import FOUR, SAVED, archive, saved, tensor_pickle


class Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {EVIDENCE}",)


EVIDENCE = "/tmp/tallies-test-evidence"


def with_twice_an_entry() -> bytes:
    buffer = io.BytesIO(archive(tensor_pickle(), FOUR))
    with pytest.warns(UserWarning), zipfile.ZipFile(buffer, "a") as made:
        made.writestr("archive/data/0", bytes(16))
    return buffer.getvalue()


def with_overlap() -> bytes:
    """The directory gives an entry the header of another one's bytes."""
    inner = archive(b"", ("archive/data/0", bytes(16)))
    header = inner[inner.index(b"PK\3\4", 4) : inner.index(b"PK\1\2")]
    data = archive(tensor_pickle(), ("archive/data/1", header), FOUR)
    at = data.index(header)
    end = data.index(b"PK\1\2")
    directory = bytearray(data[end:])
    place = directory.index(b"archive/data/0") - 4
    struct.pack_into("<I", directory, place, at)
    return data[:end] + bytes(directory)


def cyclic() -> bytes:
    content: dict[str, Any] = {"epoch": []}
    content["epoch"].append(content["epoch"])
    content["state_dict"] = {"a": 1}
    return pickle.dumps(content, 2)


def globals_of(*names: str) -> list[tuple[str, bytes]]:
    return [(name, f"c{name.replace(' ', chr(10))}\n.".encode()) for name in names]


REFUSED: dict[str, tuple[Callable[[], bytes], str]] = {
    "nothing": (lambda: b"", "begins with b''"),
    "another format": (lambda: b"GGUF\3\0\0\0", "begins with b'GGUF"),
    "a Git LFS pointer": (
        lambda: b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n",
        "is a Git LFS pointer.*git lfs pull",
    ),
    "a legacy pickle": (
        lambda: saved({"a": torch.zeros(2)}, _use_new_zipfile_serialization=False),
        "is a pickle of the legacy format.*torch.save",
    ),
    "a plain pickle": (lambda: pickle.dumps({"a": 1}), "legacy format"),
    "a zip without data.pkl": (
        lambda: archive(b"").replace(b"data.pkl", b"data.txt"),
        "holds 'archive/data.txt', expected a zip archive of torch.save",
    ),
    "compressed": (
        lambda: archive(tensor_pickle(), FOUR, method=zipfile.ZIP_DEFLATED),
        "is compressed, expected stored bytes",
    ),
    "a name that is absolute": (
        lambda: archive(tensor_pickle(), ("/etc/passwd", b"x")),
        "'/etc/passwd' leads outside",
    ),
    "a name of the parent": (
        lambda: archive(tensor_pickle(), ("archive/../../x", b"x")),
        "leads outside the archive",
    ),
    "a name of a drive": (
        lambda: archive(tensor_pickle(), ("C:archive/x", b"x")),
        "leads outside the archive",
    ),
    "an entry twice": (with_twice_an_entry, "'archive/data/0' appears twice"),
    "entries that overlap": (with_overlap, "overlaps|has no header of its own"),
    "another byte order": (
        lambda: archive(tensor_pickle(), FOUR, ("archive/byteorder", b"big")),
        "byte order b'big'",
    ),
    "a storage that is absent": (lambda: archive(tensor_pickle()), "'data/0' is absent"),
    "a storage that leads outside": (
        lambda: archive(tensor_pickle(key="../../etc/passwd"), FOUR),
        "'data/../../etc/passwd' is absent",
    ),
    "a storage of another size": (
        lambda: archive(tensor_pickle(n=5), FOUR),
        "has 16 bytes, expected 20",
    ),
    "a storage of no size": (lambda: archive(tensor_pickle(n=-1), FOUR), "of -1 elements"),
    "a view beyond the storage": (
        lambda: archive(tensor_pickle(offset=1), FOUR),
        "reach byte 20 of a storage of 16",
    ),
    "strides beyond the storage": (
        lambda: archive(tensor_pickle(shape=(2, 2), strides=(3, 1)), FOUR),
        "reach byte 20 of a storage of 16",
    ),
    "a negative stride": (
        lambda: archive(tensor_pickle(strides=(-1,)), FOUR),
        "expected non-negative integers",
    ),
    "a size too few strides": (
        lambda: archive(tensor_pickle(shape=(2, 2)), FOUR),
        "with 1 strides",
    ),
    "huge sizes": (
        lambda: archive(tensor_pickle(shape=(2**40, 2**40), strides=(0, 0)), FOUR),
        r"beyond 2\*\*63 bytes",
    ),
    "huge numbers": (lambda: archive(tensor_pickle(shape=(2**80,)), FOUR), "expected non-negative"),
    "numbers that are none": (
        lambda: archive(tensor_pickle(shape=("4",)), FOUR),
        "expected non-negative integers",
    ),
    "a program": (
        lambda: saved({"a": Evil()}),
        "tensor 'a': names 'posix.system', which was not run",
    ),
    "a program beside": (
        lambda: saved({"model": {"a": torch.zeros(2)}, "b": [Evil()]}),
        "data.pkl: names 'posix.system', which was not run",
    ),
    "a program for a key": (
        lambda: archive(b"\x80\x02}cos\nsystem\n)RNs."),
        "names 'os.system', which was not run",
    ),
    "a module": (lambda: saved(torch.nn.Linear(2, 2)), "names 'torch.nn.modules.linear.Linear'"),
    "arguments beside": (
        lambda: saved({"model": {"a": torch.zeros(2)}, "args": argparse.Namespace(x=1)}),
        "names 'argparse.Namespace'",
    ),
    "tensors beside": (
        lambda: saved({"model": {"a": torch.zeros(2)}, "optimizer": [{"m": torch.zeros(2)}]}),
        r"tensors in entry 'optimizer' beside .*torch.load\(FILE, weights_only=True\)\['model'\]",
    ),
    "a number among tensors": (
        lambda: saved({"a": torch.zeros(2), "epoch": 3}),
        "entry 'epoch' is an int, expected a tensor",
    ),
    "dicts of dicts": (lambda: saved({"net": {"a": torch.zeros(2)}}), "entry 'net' is a dict"),
    "a list": (lambda: saved([torch.zeros(2)]), "holds a list, expected a state dict"),
    "a tensor": (lambda: saved(torch.zeros(2)), "holds a tensor, expected a state dict"),
    "complex in a wrapper": (
        lambda: saved({"model": {"a": torch.zeros(2, dtype=torch.complex128)}}),
        "tensor 'a' of 'model': holds complex numbers .*torch.ComplexDouble",
    ),
    "lazy": (
        lambda: saved(torch.nn.LazyLinear(3).state_dict()),
        "tensor 'weight': has no shape yet.*UninitializedParameter.*; run the model once",
    ),
    "sparse": (
        lambda: saved({"a": torch.eye(3).to_sparse()}),
        "tensor 'a': is sparse .*_rebuild_sparse_tensor.*; .*to_dense",
    ),
    "a type of later versions": (
        lambda: saved({"a": torch.zeros(2, dtype=torch.uint8).view(torch.float4_e2m1fn_x2)}),
        "tensor 'a': has a type that is not supported .*float4_e2m1fn_x2.*; .*bfloat16",
    ),
    "no data at all": (
        lambda: saved({"a": torch.empty(2, device="meta")}),
        "tensor 'a': has no data.*_rebuild_meta_tensor",
    ),
    "a cycle": (lambda: archive(cyclic()), "entry 'a' of 'state_dict' is an int"),
    "itself": (lambda: archive(b"\x80\x02}q\0X\5\0\0\0modelh\0s."), "wrappers in wrappers"),
    "deep containers": (
        lambda: archive(b"\x80\x02" + b"]" * 200_000 + b"a" * 199_999 + b"."),
        "holds a list",
    ),
    "a deep key": (
        lambda: archive(b"\x80\x02})" + b"\x85" * 200_000 + b"Ns."),
        "has a key that is a tuple",
    ),
    "a key twice": (
        lambda: archive(b"\x80\x02}(X\1\0\0\0aNX\1\0\0\0aNu."),
        "has the key 'a' twice",
    ),
    "a pickle that ends early": (lambda: archive(b"\x80\x02}"), "ends early"),
    "a pickle of nothing": (lambda: archive(b""), "ends early"),
    "an empty stack": (lambda: archive(b"\x80\x02."), "empty stack"),
    "a value that was not stored": (lambda: archive(b"\x80\x02h\7."), "which it did not store"),
    "a huge memo": (
        lambda: archive(b"\x80\x02Nr\xff\xff\xff\x7f."),
        "stores a value under the number 2147483647, and 0 values before it",
    ),
    "a call without arguments": (
        lambda: archive(b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n)R."),
        "with 0 arguments",
    ),
    "a call of a number": (lambda: archive(b"\x80\x02K\1)R."), "calls 1, expected tensors"),
    "a storage of another kind": (
        lambda: archive(b"\x80\x02(X\7\0\0\0storageX\1\0\0\0aX\1\0\0\0bNK\1tQ."),
        "storage of type 'a'",
    ),
    "an object": (lambda: archive(b"\x80\x02)\x81."), "instruction NEWOBJ"),
}
REFUSED |= {
    f"the name {name}": (partial(archive, b"\x80\x02" + text), "which was not run")
    for name, text in globals_of(
        "os system",
        "builtins eval",
        "builtins getattr",
        "torch load",
        "torch.hub load",
        "numpy array",
    )
}


@pytest.mark.parametrize("case", REFUSED.values(), ids=REFUSED.keys())
def test_refused(tmp_path: Path, case: tuple[Callable[[], bytes], str]) -> None:
    make, message = case
    path = tmp_path / "model.pt"
    path.write_bytes(make())
    with pytest.raises(InputError, match=message) as caught:
        Checkpoint.open(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 600
    assert not os.path.exists(EVIDENCE)


def test_script_is_refused(tmp_path: Path) -> None:
    with pytest.warns(DeprecationWarning):
        script = torch.jit.script(torch.nn.Linear(2, 2))
        torch.jit.save(script, tmp_path / "m.pt")
    with pytest.raises(InputError, match="is a TorchScript archive"):
        Checkpoint.open(tmp_path / "m.pt")


@pytest.mark.parametrize("length", range(0, len(SAVED.getvalue()), 37))
def test_truncated_is_refused(tmp_path: Path, length: int) -> None:
    path = tmp_path / "model.pt"
    path.write_bytes(SAVED.getvalue()[:length])
    message = (
        rf"model\.pt: truncated: {length} bytes, and no zip directory at the end, as torch\.save "
        "writes one; copy or download it again"
    )
    with pytest.raises(InputError, match=message if length else r"model\.pt: begins with b''"):
        Checkpoint.open(path)


@settings(max_examples=400, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, len(SAVED.getvalue()) - 1), st.integers(1, 255)), max_size=4)
)
def test_damage_never_escapes(
    tmp_path_factory: pytest.TempPathFactory, flips: list[tuple[int, int]]
) -> None:
    """A file with flipped bits reads, or is refused in a line."""
    data = bytearray(SAVED.getvalue())
    for at, bits in flips:
        data[at] ^= bits
    path = tmp_path_factory.mktemp("damage") / "model.pt"
    path.write_bytes(data)
    try:
        for tensor in Checkpoint.open(path).tensors.values():
            assert tensor.offset + (tensor.n_bytes if tensor.strides is None else 0) <= len(data)
            b"".join(chunks(tensor))
    except TalliesError as error:
        assert "\n" not in str(error)
