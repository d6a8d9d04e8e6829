"""Models of several parts are merged part by part, and their own libraries load the result."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from sentence_transformers import SentenceTransformer

import tallies
from tests.support.pipelines import components, save_pipeline, save_sentence_transformer


def files_with_weights(path: Path) -> set[str]:
    return {str(file.relative_to(path)) for file in path.rglob("*.safetensors*")}


def mean(folder: Path, file: str) -> dict[str, torch.Tensor]:
    """Return the mean of both models' tensors in a file: one sum, one division, in float32."""
    a, b = (load_file(folder / name / file) for name in ("a", "b"))
    return {
        name: tensor.float().add(b[name].float()).div(2).to(tensor.dtype)
        if tensor.is_floating_point()
        else tensor
        for name, tensor in a.items()
    }


@pytest.fixture(scope="module")
def embedders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("embedders")
    for seed, name in enumerate("ab"):
        save_sentence_transformer(folder / name, seed)
    return folder


@pytest.fixture(scope="module")
def pipelines(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pipelines")
    for seed, name in enumerate("ab"):
        save_pipeline(folder / name, seed)
    return folder


def merge(folder: Path, out: Path, **keys: object) -> tallies.MergeReport:
    models = [{"model": str(folder / name)} for name in "ab"]
    return tallies.merge({"merge_method": "linear", "models": models, **keys}, out)


def assert_parts_are_means(folder: Path, out: Path) -> None:
    files = files_with_weights(folder / "a")
    assert files_with_weights(out) == files
    for file in files:
        found, expected = load_file(out / file), mean(folder, file)
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[name], expected[name]) for name in expected), file


def test_a_sentence_transformer_with_a_dense_layer(embedders: Path, tmp_path: Path) -> None:
    out = tmp_path / "merged"
    merge(embedders, out)
    assert_parts_are_means(embedders, out)
    model = SentenceTransformer(str(out), device="cpu")
    dense = load_file(out / "2_Dense/model.safetensors")
    assert torch.equal(model[2].linear.weight.detach(), dense["linear.weight"])
    vector = model.encode(["a b c"])
    assert vector.shape == (1, 8)
    assert np.isfinite(vector).all()


def test_a_sentence_transformer_comes_back_from_a_store(embedders: Path, tmp_path: Path) -> None:
    store = tmp_path / "store"
    tallies.pack(embedders / "a", {"b": embedders / "b"}, store, codec="sparse", density="exact")
    tallies.Store.open(store).unpack("b", tmp_path / "b")
    texts = ["a b c", "x y"]
    models = [
        SentenceTransformer(str(path), device="cpu") for path in (embedders / "b", tmp_path / "b")
    ]
    ours, theirs = (model.encode(texts) for model in models)
    assert np.array_equal(ours, theirs)


def test_a_pipeline(pipelines: Path, tmp_path: Path) -> None:
    out = tmp_path / "merged"
    merge(pipelines, out)
    assert_parts_are_means(pipelines, out)
    for name, model in components(out).items():
        stem = "model" if name == "text_encoder" else "diffusion_pytorch_model"
        stored = mean(pipelines, f"{name}/{stem}.safetensors")
        state = model.state_dict()
        held = [key for key in state if key in stored]
        assert len(held) == len(stored) == len(state), name
        assert all(torch.equal(state[key], stored[key]) for key in held), name


def test_a_pipeline_in_shards_and_another_dtype(pipelines: Path, tmp_path: Path) -> None:
    out = tmp_path / "merged"
    merge(pipelines, out, max_shard_size="60KB", out_dtype="bfloat16")
    assert (out / "unet/diffusion_pytorch_model.safetensors.index.json").exists()
    whole = tmp_path / "whole"
    merge(pipelines, whole, out_dtype="bfloat16")
    expected = components(whole, dtype=torch.bfloat16)
    for name, model in components(out, dtype=torch.bfloat16).items():
        state, other = model.state_dict(), expected[name].state_dict()
        assert state.keys() == other.keys()
        assert all(torch.equal(state[key], other[key]) for key in state), name


def test_a_pipeline_of_a_variant(tmp_path: Path) -> None:
    for seed, name in enumerate("ab"):
        save_pipeline(tmp_path / name, seed, variant="fp16")
    out = tmp_path / "merged"
    merge(tmp_path, out)
    assert_parts_are_means(tmp_path, out)
    assert components(out, variant="fp16").keys() == {"unet", "vae", "text_encoder"}
