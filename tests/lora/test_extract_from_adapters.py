"""Fine-tunes that are a base and an adapter: what is taken out again."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from tallies import InputError, extract_lora
from tests.support.checkpoints import Model, data_bytes, write

UP, DOWN = "layers.0.up.weight", "layers.0.down.weight"


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    """An adapter of rank 6 on the model ``base`` beside it."""
    rng = np.random.default_rng(0)
    base: Model = {
        UP: rng.standard_normal((96, 64)).astype(np.float32),
        DOWN: rng.standard_normal((64, 96)).astype(np.float32),
    }
    change = {name: rng.standard_normal((x.shape[0], 6)) for name, x in base.items()}
    own = {
        name: (x + 0.1 * change[name] @ rng.standard_normal((6, x.shape[1]))).astype(np.float32)
        for name, x in base.items()
    }
    models = write(tmp_path / "tuned", own), write(tmp_path / "base", base)
    extract_lora(*models, tmp_path / "adapter", rank=6)
    return tmp_path / "adapter"


def test_a_base_with_an_adapter_is_a_fine_tune(adapter: Path, tmp_path: Path) -> None:
    base = tmp_path / "base"
    report = extract_lora(f"{base}+{adapter}", base, tmp_path / "again", rank=6)
    assert report.error < 1e-5 and report.finetuned == "../base+../adapter"
    assert not report.warnings
    alone = extract_lora(adapter, base, tmp_path / "alone", rank=6)
    assert alone.error == report.error
    assert data_bytes(tmp_path / "alone") == data_bytes(tmp_path / "again")


def test_a_lower_rank_of_an_adapter_is_the_best(adapter: Path, tmp_path: Path) -> None:
    report = extract_lora(adapter, tmp_path / "base", tmp_path / "out", rank=2)
    factors = load_file(adapter / "adapter_model.safetensors")
    for one in report.matrices:
        place = "base_model.model." + one.name.removesuffix(".weight")
        delta = factors[f"{place}.lora_B.weight"] @ factors[f"{place}.lora_A.weight"]
        s = np.linalg.svd(delta.astype(np.float64), compute_uv=False)
        assert one.error == pytest.approx(np.sqrt((s[2:] ** 2).sum() / (s**2).sum()), rel=1e-3)


def test_norms_that_an_adapter_learned_are_taken_out_too(adapter: Path, tmp_path: Path) -> None:
    path = adapter / "adapter_model.safetensors"
    factors, base = load_file(path), load_file(tmp_path / "base" / "model.safetensors")
    rng = np.random.default_rng(1)
    wanted = {}
    for name, values in base.items():
        place = f"base_model.model.{name.removesuffix('.weight')}"
        tuned = values + factors[f"{place}.lora_B.weight"] @ factors[f"{place}.lora_A.weight"]
        norms = rng.uniform(0.5, 1.5, len(values)).astype(np.float32)
        factors[f"{place}.lora_magnitude_vector"] = norms
        wanted[name] = (norms / np.linalg.norm(tuned, axis=1))[:, None] * tuned - values
    save_file(factors, path)
    config = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(json.dumps(config | {"use_dora": True}))
    extract_lora(adapter, tmp_path / "base", tmp_path / "out", rank=64)
    found = load_file(tmp_path / "out" / "adapter_model.safetensors")
    for name, delta in wanted.items():
        place = f"base_model.model.{name.removesuffix('.weight')}"
        product = found[f"{place}.lora_B.weight"] @ found[f"{place}.lora_A.weight"]
        assert np.allclose(product, delta, atol=1e-4)


def test_memory_changes_no_byte(
    adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Blocks of some rows, which begin within the rows that the engine decodes together.
    monkeypatch.setattr("tallies.linalg.randomised._BLOCK", 1 << 8)
    for budget in ("40MiB", "4GiB"):
        extract_lora(
            adapter, tmp_path / "base", tmp_path / budget, rank=2, max_memory=budget, threads=2
        )
    assert data_bytes(tmp_path / "40MiB") == data_bytes(tmp_path / "4GiB")


def test_a_base_with_adapters_cannot_be_named(adapter: Path, tmp_path: Path) -> None:
    base = f"{tmp_path / 'base'}+{adapter}"
    with pytest.raises(InputError, match=r"with adapters.*tallies merge"):
        extract_lora(tmp_path / "tuned", base, tmp_path / "out", rank=2)
    config = json.loads((adapter / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "../base"
