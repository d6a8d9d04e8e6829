"""Models in files of ``torch.save`` merge, pack and look as safetensors do."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

import tallies
from tallies.checkpoint.checkpoint import Checkpoint
from tallies.checkpoint.opening import as_model
from tallies.errors import InputError
from tallies.inspection.checkpoints import inspect
from tallies.inspection.verify import verify
from tests.support.checkpoints import data_bytes
from tests.support.torch_files import State


def model(seed: int) -> State:
    made = torch.Generator().manual_seed(seed)
    embedding = torch.randn(64, 32, generator=made)
    return {
        "conv.weight": torch.randn(8, 4, 3, 3, generator=made).to(
            memory_format=torch.channels_last
        ),
        "empty": torch.empty(0, 3),
        "ids": torch.arange(6).reshape(2, 3).t(),
        "linear.weight": torch.randn(300, 200, generator=made).bfloat16().t(),
        "lm_head.weight": embedding,
        "model.embed_tokens.weight": embedding,
        "scalar": torch.tensor(2.5) * seed,
    }


def write_as(path: Path, kind: str, state: State) -> Path:
    path.mkdir()
    (path / "config.json").write_text(json.dumps({"tie_word_embeddings": True}))
    if kind == "safetensors":
        save_file(
            {name: one.contiguous().clone() for name, one in state.items()},
            path / "model.safetensors",
        )
    elif kind == "file":
        torch.save(state, path / "pytorch_model.bin")
    else:
        names = list(state)
        parts = {f"pytorch_model-0000{i + 1}-of-00002.bin": names[i::2] for i in range(2)}
        for file, part in parts.items():
            torch.save({name: state[name] for name in part}, path / file)
        weight_map = {name: file for file, part in parts.items() for name in part}
        (path / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return path


@pytest.mark.parametrize("kind", ["file", "shards"])
@pytest.mark.parametrize("method", ["ties", "dare_linear", "linear", "tsv_m", "breadcrumbs"])
def test_merges_as_safetensors_do(tmp_path: Path, kind: str, method: str) -> None:
    results = []
    for form in ("safetensors", kind):
        paths = [write_as(tmp_path / f"{form}-{i}", form, model(i)) for i in range(3)]
        recipe: dict[str, Any] = {
            "merge_method": method,
            "models": [{"model": str(path)} for path in paths[1:]],
        }
        if method != "linear":
            recipe["base_model"] = str(paths[0])
        tallies.merge(recipe, tmp_path / f"out-{form}", max_shard_size="40KB", seed=3)
        results.append(data_bytes(tmp_path / f"out-{form}"))
    assert results[0] == results[1]
    assert any(name.startswith("model-") for name in results[0])


@pytest.mark.parametrize("codec", ["tall", "magnitude", "sparse", "bitdelta", "tsv_c"])
def test_packs_as_safetensors_do(tmp_path: Path, codec: str) -> None:
    results = []
    for form in ("safetensors", "file"):
        base, *experts = (write_as(tmp_path / f"{form}-{i}", form, model(i)) for i in range(3))
        store = tmp_path / f"store-{form}"
        tallies.pack(base, {"x": experts[0], "y": experts[1]}, store, codec=codec)
        tallies.Store.open(store, base=base).unpack("y", tmp_path / f"out-{form}")
        results.append(data_bytes(tmp_path / f"out-{form}"))
    assert results[0] == results[1]


def test_looks_as_safetensors_do(tmp_path: Path) -> None:
    plain = write_as(tmp_path / "plain", "safetensors", model(1))
    saved = write_as(tmp_path / "saved", "file", model(1))
    assert inspect(saved)["fingerprint"] == inspect(plain)["fingerprint"]
    assert verify(saved)["tensors"] == len(model(1))
    broken = model(1)
    broken["linear.weight"][3, 5] = float("nan")
    torch.save(broken, saved / "pytorch_model.bin")
    with pytest.raises(InputError, match=r"linear\.weight' has 1 NaN .* element 905"):
        verify(saved)


def test_names_of_one_storage_are_tied(tmp_path: Path) -> None:
    shared = torch.randn(4, 3)
    state = {"decoder.embed_tokens.weight": shared, "head.weight": shared, "other": shared.t()}
    torch.save(state, tmp_path / "model.pt")
    tied = as_model(Checkpoint.open(tmp_path / "model.pt")).tied
    assert tied == {"head.weight": "decoder.embed_tokens.weight"}


def test_which_files_are_the_model(tmp_path: Path) -> None:
    for name in ("optimizer.pt", "scheduler.pt", "training_args.bin", "rng_state.pth"):
        (tmp_path / name).write_bytes(b"x")
    torch.save({"a": torch.zeros(2)}, tmp_path / "pytorch_model.bin")
    (tmp_path / "other.bin").write_bytes(b"x")
    assert Checkpoint.open(tmp_path).files == (tmp_path / "pytorch_model.bin",)
    save_file({"b": torch.zeros(2)}, tmp_path / "value_head.safetensors")
    assert Checkpoint.open(tmp_path).files == (tmp_path / "pytorch_model.bin",)
    save_file({"c": torch.zeros(2)}, tmp_path / "model.safetensors")
    (tmp_path / "value_head.safetensors").unlink()
    assert Checkpoint.open(tmp_path).files == (tmp_path / "model.safetensors",)
    assert Checkpoint.open(tmp_path).auxiliary_files() == []


def test_tensors_with_attributes_are_read(tmp_path: Path) -> None:
    """A buffer of torch is a tensor with attributes, and so is what users gave some."""
    parameter = torch.nn.Parameter(torch.arange(3.0))
    parameter.tag = "mine"  # type: ignore[attr-defined]
    torch.save({"a": torch.nn.Buffer(torch.arange(4.0)), "b": parameter}, tmp_path / "m.pt")
    found = Checkpoint.open(tmp_path / "m.pt").tensors
    assert {name: one.shape for name, one in found.items()} == {"a": (4,), "b": (3,)}
