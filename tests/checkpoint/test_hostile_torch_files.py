"""Files of ``torch.save`` that were made to take long or much memory."""

from __future__ import annotations

import pickle
import random
import struct
import time
import zipfile
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Final

import pytest
import torch

from tallies.checkpoint import pickled, torch_zip
from tallies.checkpoint.checkpoint import Checkpoint
from tallies.checkpoint.pickle_tables import NumberKey, key_of
from tallies.checkpoint.strided import row_major
from tallies.errors import InputError
from tests.support.torch_files import archive, saved

SECONDS: Final = 5.0
N: Final = 40_000
"""Things that are compared with all before them take minutes."""

SAME_HASH: Final = 2**61 - 1
"""Python hashes all multiples of this number to 0."""

TENSOR: Final = b"ctorch._utils\n_rebuild_tensor_v2\n"
NOTHING: Final = b"ctorch._utils\n_rebuild_parameter\n"


def number(value: int) -> bytes:
    """Return the instruction that pushes a whole number."""
    digits = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    return b"\x8a" + bytes([len(digits)]) + digits


def ones(n: int) -> bytes:
    """Return the instructions that push a tuple of ones."""
    return b"(" + b"K\1" * n + b"t"


STORAGE: Final = b"(X\7\0\0\0storagectorch\nFloatStorage\nX\1\0\0\x000X\3\0\0\0cpuK\1tQ"

QUICK: Final[dict[str, tuple[Callable[[], bytes], str]]] = {
    "keys of one hash": (
        lambda: b"}(" + b"".join(number(i * SAME_HASH) + b"N" for i in range(1, N)) + b"u.",
        "entry 2305843009213693951 is a NoneType, expected a tensor",
    ),
    "values stored under numbers of one hash": (
        lambda: b"N" + b"".join(b"p%d\n" % (i * SAME_HASH) for i in range(1, N)) + b".",
        "stores a value under the number 2305843009213693951, and 0 values before it",
    ),
    "many names": (
        lambda: b"".join(b"ca\n%d\n0" % i for i in range(N)) + b".",
        "'a.0', which was not run",
    ),
    "a long name": (
        lambda: b"ctorch\n" + b"a" * 2000 + b"\n.",
        "uses a name of more than 1000 characters",
    ),
    "one call with many arguments, made again and again": (
        lambda: NOTHING + b"p0\n" + ones(N) + b"p1\n" + b"h\0h\1R0" * N + b".",
        "calls torch._utils._rebuild_parameter with 40000 arguments",
    ),
    "one shape of many dimensions": (
        lambda: TENSOR + b"(" + STORAGE + b"K\0" + ones(N) + ones(N) + b"\x89}tR.",
        "has a tensor of 40000 dimensions, expected at most 32",
    ),
    "a number of many digits": (
        lambda: b"\x8b" + struct.pack("<i", 10**6) + b"\1" * 10**6 + b".",
        "has a number of more than 1024 bits",
    ),
}


@pytest.mark.parametrize("case", QUICK.values(), ids=QUICK.keys())
def test_refused_at_once(tmp_path: Path, case: tuple[Callable[[], bytes], str]) -> None:
    make, message = case
    path = tmp_path / "model.pt"
    path.write_bytes(archive(b"\x80\x02" + make()))
    begin = time.process_time()
    with pytest.raises(InputError) as caught:
        Checkpoint.open(path)
    assert time.process_time() - begin < SECONDS
    assert message in str(caught.value)
    assert len(str(caught.value)) < 600


def test_a_pickle_has_a_most_of_instructions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pickled, "MAX_INSTRUCTIONS", 10)
    assert pickled.load(b"]" * 9 + b".")[0] == []
    with pytest.raises(ValueError, match="has more than 10 instructions, the most of a file"):
        pickled.load(b"]" * 10 + b".")


def test_keys_are_as_equal_as_numbers_are() -> None:
    values = [0, -0.0, 1, True, 1.0, 1.5, -1, -1.0, 255, 256, 2**63, float(2**63), 1e308, "1", b"1"]
    values += [struct.unpack("<d", struct.pack("<q", 77))[0], 77, None, float("inf"), "inf"]
    for one in values:
        for other in values:
            assert (key_of(one) == key_of(other)) == (one == other), (one, other)
            if one == other:
                assert hash(key_of(one)) == hash(key_of(other))
    key = key_of(SAME_HASH)
    assert isinstance(key, NumberKey)
    assert (repr(key), hash(key) != hash(key_of(0))) == (str(SAME_HASH), True)


def test_state_dicts_beside_numbered_ones_are_read(tmp_path: Path) -> None:
    """Optimisers number their parameters."""
    numbered = {"state": {i: {"step": i, 0.5: None} for i in range(600)}, "param_groups": [{}]}
    content = {"optimizer": numbered, "model": {"a": torch.arange(4.0)}}
    for protocol in (0, 1, 2, 4):
        path = tmp_path / f"{protocol}.pt"
        path.write_bytes(saved(content, pickle_protocol=protocol or 2))
        assert list(Checkpoint.open(path).tensors) == ["a"]


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_values_of_python_are_read_as_they_are(protocol: int) -> None:
    """All protocols number the values that they store one by one."""
    rng = random.Random(protocol)
    texts = [f"text {i}" for i in range(1000)]
    value = [[rng.choice(texts), [i], {"key": (i, 1.5, None)}] for i in range(3000)]
    assert pickled.load(pickle.dumps(value, protocol))[0] == value


def test_row_major_strides() -> None:
    assert [row_major(shape) for shape in ((), (5,), (2, 3, 4), (0, 3))] == [
        (), (1,), (12, 4, 1), (3, 1),
    ]  # fmt: skip


def directory(entry: bytes, n: int) -> bytes:
    """Return a zip of a directory that has an entry again and again."""
    made = archive(b"")
    end = made.rindex(b"PK\5\6")
    tail = struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, n & 0xFFFF, n & 0xFFFF, len(entry) * n, 0, 0)
    first = made.index(b"PK\1\2")
    assert first < end
    return made[:first] + entry * n + tail


def entry(extra: int) -> bytes:
    """Return an entry of a directory with so many bytes of extra fields, which are all empty."""
    fields = (b"PK\1\2", 20, 20, 0, 0, 0, 0, 0, 0, 0, 1, 4 * (extra // 4), 0, 0, 0, 0, 0)
    return struct.pack("<4s6H3I5H2I", *fields) + b"a" + b"\x99\x99\0\0" * (extra // 4)


@pytest.mark.parametrize(
    ("extra", "n", "message"),
    [
        (0, torch_zip.MAX_TENSORS + 1, "more than 262144 entries, the most of a file"),
        (65_000, 100, "65000 bytes beside a name, expected 1024"),
        (1024, 40_000, "42840000 bytes, expected at most 33554432"),
    ],
    ids=["entries", "extra fields", "bytes"],
)
def test_a_large_directory_of_a_zip_is_refused_before_it_is_read(
    tmp_path: Path, extra: int, n: int, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "model.pt"
    path.write_bytes(directory(entry(extra), n))
    monkeypatch.setattr(zipfile, "ZipInfo", lambda *_: pytest.fail("read"))
    with pytest.raises(InputError, match=message):
        Checkpoint.open(path)


def test_a_small_directory_is_read_as_zipfile_reads_it(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    path.write_bytes(directory(entry(1024), 3))
    with zipfile.ZipFile(BytesIO(path.read_bytes())) as made:
        assert [info.filename for info in made.infolist()] == ["a"] * 3
    with pytest.raises(InputError, match="has no header of its own"):
        Checkpoint.open(path)
