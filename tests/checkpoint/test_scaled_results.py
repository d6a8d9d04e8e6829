"""Merges and stores of float8 models with scales are those of the products."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import tallies
from tallies.checkpoint.opening import open_model
from tallies.engine.fingerprints import content, model_fingerprint, tensor_fingerprint
from tallies.errors import InputError
from tallies.inspection.verify import verify
from tests.reference.scaled import scaled
from tests.support.checkpoints import data_bytes, read, write
from tests.support.scaled_models import (
    BF16,
    DEEPSEEK,
    KINDS,
    factors,
    models,
    recipe,
    values,
    write_pair,
)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("method", ["ties", "dare_linear", "linear", "tsv_m", "model_stock"])
def test_merges_are_those_of_the_products(tmp_path: Path, kind: str, method: str) -> None:
    pairs = [write_pair(tmp_path, seed, kind) for seed in range(3)]
    fp8, plain = (list(paths) for paths in zip(*pairs, strict=True))
    report = tallies.merge(recipe(method, fp8), tmp_path / "fp8", seed=7)
    tallies.merge(recipe(method, plain, out_dtype="bfloat16"), tmp_path / "plain", seed=7)
    found, expected = data_bytes(tmp_path / "fp8"), data_bytes(tmp_path / "plain")
    assert json.loads(found.pop("config.json")) == json.loads(expected.pop("config.json"))
    assert found == expected
    assert {array.dtype for array in read(tmp_path / "fp8").values()} == {BF16}
    told = [warning for warning in report.warnings if "as value times scale" in warning]
    assert len(told) == (2 if method == "linear" else 3)


def test_a_plain_base_with_scaled_experts(tmp_path: Path) -> None:
    pairs = [write_pair(tmp_path, seed, "blocks") for seed in range(3)]
    mixed = [pairs[0][1], pairs[1][0], pairs[2][1]]
    report = tallies.merge(recipe("ties", mixed), tmp_path / "mixed")
    told = [warning for warning in report.warnings if "as value times scale" in warning]
    assert len(told) == 1
    assert told[0].startswith(str(mixed[1]))
    tallies.merge(recipe("ties", [plain for _, plain in pairs]), tmp_path / "plain")
    assert data_bytes(tmp_path / "mixed") == data_bytes(tmp_path / "plain")


def test_wider_results(tmp_path: Path) -> None:
    pairs = [write_pair(tmp_path, seed, "channels") for seed in range(3)]
    for i, name in enumerate(("fp8", "plain")):
        made = recipe("task_arithmetic", [pair[i] for pair in pairs], out_dtype="float32")
        tallies.merge(made, tmp_path / name)
    assert data_bytes(tmp_path / "fp8").keys() == data_bytes(tmp_path / "plain").keys()
    for name, array in read(tmp_path / "plain").items():
        assert array.tobytes() == read(tmp_path / "fp8")[name].tobytes()


@pytest.mark.parametrize("kind", KINDS)
def test_layer_scaling_and_norms(tmp_path: Path, kind: str) -> None:
    """Norms are measured over stretches that begin where rows of blocks do."""
    pairs = [write_pair(tmp_path, seed, kind) for seed in range(3)]
    for i, name in enumerate(("fp8", "plain")):
        made = recipe(
            "task_arithmetic",
            [pair[i] for pair in pairs],
            out_dtype="float32",
            layer_scaling={"alpha": "auto", "beta": 0.5},
        )
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("tallies.merging.layer_scaling._ELEMENTS", 4096)
            tallies.merge(made, tmp_path / name)
    for name, array in read(tmp_path / "plain").items():
        assert array.tobytes() == read(tmp_path / "fp8")[name].tobytes(), name


def test_reports_tell_models_with_other_scales_apart(tmp_path: Path) -> None:
    stored, _ = models(1, "blocks")
    base = write(tmp_path / "base", stored, config=DEEPSEEK)
    same = write(tmp_path / "same", stored, config=DEEPSEEK)
    changed = {**stored, "layer.a.weight_scale_inv": stored["layer.a.weight_scale_inv"] * 2}
    other = write(tmp_path / "other", changed, config=DEEPSEEK)
    report = tallies.merge(recipe("task_arithmetic", [base, same, other]), tmp_path / "out")
    expected = []
    for path in (base, same, other):
        tensors = open_model(str(path)).tensors
        prints = {name: tensor_fingerprint(one, content(one)) for name, one in tensors.items()}
        expected.append(model_fingerprint(prints))
    assert report.base is not None
    assert [one.fingerprint for one in (report.base, *report.experts)] == expected
    assert expected[0] == expected[1] != expected[2]
    assert [one.n_equal_to_base for one in report.experts] == [4, 3]


@pytest.mark.parametrize("codec", ["tall", "magnitude", "emr", "bitdelta"])
@pytest.mark.parametrize("kind", ["blocks", "channels", "tensor"])
def test_stores_are_those_of_the_products(tmp_path: Path, kind: str, codec: str) -> None:
    """Norms are stored as they are, or with a mask; results have the dtype of decoded tensors."""
    pairs = [write_pair(tmp_path, seed, kind) for seed in range(3)]
    for form, (base, *experts) in zip(("fp8", "plain"), zip(*pairs, strict=True), strict=True):
        tasks = {f"task{i}": path for i, path in enumerate(experts)}
        more: dict[str, Any] = {} if codec == "bitdelta" else {"shared_dtype": "F32"}
        tallies.pack(base, tasks, tmp_path / f"store-{form}", codec=codec, **more)
        store = tallies.Store.open(tmp_path / f"store-{form}", base=base)
        store.unpack("task1", tmp_path / f"out-{form}")
    fp8, plain = read(tmp_path / "out-fp8"), read(tmp_path / "out-plain")
    assert fp8.keys() == plain.keys()
    for name, array in plain.items():
        assert fp8[name].dtype == BF16
        assert fp8[name].tobytes() == array.astype(BF16).tobytes(), name
    loaded = tallies.Store.open(tmp_path / "store-fp8", base=pairs[0][0]).load("task1")
    assert all(loaded[name].tobytes() == array.tobytes() for name, array in fp8.items())


def test_a_tensor_that_no_task_changed_is_decoded(tmp_path: Path) -> None:
    stored, plain = models(0, "blocks")
    other, _ = models(1, "blocks")
    changed = {**stored, "layer.b.weight": other["layer.b.weight"]}
    base = write(tmp_path / "base", stored, config=DEEPSEEK)
    expert = write(tmp_path / "expert", changed, config=DEEPSEEK)
    tallies.pack(base, {"x": expert}, tmp_path / "store", codec="tall")
    tallies.Store.open(tmp_path / "store", base=base).unpack("x", tmp_path / "out")
    found = read(tmp_path / "out")
    assert found["layer.a.weight"].tobytes() == plain["layer.a.weight"].astype(BF16).tobytes()
    assert "quantization_config" not in json.loads((tmp_path / "out" / "config.json").read_text())


@pytest.mark.parametrize("codec", ["sparse", "tsv_c"])
def test_codecs_that_do_not_read_scales_say_so(tmp_path: Path, codec: str) -> None:
    (base, _), (expert, _) = (write_pair(tmp_path, seed, "blocks") for seed in range(2))
    with pytest.raises(
        InputError,
        match=r"with the scale .* which codec .* "
        "pack with tall, emr, magnitude, lossless, lora or bitdelta",
    ):
        tallies.pack(base, {"x": expert}, tmp_path / "store", codec=codec)


def test_a_store_over_a_base_with_other_scales_is_refused(tmp_path: Path) -> None:
    (base, _), (expert, _) = (write_pair(tmp_path, seed, "blocks") for seed in range(2))
    tallies.pack(base, {"x": expert}, tmp_path / "store", codec="tall")
    stored, _ = models(0, "blocks")
    stored["layer.a.weight_scale_inv"] *= np.float32(2)
    other = write(tmp_path / "other", stored, config=DEEPSEEK)
    with pytest.raises(InputError, match="is not the base of"):
        tallies.Store.open(tmp_path / "store", base=other)


def test_scaled_tensors_of_torch_files(tmp_path: Path) -> None:
    """A transposed view of float8, whose scales are a view as well."""
    rng = np.random.default_rng(5)
    weight, scale = values(rng, 300, 200), factors(rng, 3, 2)
    expected = scaled(weight, scale, 128, 128)
    columns = torch.from_numpy(weight.view(np.uint8).T.copy()).view(torch.float8_e4m3fn).t()
    wide = torch.zeros(3, 4)
    wide[:, ::2] = torch.from_numpy(scale)
    state = {"a.weight": columns, "a.weight_scale_inv": wide[:, ::2]}
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text(json.dumps({"dtype": "float32"}))
    torch.save(state, tmp_path / "model" / "pytorch_model.bin")
    tallies.merge(recipe("linear", [tmp_path / "model"] * 3), tmp_path / "out")
    np.testing.assert_array_equal(read(tmp_path / "out")["a.weight"], expected)


def test_stacks_of_experts_are_read(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    weight, scale = values(rng, 3, 40, 24), factors(rng, 3, 1, 24)
    expected = np.concatenate([scaled(w, s, 40, 1) for w, s in zip(weight, scale, strict=True)])
    tensors = {"experts.gate_up_proj": weight, "experts.gate_up_proj_scale": scale}
    path = write(tmp_path / "model", tensors, config={"dtype": "float32"})
    tallies.merge(recipe("linear", [path, path]), tmp_path / "out")
    assert read(tmp_path / "out")["experts.gate_up_proj"].tobytes() == expected.tobytes()


def test_verify_reads_sound_models(tmp_path: Path) -> None:
    for kind in KINDS:
        fp8, _ = write_pair(tmp_path / kind, 0, kind)
        assert verify(fp8)["nonfinite"] == {}


def test_config_keeps_all_but_the_declaration(tmp_path: Path) -> None:
    stored, _ = models(0, "blocks")
    config = {**DEEPSEEK, "name": "modèle", "text_config": {"compression_config": {"x": 1}, "n": 2}}
    config["text_config"]["compression_config"] = {"quant_method": "fp8"}  # type: ignore[index]
    path = write(tmp_path / "model", stored, config=config)
    (path / "hf_quant_config.json").write_text("{}")
    (path / "tokenizer.json").write_text("{}")
    tallies.merge(recipe("linear", [path, path]), tmp_path / "out")
    assert json.loads((tmp_path / "out" / "config.json").read_text()) == {
        "torch_dtype": "bfloat16",
        "name": "modèle",
        "text_config": {"n": 2},
    }
    assert (tmp_path / "out" / "tokenizer.json").exists()
    assert not (tmp_path / "out" / "hf_quant_config.json").exists()
