"""Types whose values mean nothing here: their bits are compared, stored and patched as others."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors
import torch
from safetensors.torch import save_file

import tallies
from tallies.errors import InputError
from tallies.spec.dtypes import BY_NAME, OPAQUE, size_of
from tallies.torch import apply_patch

SHAPE = (6, 8, 200)
NAMES = sorted(OPAQUE)
IN_TORCH = [name for name in NAMES if BY_NAME[name].array_name]


def bits(dtype: str, seed: int) -> bytes:
    """Return the bytes of a tensor of every pattern, NaN among them."""
    return np.random.default_rng(seed).bytes(size_of(dtype, SHAPE))


def changed(data: bytes, at: tuple[int, ...] = (0, 77, 799)) -> bytes:
    found = bytearray(data)
    for i in at:
        found[i] ^= 0x5A
    return bytes(found)


def write(path: Path, dtype: str, data: bytes, weights: bytes = bytes(64)) -> Path:
    """Write a model of one such tensor and one that merges."""
    path.mkdir()
    head = json.dumps(
        {
            "odd": {"dtype": dtype, "shape": list(SHAPE), "data_offsets": [0, len(data)]},
            "w": {"dtype": "F32", "shape": [16], "data_offsets": [len(data), len(data) + 64]},
        }
    ).encode()
    head = head.ljust(-(-len(head) // 8) * 8)
    (path / "model.safetensors").write_bytes(
        len(head).to_bytes(8, "little") + head + data + weights
    )
    return path


def stored(path: Path, name: str = "odd") -> tuple[str, list[int], bytes]:
    """Return dtype, shape and bytes of a tensor, as the header says."""
    file = path / "model.safetensors" if path.is_dir() else path
    data = file.read_bytes()
    begin = 8 + int.from_bytes(data[:8], "little")
    one = json.loads(data[8:begin])[name]
    first, end = one["data_offsets"]
    return one["dtype"], one["shape"], data[begin + first : begin + end]


def in_torch(path: Path) -> dict[str, torch.Tensor]:
    """Load a file with the stock library."""
    with safetensors.safe_open(path / "model.safetensors", "pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


def raw(tensor: torch.Tensor) -> bytes:
    return tensor.contiguous().view(torch.uint8).numpy().tobytes()


def recipe(base: Path, expert: Path) -> dict[str, Any]:
    return {"merge_method": "task_arithmetic", "base_model": str(base), "models": [str(expert)]}


@pytest.fixture(params=NAMES)
def models(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, Path, Path]:
    dtype: str = request.param
    data = bits(dtype, 5)
    old = write(tmp_path / "old", dtype, data)
    return dtype, old, write(tmp_path / "new", dtype, changed(data))


@pytest.mark.parametrize("values", ["xor", "difference", "new"])
@pytest.mark.parametrize("coder", ["none", "zstd"])
def test_patches_bring_every_bit(
    models: tuple[str, Path, Path], tmp_path: Path, values: str, coder: str
) -> None:
    dtype, old, new = models
    made = tallies.make_patch(old, new, tmp_path / "patch", values=values, coder=coder)
    assert made.n_changed == 3
    tallies.apply_patch(tmp_path / "patch", old, tmp_path / "again")
    assert (tmp_path / "again/model.safetensors").read_bytes() == (
        new / "model.safetensors"
    ).read_bytes()
    tallies.apply_patch(tmp_path / "patch", old)
    assert stored(old) == stored(new) == (dtype, list(SHAPE), changed(bits(dtype, 5)))
    if values != "new":
        tallies.apply_patch(tmp_path / "patch", old, undo=True)
        assert stored(old)[2] == bits(dtype, 5)
    assert tallies.verify(tmp_path / "patch") is not None


def test_a_change_of_the_dtype_replaces_a_tensor(
    models: tuple[str, Path, Path], tmp_path: Path
) -> None:
    _, old, _ = models
    path = write(tmp_path / "bytes", "U8", bits("U8", 3))
    made = tallies.make_patch(path, old)
    assert made.tensors == {"none": 1, "replaced": 1}
    assert made.data is not None
    tallies.apply_patch(made.data, path, tmp_path / "again")
    assert stored(tmp_path / "again") == stored(old)


def test_diff_counts_what_is_stored(models: tuple[str, Path, Path]) -> None:
    dtype, old, new = models
    (one,) = [one for one in tallies.diff(old, new).tensors if one.name == "odd"]
    assert (one.measures.n_different, one.measures.relative_l2, one.measures.cosine) == (
        3,
        None,
        None,
    )
    assert one.measures.n_elements == len(bits(dtype, 5)) // BY_NAME[dtype].n_bytes
    assert one.measures.to_json_dict()["l2"] is None
    assert tallies.diff(old, old).is_equal
    assert "odd" in str(tallies.diff(old, new))


@pytest.mark.parametrize("codec", ["lossless", "sparse"])
def test_stores_keep_every_bit(models: tuple[str, Path, Path], tmp_path: Path, codec: str) -> None:
    dtype, old, new = models
    options: dict[str, Any] = {"density": "exact"} if codec == "sparse" else {}
    tallies.pack(old, {"task": new}, tmp_path / "store", codec=codec, **options)
    store = tallies.Store.open(tmp_path / "store")
    store.unpack("task", tmp_path / "task")
    assert stored(tmp_path / "task") == stored(new)
    if dtype in IN_TORCH:
        assert raw(store.load("task", framework="torch")["odd"]) == stored(new)[2]
    if codec == "lossless" and dtype in IN_TORCH:
        some = store.elements("task", "odd", 8, 16, framework="torch")
        first, end = size_of(dtype, (8,)), size_of(dtype, (16,))
        assert raw(some) == stored(new)[2][first:end]


def test_a_checkpoint_alone_is_stored(models: tuple[str, Path, Path], tmp_path: Path) -> None:
    _, old, _ = models
    tallies.pack(None, {"task": old}, tmp_path / "store", codec="lossless")
    tallies.Store.open(tmp_path / "store").unpack("task", tmp_path / "task")
    assert stored(tmp_path / "task") == stored(old)


def test_merges_copy_what_is_equal(models: tuple[str, Path, Path], tmp_path: Path) -> None:
    dtype, old, _ = models
    ones = np.ones(16, np.float32).tobytes()
    expert = write(tmp_path / "expert", dtype, bits(dtype, 5), ones)
    tallies.merge(recipe(old, expert), tmp_path / "merged")
    assert stored(tmp_path / "merged") == stored(old)
    assert stored(tmp_path / "merged", "w")[2] == ones


def test_merges_refuse_what_differs(models: tuple[str, Path, Path], tmp_path: Path) -> None:
    dtype, old, new = models
    with pytest.raises(
        InputError, match=rf"new: tensor 'odd' is {dtype} .*not merged .*BF16.*integers=base"
    ):
        tallies.merge(recipe(old, new), tmp_path / "merged")
    assert not (tmp_path / "merged").exists()
    with pytest.raises(InputError, match=rf"tensor 'odd' is {dtype} .*not packed .*BF16"):
        tallies.pack(old, {"a": new, "b": old}, tmp_path / "store")


@pytest.mark.parametrize("dtype", IN_TORCH)
def test_torch_and_the_stock_library_have_the_same_bits(dtype: str, tmp_path: Path) -> None:
    old = write(tmp_path / "old", dtype, bits(dtype, 5))
    new = write(tmp_path / "new", dtype, changed(bits(dtype, 5)))
    made = tallies.make_patch(in_torch(old), in_torch(new))
    assert made.data == tallies.make_patch(old, new).data
    live = in_torch(old)
    assert apply_patch(live, made.data, verify=True) == 3
    assert raw(live["odd"]) == stored(new)[2]
    apply_patch(live, made.data, undo=True)
    assert raw(live["odd"]) == stored(old)[2]
    tallies.apply_patch(made.data, old, tmp_path / "again")
    assert raw(in_torch(tmp_path / "again")["odd"]) == stored(new)[2]
    save_file(live, tmp_path / "saved.safetensors")
    assert stored(tmp_path / "saved.safetensors") == stored(old)


@pytest.mark.parametrize("dtype", IN_TORCH)
def test_merges_in_memory_copy_too(dtype: str, tmp_path: Path) -> None:
    old = write(tmp_path / "old", dtype, bits(dtype, 5))
    new = write(tmp_path / "new", dtype, changed(bits(dtype, 5)))
    base, other = in_torch(old), in_torch(new)
    merged = tallies.merge_state_dicts(base, [in_torch(old)], method="task_arithmetic")
    assert raw(merged["odd"]) == stored(old)[2]
    with pytest.raises(InputError, match=r"tensor 'odd' is .* differs .*not merged"):
        tallies.merge_state_dicts(base, [other], method="task_arithmetic")


def test_a_model_in_memory_of_no_such_type_is_refused(tmp_path: Path) -> None:
    dtype = "F6_E2M3"
    old = write(tmp_path / "old", dtype, bits(dtype, 5))
    made = tallies.make_patch(old, write(tmp_path / "new", dtype, changed(bits(dtype, 5))))
    with pytest.raises(InputError, match=r"tensor 'odd' is F6_E2M3 .*torch has no tensor for"):
        apply_patch({"odd": torch.zeros(3), "w": torch.zeros(16)}, made.data)
    tallies.pack(None, {"task": old}, tmp_path / "store", codec="lossless")
    with pytest.raises(InputError, match=r"no arrays of dtype F6_E2M3.*unpack to disk"):
        tallies.Store.open(tmp_path / "store").load("task")


@pytest.mark.parametrize("dtype", [name for name in IN_TORCH if name != "F4"])
def test_files_of_torch_hold_them(dtype: str, tmp_path: Path) -> None:
    old = write(tmp_path / "old", dtype, bits(dtype, 5))
    torch.save(in_torch(old), tmp_path / "old.pt")
    made = tallies.make_patch(tmp_path / "old.pt", old / "model.safetensors")
    assert made.tensors == {"none": 2}
