"""Files of a result have the names, the places and the metadata of the template's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from tallies import merge, pack
from tallies.store import Store
from tests.support.checkpoints import Model, read_file
from tests.support.merges import request
from tests.support.outputs import at_combine, fail, metadata_of
from tests.support.torch_files import saved

INDEX_OF_DENSE = "2_Dense/model.safetensors.index.json"


def values(seed: int, *names: str) -> Model:
    rng = np.random.default_rng(seed)
    return {name: rng.standard_normal((3, 4), np.float32) for name in names}


def save(path: Path, tensors: Model, metadata: dict[str, str] | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, path, metadata=metadata)


def sentence_model(root: Path, seed: int) -> Path:
    save(root / "model.safetensors", values(seed, "encoder.w", "encoder.v"), {"format": "pt"})
    save(root / "2_Dense/model.safetensors", values(seed + 100, "linear.weight", "linear.bias"))
    modules = [{"idx": i, "path": path} for i, path in enumerate(["", "1_Pooling", "2_Dense"])]
    (root / "modules.json").write_text(json.dumps(modules))
    for folder in ("1_Pooling", "2_Dense"):
        (root / folder).mkdir(exist_ok=True)
        (root / folder / "config.json").write_text('{"in_features": 4}')
    return root


def held(path: Path) -> Model:
    """All tensors below a directory, by file and name."""
    return {
        f"{file.relative_to(path)}:{name}": array
        for file in sorted(path.rglob("*.safetensors"))
        for name, array in read_file(file).items()
    }


def mean(models: list[Path]) -> Model:
    first, second = map(held, models)
    return {name: (first[name] + second[name]) / np.float32(2) for name in first}


def assert_equal(found: Model, expected: Model) -> None:
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array)


def test_parts_come_back_in_place(tmp_path: Path) -> None:
    models = [sentence_model(tmp_path / str(i), i) for i in (1, 2)]
    report = merge(request("linear", models), tmp_path / "out")
    assert_equal(held(tmp_path / "out"), mean(models))
    assert list(report.output.files) == ["model.safetensors", "2_Dense/model.safetensors"]
    for file, n_bytes in report.output.files.items():
        assert (tmp_path / "out" / file).stat().st_size == n_bytes
    for file in ("modules.json", "1_Pooling/config.json", "2_Dense/config.json"):
        assert (tmp_path / "out" / file).read_bytes() == (models[0] / file).read_bytes()
    # A result is a model again.
    merge(request("linear", [tmp_path / "out"] * 2), tmp_path / "again")
    assert_equal(held(tmp_path / "again"), held(tmp_path / "out"))


def test_each_part_has_shards_and_an_index_of_its_own(tmp_path: Path) -> None:
    models = [sentence_model(tmp_path / str(i), i) for i in (1, 2)]
    report = merge(request("linear", models, max_shard_size=48), tmp_path / "out")
    pairs = [f"model-0000{i}-of-00002.safetensors" for i in (1, 2)]
    assert list(report.output.files) == [*pairs, *(f"2_Dense/{name}" for name in pairs)]
    assert json.loads((tmp_path / "out" / INDEX_OF_DENSE).read_text()) == {
        "metadata": {"total_size": 96},
        "weight_map": {"linear.bias": pairs[0], "linear.weight": pairs[1]},
    }
    merge(request("linear", [tmp_path / "out"] * 2), tmp_path / "again")
    assert_equal(held(tmp_path / "again"), mean(models))


def test_a_run_over_parts_is_resumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = request("linear", [sentence_model(tmp_path / str(i), i) for i in (1, 2)])
    with monkeypatch.context() as patch:
        patch.setattr("tallies.merging.run.index_files", fail(RuntimeError("killed")))
        with pytest.raises(RuntimeError, match="killed"):
            merge(made, tmp_path / "out", resume=True)
    # All files are finished: none is combined again.
    with at_combine(0, fail(AssertionError())):
        merge(made, tmp_path / "out", resume=True)
    merge(made, tmp_path / "clean")
    assert_equal(held(tmp_path / "out"), held(tmp_path / "clean"))


def test_parts_come_back_from_a_store(tmp_path: Path) -> None:
    base, task = (sentence_model(tmp_path / str(i), i) for i in (1, 2))
    pack(base, {"t": task}, tmp_path / "store", codec="sparse", density=1.0)
    opened = Store.open(tmp_path / "store")
    report = opened.unpack("t", tmp_path / "out", max_shard_size=48)
    assert (tmp_path / "out" / INDEX_OF_DENSE).exists()
    assert sum("2_Dense/" in file for file in report.files) == 2
    folders = {"linear": "2_Dense/", "encoder": ""}
    found = {
        folders[name.split(".")[0]] + name: array
        for file in (tmp_path / "out").rglob("*.safetensors")
        for name, array in read_file(file).items()
    }
    assert_equal(found, opened.load("t"))


@pytest.mark.parametrize(
    ("given", "whole", "split", "index"),
    [
        *(
            (
                f"{stem}.safetensors",
                f"{stem}.safetensors",
                f"{stem}-00001-of-00002.safetensors",
                f"{stem}.safetensors.index.json",
            )
            for stem in ("model", "diffusion_pytorch_model", "consolidated")
        ),
        (
            "diffusion_pytorch_model.fp16.safetensors",
            "diffusion_pytorch_model.fp16.safetensors",
            "diffusion_pytorch_model.fp16-00001-of-00002.safetensors",
            "diffusion_pytorch_model.safetensors.index.fp16.json",
        ),
    ],
)
def test_names_of_files(tmp_path: Path, given: str, whole: str, split: str, index: str) -> None:
    models = [tmp_path / str(i) for i in range(2)]
    for seed, model in enumerate(models):
        save(model / given, values(seed, "a", "b"))
    assert list(merge(request("linear", models), tmp_path / "out").output.files) == [whole]
    report = merge(request("linear", models, max_shard_size=48), tmp_path / "split")
    assert next(iter(report.output.files)) == split
    assert (tmp_path / "split" / index).exists()
    merge(request("linear", [tmp_path / "split"] * 2), tmp_path / "again")
    assert read_file(tmp_path / "again" / whole).keys() == {"a", "b"}


@pytest.mark.parametrize("given", ["0.safetensors", "dir/pytorch_model.bin", "dir/weights.pt"])
def test_names_without_a_convention_become_the_usual_one(tmp_path: Path, given: str) -> None:
    path = tmp_path / given
    if path.suffix == ".safetensors":
        save(path, values(1, "a"))
    else:
        path.parent.mkdir()
        path.write_bytes(saved({"a": torch.zeros(3, 4)}))
    model = path if path.parent == tmp_path else path.parent
    report = merge(request("linear", [model] * 2), tmp_path / "out")
    assert list(report.output.files) == ["model.safetensors"]


def test_metadata_of_the_template_is_carried(tmp_path: Path) -> None:
    kept = {"modelspec.title": "A", "ss_network_dim": "4", "format": "pt"}
    lies = {
        "modelspec.hash_sha256": "0x1",
        "sshs_legacy_hash": "2",
        "sshs_model_hash": "3",
        "ss_sd_model_hash": "4",
    }
    save(tmp_path / "a.safetensors", values(1, "w"), {**kept, **lies})
    save(tmp_path / "b.safetensors", values(2, "w"), {"modelspec.title": "B"})
    for models, expected in (("ab", kept), ("ba", {"modelspec.title": "B", "format": "pt"})):
        paths = [tmp_path / f"{name}.safetensors" for name in models]
        merge(request("linear", paths), tmp_path / models)
        assert metadata_of(tmp_path / models / "model.safetensors") == expected


def test_metadata_of_each_part(tmp_path: Path) -> None:
    model = sentence_model(tmp_path / "model", 1)
    for file, title in (("model.safetensors", "A"), ("2_Dense/model.safetensors", "B")):
        save(model / file, read_file(model / file), {"title": title})
    merge(request("linear", [model] * 2), tmp_path / "out")
    found: dict[str, Any] = {
        file: metadata_of(tmp_path / "out" / file)["title"]
        for file in ("model.safetensors", "2_Dense/model.safetensors")
    }
    assert found == {"model.safetensors": "A", "2_Dense/model.safetensors": "B"}
