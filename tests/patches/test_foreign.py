"""Layouts of other tools: read as their code makes them, and written as their code takes them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import zstandard
from safetensors.numpy import load_file as load_arrays
from safetensors.torch import load_file, save_file

import tallies
from tallies.patches.foreign import delta_versions, trl, vllm
from tests.support.foreign_updates import (
    SparseWeightPatch,
    State,
    delta_version,
    take_delta_version,
    take_trl_file,
    take_vllm_patches,
    trl_file,
    vllm_patches,
)

SHAPES = {"embed.weight": (300, 257), "layers.0.w": (70_000,), "layers.1.w": (0, 4), "norm": (33,)}
TRL = ["raw", "gap_delta", "indices"]


def model(seed: int, dtypes: dict[str, torch.dtype] | None = None) -> State:
    torch.manual_seed(seed)
    return {
        name: torch.randn(shape).to((dtypes or {}).get(name, torch.bfloat16))
        for name, shape in SHAPES.items()
    }


def stepped(old: State, seed: int, share: float = 0.02) -> State:
    """A model after a step of an optimizer: most elements keep their bits."""
    torch.manual_seed(seed)
    found = {}
    for name, tensor in old.items():
        new = tensor.clone()
        if name != "norm":
            at = torch.rand(tensor.shape) < share
            new[at] = (new[at].float() * 1.02).to(tensor.dtype)
        found[name] = new
    if share:
        found["layers.0.w"][-1] = 5.0  # far from the others
    return found


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return saved(tmp_path / "base", model(0))


def saved(path: Path, state: State) -> Path:
    path.mkdir()
    save_file(state, path / "model.safetensors")
    return path


def assert_makes(patch: Any, base: Path, new: State, tmp_path: Path) -> None:
    """The patch makes ``new`` of the base, bit for bit."""
    out = tmp_path / "applied"
    tallies.apply_patch(patch, base, out)
    assert_same(load_file(out / "model.safetensors"), new)


def assert_same(found: State, expected: State) -> None:
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype
        a, b = (one.contiguous().view(-1).view(torch.uint8) for one in (found[name], tensor))
        assert torch.equal(a, b), name


@pytest.mark.parametrize("encoding", TRL)
def test_trl_files(base: Path, tmp_path: Path, encoding: str) -> None:
    old, new = model(0), stepped(model(0), 1)
    file = trl_file(tmp_path / "step.safetensors", old, new, encoding)
    report = trl.to_patch(file, base)
    assert_makes(report.data, base, new, tmp_path)
    again = trl.from_patch(
        report.data, base, tmp_path / "again.safetensors", model_version=7, encoding=encoding
    )
    taken = model(0)
    take_trl_file(again, taken)
    assert_same(taken, new)


def test_a_trl_file_comes_back_as_it_was(base: Path, tmp_path: Path) -> None:
    old = model(0)
    new = {name: old[name] for name in old}
    new |= {name: stepped(old, 1)[name] for name in ("embed.weight", "layers.0.w")}
    changed = {name: new[name] for name in ("embed.weight", "layers.0.w")}
    file = trl_file(tmp_path / "step.safetensors", old, changed, "gap_delta")
    patch = trl.to_patch(file, base).data
    again = trl.from_patch(patch, base, tmp_path / "again.safetensors", model_version=7)
    wanted, found = load_arrays_of(file), load_arrays_of(again)
    assert found == wanted
    assert header(file)["__metadata__"] == header(again)["__metadata__"]


def load_arrays_of(path: Path) -> dict[str, tuple[str, bytes]]:
    head = header(path)
    data = path.read_bytes()
    begin = 8 + int.from_bytes(data[:8], "little")
    return {
        name: (one["dtype"], data[begin + one["data_offsets"][0] : begin + one["data_offsets"][1]])
        for name, one in head.items()
        if name != "__metadata__"
    }


def header(path: Path) -> dict[str, Any]:
    data = path.read_bytes()
    found: dict[str, Any] = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    return found


def test_an_anchor_of_trl(base: Path, tmp_path: Path) -> None:
    new = stepped(model(0), 1)
    file = trl_file(tmp_path / "step.safetensors", model(0), new, "raw", anchor=True)
    assert_makes(trl.to_patch(file, base).data, base, new, tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"norm.idx": torch.tensor([33], dtype=torch.int32)}, "'norm': has position 33"),
        ({"norm.idx": torch.tensor([-1], dtype=torch.int32)}, "'norm': has position -1"),
        ({"norm.idx": torch.tensor([1, 1], dtype=torch.int32)}, "has positions"),
        ({"norm.idx": torch.tensor([1.0])}, "its positions are F32 in the encoding 'raw'"),
        ({"norm.val": torch.tensor([1.0])}, "has values F32"),
        ({"norm.idx": None}, "lacks its 'idx'"),
        ({"other": torch.tensor([1.0])}, "has 'other', which belongs to no tensor"),
        ({"x.idx": torch.zeros(0).int(), "x.val": torch.zeros(0).bfloat16()}, "'x' is not known"),
    ],
)
def test_trl_files_that_are_refused(
    base: Path, tmp_path: Path, change: State, message: str
) -> None:
    one = torch.tensor([1], dtype=torch.int32)
    tensors = {"norm.idx": one, "norm.val": torch.tensor([2.0]).bfloat16(), **change}
    metadata = {"format": "sparse_weight_patch", "version": "1", "sparse": "True"}
    kept = {name: tensor for name, tensor in tensors.items() if tensor is not None}
    save_file(kept, tmp_path / "step.safetensors", metadata={**metadata, "encoding": "raw"})
    with pytest.raises(tallies.InputError, match=message):
        trl.to_patch(tmp_path / "step.safetensors", base)


def test_other_files_are_no_updates_of_trl(base: Path, tmp_path: Path) -> None:
    with pytest.raises(tallies.InputError, match="this is no update"):
        trl.to_patch(base / "model.safetensors", base)
    file = trl_file(tmp_path / "step.safetensors", model(0), stepped(model(0), 1), "raw")
    coded = {"encoding": "nvcomp_cascaded", "total_changed_elements": "1"}
    metadata = header(file)["__metadata__"] | coded
    save_file(
        {"norm.idx": torch.zeros(3, dtype=torch.uint8), "norm.val": torch.zeros(1).bfloat16()},
        tmp_path / "coded.safetensors",
        metadata=metadata,
    )
    with pytest.raises(tallies.InputError, match="coded by nvCOMP"):
        trl.to_patch(tmp_path / "coded.safetensors", base)


def test_trl_holds_bfloat16_alone(tmp_path: Path) -> None:
    dtypes = {"norm": torch.float32}
    base = saved(tmp_path / "base", model(0, dtypes))
    new = model(0, dtypes) | {"norm": torch.ones(33)}
    patch = tallies.make_patch(base, new).data
    with pytest.raises(tallies.InputError, match="'norm' is F32 of 33 elements"):
        trl.from_patch(patch, base, tmp_path / "step.safetensors")


@pytest.mark.parametrize("encoding", ["xor", "overwrite"])
@pytest.mark.parametrize("algorithm", ["xxh3-128", "adler32"])
def test_delta_versions(base: Path, tmp_path: Path, encoding: str, algorithm: str) -> None:
    old, new = model(0), stepped(model(0), 1)
    path = delta_version(tmp_path / "shared", 1, old, new, encoding, algorithm, n_files=2)
    patch = delta_versions.to_patch(path, base).data
    assert_makes(patch, base, new, tmp_path)
    again = delta_versions.from_patch(
        patch, base, tmp_path / "again", version=1, encoding=encoding, checksum_format=algorithm
    )
    assert again.name == "weight_v000001"
    taken = model(0)
    take_delta_version(again, taken, 0)
    assert_same(taken, new)
    wanted = {
        name: one for file in path.glob("*.safetensors") for name, one in load_arrays(file).items()
    }
    found = {
        name: one for file in again.glob("*.safetensors") for name, one in load_arrays(file).items()
    }
    assert found.keys() == wanted.keys()
    assert all(np.array_equal(found[name], one) for name, one in wanted.items())


def frames_of(path: Path) -> dict[str, Any]:
    """The frames of all files of a version."""
    return {
        name: one for file in path.glob("*.safetensors") for name, one in load_arrays(file).items()
    }


def test_versions_of_all_dtypes(tmp_path: Path) -> None:
    dtypes = {"norm": torch.float32, "embed.weight": torch.float8_e4m3fn}
    old = model(0, dtypes) | {"ids": torch.arange(9)}
    new = {name: tensor.clone() for name, tensor in old.items()}
    new["norm"][3] = 9.0
    new["ids"][8] = -1
    new["embed.weight"].view(torch.uint8)[5, 5] ^= 0x81
    base = saved(tmp_path / "base", old)
    path = delta_version(tmp_path / "shared", 1, old, new, "xor", "adler32")
    assert_makes(delta_versions.to_patch(path, base).data, base, new, tmp_path)


def test_versions_in_a_row_become_one_patch(base: Path, tmp_path: Path) -> None:
    states = [model(0)]
    paths = []
    for number in (1, 2, 3):
        states.append(stepped(states[-1], number))
        encoding = "overwrite" if number == 2 else "xor"
        paths.append(delta_version(tmp_path / "shared", number, *states[-2:], encoding, "adler32"))
    assert_makes(delta_versions.to_patch(paths, base).data, base, states[-1], tmp_path)
    with pytest.raises(tallies.InputError, match="builds on version 000002, and "):
        delta_versions.to_patch([paths[0], paths[2]], base)
    with pytest.raises(tallies.InputError, match="or the model is not in version 000001"):
        delta_versions.to_patch(paths[1], base)


def test_damaged_versions_are_refused(base: Path, tmp_path: Path) -> None:
    old, new = model(0), stepped(model(0), 1)
    path = delta_version(tmp_path / "shared", 1, old, new, "overwrite", "adler32")
    index = path / "model.safetensors.index.json"
    facts = json.loads(index.read_text())
    for key, value, message in (
        ("delta_encoding", "sum", "found delta_encoding 'sum', expected xor or overwrite"),
        ("compression_format", "lz4", "found compression_format 'lz4', expected zstd"),
        ("checksum_format", "md5", "found checksum_format 'md5'"),
        ("base_version", None, "found base_version None, expected a text"),
    ):
        odd = {**facts, "metadata": {**facts["metadata"], key: value}}
        index.write_text(json.dumps(odd))
        with pytest.raises(tallies.InputError, match=message):
            delta_versions.to_patch(path, base)
    index.write_text(json.dumps({"metadata": {}, "weight_map": {}}))
    with pytest.raises(tallies.InputError, match="this is a whole model"):
        delta_versions.to_patch(path, base)


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        (b"no frame", "is damaged"),
        (zstandard.compress(bytes(1 << 20)), "unpacks to 1048576 bytes, expected at most"),
        (zstandard.compress(b"\1\0\0\0\xff\xff\xff\xff\0"), "has position 4294967295"),
        (zstandard.compress(b"\2\0\0\0\1\0\0\0\0"), "has 9 bytes, expected 14 for 2 positions"),
        (zstandard.compress(b"\1\0\0\0\1\0\0\0\7"), "makes checksum"),
    ],
)
def test_hostile_frames(base: Path, tmp_path: Path, frame: bytes, message: str) -> None:
    path = delta_version(tmp_path / "v", 1, model(0), stepped(model(0), 1), "overwrite", "adler32")
    (file,) = path.glob("*.safetensors")
    data = torch.frombuffer(bytearray(frame), dtype=torch.uint8)
    save_file({"norm": data}, file, metadata={"norm": "00000001"})
    index = path / "model.safetensors.index.json"
    index.write_text(
        json.dumps(json.loads(index.read_text()) | {"weight_map": {"norm": file.name}})
    )
    with pytest.raises(tallies.InputError, match=message):
        delta_versions.to_patch(path, base)


def test_patches_of_vllm(tmp_path: Path) -> None:
    dtypes = {"layers.0.w": torch.float32}
    old = model(0, dtypes)
    new = stepped(old, 1)
    base = saved(tmp_path / "base", old)
    patches = vllm_patches(old, new)
    patch = vllm.to_patch(patches, base).data
    assert_makes(patch, base, new, tmp_path)
    back = vllm.from_patch(patch, base)
    taken = model(0, dtypes)
    take_vllm_patches(back, taken)
    assert_same(taken, new)
    for one, wanted in zip(back, sorted(patches), strict=True):
        assert (one.name, one.shape, one.dtype) == wanted[:3]
        assert torch.equal(one.values, wanted.values)
        assert one.indices is not None and wanted.indices is not None
        assert torch.equal(one.indices, wanted.indices)


def test_sparse_and_dense_patches_of_vllm(base: Path, tmp_path: Path) -> None:
    old, new = model(0), stepped(model(0), 1)
    given: list[Any] = [
        SparseWeightPatch(one.name, one.indices, one.values, one.shape)
        for one in vllm_patches(old, new)
        if one.indices is not None
    ]
    whole = torch.full((33,), 3.0).bfloat16()
    given.append(vllm.WeightPatch("norm", (33,), torch.bfloat16, whole))
    assert_makes(vllm.to_patch(given, base).data, base, new | {"norm": whole}, tmp_path)


def test_a_later_patch_of_vllm_wins(base: Path, tmp_path: Path) -> None:
    given = [
        vllm.WeightPatch(
            "norm", (33,), torch.bfloat16, torch.tensor([x, x]).bfloat16(), torch.tensor(at)
        )
        for x, at in ((2.0, [0, 1]), (4.0, [1, 2]))
    ]
    new = model(0)
    new["norm"][:3] = torch.tensor([2.0, 4.0, 4.0]).bfloat16()
    assert_makes(vllm.to_patch(given, base).data, base, new, tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": "x"}, "'x' is not known"),
        ({"shape": (3, 11)}, r"is of shape \[3, 11\], and the model's \[33\]"),
        ({"values": torch.tensor([1.0])}, "has values F32, and the model's are BF16"),
        ({"indices": torch.tensor([33])}, "has position 33"),
        ({"indices": torch.tensor([1.0])}, "has indices float32, expected int32 or int64"),
        ({"indices": None}, "has 1 values, expected 33"),
        (
            {"indices": torch.tensor([4, 4]), "values": torch.zeros(2).bfloat16()},
            "has position 4 twice",
        ),
    ],
)
def test_patches_of_vllm_that_are_refused(base: Path, change: dict[str, Any], message: str) -> None:
    one = vllm.WeightPatch(
        "norm", (33,), torch.bfloat16, torch.tensor([1.0]).bfloat16(), torch.tensor([1])
    )
    with pytest.raises(tallies.InputError, match=message):
        vllm.to_patch([one._replace(**change)], base)


def test_what_vllm_cannot_take(base: Path) -> None:
    new = model(0)
    new["norm"][3] = float("nan")
    patch = tallies.make_patch(base, new).data
    with pytest.raises(tallies.InputError, match="'norm': a new value is NaN"):
        vllm.from_patch(patch, base)


def test_patches_of_another_model_are_not_written(base: Path, tmp_path: Path) -> None:
    other = saved(tmp_path / "other", model(1))
    patch = tallies.make_patch(base, stepped(model(0), 1)).data
    for write in (
        lambda: trl.from_patch(patch, other, tmp_path / "a.safetensors"),
        lambda: delta_versions.from_patch(patch, other, tmp_path / "b", version=1),
        lambda: vllm.from_patch(patch, other),
    ):
        with pytest.raises(tallies.InputError, match=r"has fingerprint .*, and .* starts from"):
            write()
    assert not [*tmp_path.glob("a.*"), *(tmp_path / "b").glob("*")]


def test_reports_and_chains(tmp_path: Path) -> None:
    places = []
    for seed in range(3):
        places.append(tmp_path / f"m{seed}.safetensors")
        save_file(model(seed), places[-1])
    made = [tallies.make_patch(places[0], places[1]), tallies.make_patch(places[1], places[2])]
    out = trl.from_patch(made[0], places[0], tmp_path / "step.safetensors")
    assert trl.to_patch(out, places[0]).new_fingerprint == made[0].new_fingerprint
    with pytest.raises(tallies.InputError, match="found 2 of them, expected one; apply them"):
        vllm.from_patch(made, places[0])
