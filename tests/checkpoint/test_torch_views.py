"""Tensors in files of ``torch.save`` are read in row-major order, whatever views they are."""

from __future__ import annotations

import collections
import math
import os
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tallies.checkpoint import strided
from tallies.checkpoint.checkpoint import Checkpoint
from tallies.checkpoint.data import chunks, read_range, same_bytes
from tallies.errors import StorageError
from tests.support.torch_files import State, tensor_pickle

DTYPES = [
    torch.float64,
    torch.float32,
    torch.float16,
    torch.bfloat16,
    torch.float8_e4m3fn,
    torch.float8_e5m2,
    torch.int64,
    torch.int32,
    torch.int16,
    torch.int8,
    torch.uint64,
    torch.uint32,
    torch.uint16,
    torch.uint8,
    torch.bool,
]


def stored_bytes(tensor: torch.Tensor) -> bytes:
    """The elements in row-major order."""
    plain = torch.empty(tensor.shape, dtype=tensor.dtype)
    plain.copy_(tensor.detach())
    return plain.reshape(-1).view(torch.uint8).numpy().tobytes() if plain.numel() else b""


def assert_reads(path: Path, expected: Mapping[str, torch.Tensor]) -> None:
    found = Checkpoint.open(path).tensors
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert found[name].shape == tuple(tensor.shape)
        assert b"".join(chunks(found[name])) == stored_bytes(tensor), name


@st.composite
def states(draw: st.DrawFn) -> State:
    """Tensors that are views: transposed, sliced, expanded, of one storage, or empty."""
    state = {}
    for i in range(draw(st.integers(1, 4))):
        shape = draw(st.lists(st.integers(0, 5), max_size=4))
        n = math.prod(shape)
        raw = torch.tensor(list(draw(st.binary(min_size=n, max_size=n))), dtype=torch.uint8)
        tensor = raw.to(draw(st.sampled_from(DTYPES))).reshape(shape)
        for _ in range(draw(st.integers(0, 2))):
            if tensor.dim() == 0:
                break
            match draw(st.sampled_from(["permute", "slice", "expand", "select"])):
                case "permute":
                    tensor = tensor.permute(draw(st.permutations(range(tensor.dim()))))
                case "slice":
                    d = draw(st.integers(0, tensor.dim() - 1))
                    begin, step = draw(st.integers(0, 2)), draw(st.integers(1, 3))
                    tensor = tensor[(slice(None),) * d + (slice(begin, None, step),)]
                case "expand":
                    tensor = tensor.unsqueeze(0).expand(draw(st.integers(1, 3)), *tensor.shape)
                case "select":
                    if tensor.shape[0]:
                        tensor = tensor[draw(st.integers(0, tensor.shape[0] - 1))]
        state[f"t{i}"] = tensor
    if draw(st.booleans()):
        state["again"] = state["t0"]
    return state


@settings(max_examples=150, deadline=None)
@given(
    states(),
    st.sampled_from([None, "state_dict", "model", "model_state_dict", "module"]),
    st.sampled_from([dict, collections.OrderedDict]),
    st.integers(2, 5),
    st.sampled_from([8, 64, 1 << 22]),
)
def test_views_are_read_in_order(
    tmp_path_factory: pytest.TempPathFactory,
    state: State,
    wrapper: str | None,
    kind: Callable[[State], Any],
    protocol: int,
    block_bytes: int,
) -> None:
    path = tmp_path_factory.mktemp("views") / "model.pt"
    content = kind(state)
    if wrapper:
        content = {"epoch": 3, wrapper: content, "history": [1.5, {"lr": (1, None)}]}
    torch.save(content, path, pickle_protocol=protocol)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(strided, "_BLOCK_BYTES", block_bytes)
        patch.setattr(strided, "_PAGE_BYTES", min(block_bytes, 4096))
        assert_reads(path, state)


def test_large_views(tmp_path: Path) -> None:
    """Blocks end within rows, and stretches are read with and without what lies between."""
    wide = torch.randn(3000, 1100)
    state = {
        "transposed": wide.t(),
        "column": wide[:, 7],
        "every_other": wide[::2, ::3],
        "channels_last": torch.randn(70, 60, 16, 16).to(memory_format=torch.channels_last),
    }
    torch.save(state, tmp_path / "model.bin")
    assert_reads(tmp_path / "model.bin", state)
    found = Checkpoint.open(tmp_path / "model.bin").tensors
    assert read_range(found["transposed"], 40 * 12000, 10 * 12000) == stored_bytes(wide.t()[40:50])
    assert read_range(found["column"], 0, 12000) == stored_bytes(wide[:, 7])


def test_parameters_and_metadata(tmp_path: Path) -> None:
    module = torch.nn.Sequential(torch.nn.BatchNorm1d(2), torch.nn.Linear(2, 3))
    torch.save(module.state_dict(), tmp_path / "module.pth")
    assert_reads(tmp_path / "module.pth", module.state_dict())
    parameters = dict(module.named_parameters())
    torch.save(parameters, tmp_path / "parameters.pth")
    assert_reads(tmp_path / "parameters.pth", parameters)


@pytest.mark.parametrize("stem", ["modèle", "a model.v1", "模型", "x" * 200])
def test_names_of_files(tmp_path: Path, stem: str) -> None:
    """The archive's top directory is named after the file."""
    state = {"a": torch.arange(5.0)}
    torch.save(state, tmp_path / f"{stem}.pt")
    assert_reads(tmp_path / f"{stem}.pt", state)


def test_archives_of_other_writers(tmp_path: Path) -> None:
    """Headers in the form for files beyond 4 GiB, and a comment behind the directory."""
    path = tmp_path / "model.pt"
    with zipfile.ZipFile(path, "w") as made:
        made.comment = b"a comment"
        for name, data in (("m/data.pkl", tensor_pickle()), ("m/data/0", bytes(range(16)))):
            with made.open(name, "w", force_zip64=True) as entry:
                entry.write(data)
    (tensor,) = Checkpoint.open(path).tensors.values()
    assert b"".join(chunks(tensor)) == bytes(range(16))


def test_pieces_of_two_tensors_of_one_size_fit(tmp_path: Path) -> None:
    wide = torch.randn(700, 900)
    torch.save({"plain": wide, "transposed": wide.t().contiguous().t()}, tmp_path / "a.pt")
    tensors = Checkpoint.open(tmp_path / "a.pt").tensors
    assert tensors["transposed"].strides is not None
    assert same_bytes(tensors["plain"], tensors["transposed"])


def test_a_view_of_a_file_cut_off_while_it_is_read(tmp_path: Path) -> None:
    torch.save({"a": torch.randn(100, 100).t()}, tmp_path / "model.pt")
    (tensor,) = Checkpoint.open(tmp_path / "model.pt").tensors.values()
    os.truncate(tmp_path / "model.pt", tensor.offset + 1000)
    with pytest.raises(StorageError, match="'a' ends early"):
        list(chunks(tensor))
