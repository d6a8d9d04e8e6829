"""Files beside the weights: the configuration, the tokenizer, and files that are left out."""

from __future__ import annotations

import math
import os
from pathlib import Path

import pytest

from tallies.checkpoint.checkpoint import Checkpoint
from tallies.checkpoint.json_text import MAX_HEADER_BYTES
from tallies.errors import InputError
from tests.support.entries import write_model
from tests.support.handmade import write_file, write_index


def test_auxiliary_files(tmp_path: Path) -> None:
    kept = [
        "README.md",
        "chat_template.jinja",
        "config.json",
        "merges.txt",
        "plugins/notes.txt",
        "tokenizer.json",
    ]
    left = [
        ".gitattributes",
        ".cache/huggingface/download/config.json.metadata",
        "original/consolidated.00.pth",
        "original/params.json",
        "plugins/.hidden",
        "tallies.json",
        "model-1.safetensors",
        "model-1.SAFETENSORS",
        "model.safetensors.index.fp16.json",
        "pytorch_model-00001-of-00002.bin",
        "pytorch_model.bin.index.json",
        "tf_model.h5",
        "flax_model.msgpack.index.json",
        "onnx/model.onnx",
        "onnx/model.onnx_data",
        *(f"weights.{suffix}" for suffix in ("pt", "ckpt", "gguf", "npz", "pkl")),
    ]
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret.json").write_text("{}")
    root = tmp_path / "model"
    for name in kept + left:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("{}")
    write_file(root / "model-1.safetensors", "a")
    write_index(root, {"a": "model-1.safetensors"})
    (root / "folder").symlink_to(outside)
    (root / "vocab.json").symlink_to(outside / "secret.json")
    checkpoint = Checkpoint.open(root)
    assert checkpoint.auxiliary_files() == sorted(map(Path, [*kept, "vocab.json"]))
    alone = Checkpoint.open(root / "model-1.safetensors")
    assert alone.auxiliary_files() == []
    assert alone.config() == {}

    (root / "lost.json").symlink_to(outside / "nothing")
    with pytest.raises(InputError, match=r"lost\.json: is a link to nothing"):
        Checkpoint.open(root).auxiliary_files()


def test_config(tmp_path: Path) -> None:
    assert write_model(tmp_path, []).config() == {}
    path = tmp_path / "config.json"
    checkpoint = Checkpoint.open(tmp_path)
    path.write_text('{"time_step_limit": [0.0, Infinity], "n": 1, "n": %s}' % ("9" * 5000))
    assert checkpoint.config() == {"time_step_limit": [0.0, math.inf], "n": math.inf}
    for broken in ("[]", "", "[" * 100_000, "{}}"):
        path.write_text(broken)
        with pytest.raises(InputError, match=r"config\.json: "):
            checkpoint.config()


def test_files_beyond_the_bound_are_not_read(tmp_path: Path) -> None:
    checkpoint = write_model(tmp_path, [], {})
    os.truncate(tmp_path / "config.json", MAX_HEADER_BYTES + 1)
    with pytest.raises(InputError, match=f"expected JSON of at most {MAX_HEADER_BYTES} bytes"):
        checkpoint.config()
