"""The files of a native plan: where tensors of checkpoints lie in them."""

from __future__ import annotations

import ctypes
from dataclasses import replace
from pathlib import Path

import pytest

from tallies import StorageError
from tallies._core import Limits, Plan
from tallies.checkpoint.tensors import TensorInfo
from tallies.engine.codes import PACKED_BITS
from tallies.engine.files import PlanFiles, moved
from tallies.spec.dtypes import DTYPE_CODES


def tensor(path: Path, dtype: str, n: int, offset: int = 0) -> TensorInfo:
    sizes = {"F32": 4, "BF16": 2, "F8_E4M3": 1, "I32": 4, "U8": 1}
    return TensorInfo("x", dtype, (n,), path, offset, n * sizes[dtype])


@pytest.fixture
def files(tmp_path: Path) -> PlanFiles:
    for name in ("a", "b"):
        (tmp_path / name).write_bytes(bytes(range(64)))
    return PlanFiles(Plan(False))


def test_a_file_is_opened_once(files: PlanFiles, tmp_path: Path) -> None:
    first = files.place(tensor(tmp_path / "a", "F32", 4, 8))
    other = files.place(tensor(tmp_path / "b", "BF16", 4))
    again = files.place(tensor(tmp_path / "a", "BF16", 4, 16))
    assert first == (0, 8, DTYPE_CODES["F32"])
    assert other == (1, 0, DTYPE_CODES["BF16"])
    assert again == (0, 16, DTYPE_CODES["BF16"])


def test_what_a_tensor_is_read_as(files: PlanFiles, tmp_path: Path) -> None:
    eight = tensor(tmp_path / "a", "F8_E4M3", 4)
    integers = tensor(tmp_path / "a", "I32", 4)
    assert files.place(integers) == files.bits_place(integers) == (0, 0, DTYPE_CODES["F32"])
    assert files.bits_place(tensor(tmp_path / "a", "BF16", 4))[2] == DTYPE_CODES["BF16"]
    assert files.bytes_place(integers)[2] == files.bits_place(eight)[2]
    assert files.mask_place(tensor(tmp_path / "a", "U8", 4, 3)) == (0, 3, PACKED_BITS)


def test_a_plan_opens_the_files_again_under_their_numbers(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).write_bytes(b"\0\0\x80?" + b"\0\0\xc0\x7f" * (name == "b"))
    files = PlanFiles(Plan(False), [tmp_path / "a", tmp_path / "b"])
    files.create(tmp_path / "c", 4)
    place = files.place(tensor(tmp_path / "b", "F32", 2))
    plan = files.open_again(has_base=False)
    plan.add_job(2, [place], [])
    assert plan.find_nonfinite(job=0, input=0, limits=Limits(1, 1 << 16)) == (1, 1)


def test_files_opened_after_a_file_was_created_keep_their_number(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"\0\0\xc0\x7f")
    files = PlanFiles(Plan(False))
    files.create(tmp_path / "c", 4)
    place = files.place(tensor(tmp_path / "a", "F32", 1))
    plan = files.open_again(has_base=False)
    plan.add_job(1, [place], [])
    assert plan.find_nonfinite(job=0, input=0, limits=Limits(1, 1 << 16)) == (1, 0)


def test_a_tensor_with_strides_is_read_from_a_copy_in_order(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(bytes(range(1, 13)))
    transposed = TensorInfo("x", "F8_E4M3", (3, 4), tmp_path / "a", 0, 12, (1, 3))
    files = PlanFiles(Plan(False))
    place = files.place(transposed)
    assert files.place(transposed) == place
    other = files.bytes_place(replace(transposed, shape=(2, 3), n_bytes=6, strides=(6, 2)))
    assert other[:2] == (place[0], place[1] + 12)
    plan = files.open_again(has_base=False)
    in_order = bytes(range(1, 13))[0::3] + bytes(range(1, 13))[1::3] + bytes(range(1, 13))[2::3]
    for at, data in ((place, in_order), (other, bytes([1, 3, 5, 7, 9, 11]))):
        plan.add_job(len(data), [at], [])
        array = (ctypes.c_char * len(data)).from_buffer_copy(data)
        plan.add_job(len(data), [(-1, ctypes.addressof(array), place[2])], [])
        found, expected = plan.fingerprints(limits=Limits(1, 1 << 16))[-2:]
        assert found == expected


def test_created_files_take_a_head_and_tensors(tmp_path: Path) -> None:
    files = PlanFiles(Plan(False))
    path = tmp_path / "out"
    files.create(path, 12)
    files.write_head(path, b"head")
    one = tensor(path, "F32", 2, 4)
    files.write(one, b"abcd")
    files.writer(one)(b"efgh", 4)
    assert files.place(one) == (0, 4, DTYPE_CODES["F32"])
    assert path.read_bytes() == b"headabcdefgh"


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="gone"):
        PlanFiles(Plan(False), [tmp_path / "gone"])
    with pytest.raises(StorageError, match="gone"):
        PlanFiles(Plan(False)).place(tensor(tmp_path / "gone", "F32", 1))


def test_a_place_further_into_an_array() -> None:
    assert moved((3, 100, DTYPE_CODES["BF16"]), 5) == (3, 110, DTYPE_CODES["BF16"])
    assert moved((-1, 100, DTYPE_CODES["F64"]), -2) == (-1, 84, DTYPE_CODES["F64"])
