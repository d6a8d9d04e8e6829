"""Models are found in directories, in shards and behind links; other paths are refused."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tallies.checkpoint.checkpoint import Checkpoint
from tallies.checkpoint.layout import INDEX_NAME, Entry, index_json, layout_shards, tensor_bytes
from tallies.errors import InputError, StorageError
from tests.support import broken_directories
from tests.support.entries import assert_plain, entries, write, write_model
from tests.support.handmade import write_file, write_index


@pytest.mark.parametrize(
    "case", broken_directories.DIRECTORIES.values(), ids=broken_directories.DIRECTORIES.keys()
)
def test_broken_directory_is_refused(tmp_path: Path, case: tuple[Any, str]) -> None:
    make, message = case
    root = tmp_path / "model"
    root.mkdir()
    make(root)
    with pytest.raises(InputError) as caught:
        Checkpoint.open(root)
    assert message in str(caught.value)
    assert str(caught.value).startswith(str(root))
    assert_plain(caught.value)


@given(entries.filter(lambda tensors: len(tensors) > 1), st.integers(1, 200))
def test_shards_read_back(
    tmp_path_factory: pytest.TempPathFactory, tensors: list[Entry], max_shard_bytes: int
) -> None:
    root = tmp_path_factory.mktemp("shards")
    shards = layout_shards(tensors, max_shard_bytes)
    for shard in shards:
        write(root / shard.name, shard.tensors, {"format": "pt", "part": shard.name})
    if len(shards) > 1:
        (root / INDEX_NAME).write_bytes(index_json(shards))
    checkpoint = Checkpoint.open(os.fspath(root))
    assert checkpoint.path == root
    assert checkpoint.files == tuple(root / shard.name for shard in shards)
    assert checkpoint.metadata == {"format": "pt", "part": shards[0].name}
    assert list(checkpoint.tensors) == sorted(t[0] for t in tensors)
    for name, dtype, shape in tensors:
        tensor = checkpoint.tensors[name]
        assert (tensor.dtype, tensor.shape) == (dtype, shape)
    assert checkpoint.n_bytes == sum(tensor_bytes(tensor) for tensor in tensors)


def test_shards_in_a_folder_and_other_files(tmp_path: Path) -> None:
    (tmp_path / "part").mkdir()
    write_file(tmp_path / "part" / "one.safetensors", "b")
    write_file(tmp_path / "two.safetensors", "a", "c")
    write_file(tmp_path / "consolidated.safetensors", "x")
    places = {"a": "./two.safetensors", "b": "part/one.safetensors", "c": "two.safetensors"}
    write_index(tmp_path, places)
    checkpoint = Checkpoint.open(tmp_path)
    assert {name: tensor.path for name, tensor in checkpoint.tensors.items()} == {
        name: tmp_path / place for name, place in places.items()
    }


def test_hub_cache_of_links(tmp_path: Path) -> None:
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshots" / "main"
    blobs.mkdir()
    snapshot.mkdir(parents=True)
    write_file(blobs / "1a", "a")
    write_file(blobs / "2b", "b")
    (blobs / "3c").write_text('{"model_type": "llama"}')
    (snapshot / "model-1.safetensors").symlink_to("../../blobs/1a")
    (snapshot / "model-2.safetensors").symlink_to("../../blobs/2b")
    (snapshot / "config.json").symlink_to("../../blobs/3c")
    write_index(snapshot, {"a": "model-1.safetensors", "b": "model-2.safetensors"})
    checkpoint = Checkpoint.open(snapshot)
    assert [tensor.path.name for tensor in checkpoint.tensors.values()] == [
        "model-1.safetensors",
        "model-2.safetensors",
    ]
    assert checkpoint.config() == {"model_type": "llama"}
    assert checkpoint.auxiliary_files() == [Path("config.json")]
    assert Checkpoint.open(snapshot / "model-2.safetensors").tensors.keys() == {"b"}


EXPECTED = "expected a directory, or a file named .safetensors, .bin, .pt or .pth"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("", "'': expected a directory"),
        ("absent", f"no such file or directory; {EXPECTED}"),
        ("model\0", "no such file or directory"),
        ("x" * 5000, "no such file or directory"),
        ("model+adapter", "no such file or directory; a model with adapters is written MODEL+"),
        ("model+", "nothing stands after its last +; a model with adapters is"),
        ("+adapter", "nothing stands before its first +"),
        ("model++adapter", "nothing stands between two of its +"),
        ("model.gguf", f"{EXPECTED}; convert"),
        ("blob", EXPECTED),
        (INDEX_NAME, "is an index; give the directory that holds it"),
    ],
)
def test_path_of_another_kind(
    tmp_path: Path, name: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for existing in ("model.gguf", "blob", INDEX_NAME):
        (tmp_path / existing).write_bytes(b"{}")
    with pytest.raises(InputError) as caught:
        Checkpoint.open(name)
    assert message in str(caught.value)


def test_a_plus_in_a_name_is_no_adapter(tmp_path: Path) -> None:
    root = tmp_path / "c++"
    root.mkdir()
    assert write_model(root, [("a", "F32", (1,))]).tensors.keys() == {"a"}


def test_a_pipe_is_refused_without_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "model.safetensors")
    with pytest.raises(InputError, match="expected a directory, or a file"):
        Checkpoint.open(tmp_path / "model.safetensors")
    with pytest.raises(InputError, match="holds no"):
        Checkpoint.open(tmp_path)


def test_denied_access_is_a_storage_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def deny(path: Path, *_: object) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    checkpoint = write_model(tmp_path, [], {})
    with monkeypatch.context() as patch:
        patch.setattr("os.scandir", deny)
        with pytest.raises(StorageError, match="cannot be read: Permission denied"):
            Checkpoint.open(tmp_path)
        with pytest.raises(StorageError, match="cannot be read: Permission denied"):
            checkpoint.auxiliary_files()
    monkeypatch.setattr("tallies.checkpoint.json_text.open", deny, raising=False)
    with pytest.raises(StorageError, match=r"config\.json: cannot be read: Permission denied"):
        checkpoint.config()


def test_fifty_thousand_tensors_in_shards(tmp_path: Path) -> None:
    tensors = [
        (f"model.layers.{i // 800}.mlp.experts.{i % 800}.down_proj.weight", "BF16", (1, 2))
        for i in range(50_000)
    ]
    shards = layout_shards(tensors, 50_000)
    assert len(shards) == 4
    for shard in shards:
        write(tmp_path / shard.name, shard.tensors)
    (tmp_path / INDEX_NAME).write_bytes(index_json(shards))
    checkpoint = Checkpoint.open(tmp_path)
    assert [*checkpoint.tensors] == sorted(name for name, _, _ in tensors)


def test_import_needs_neither_numpy_nor_torch() -> None:
    code = (
        "import sys, tallies.checkpoint.checkpoint, tallies.checkpoint.layout; "
        "print(sorted({'numpy', 'torch', 'safetensors'} & sys.modules.keys()))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout == "[]\n"
