"""A store of a variant of the weights opens over the same variant of its base."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tallies
from tallies.errors import InputError


def write_both(root: Path, seed: int) -> Path:
    """Write a model whose float16 file has other values than its float32 file."""
    from safetensors.numpy import save_file

    root.mkdir()
    rng = np.random.default_rng(seed)
    save_file({"w": rng.normal(size=8).astype(np.float32)}, root / "model.safetensors")
    save_file({"w": rng.normal(size=8).astype(np.float16)}, root / "model.fp16.safetensors")
    return root


@pytest.mark.parametrize("codec", ["tall", "sparse"])
def test_store_of_a_variant(tmp_path: Path, codec: str) -> None:
    base, a, b, c = (write_both(tmp_path / name, i) for i, name in enumerate(["x", "a", "b", "c"]))
    store = tmp_path / "store"
    parameters: dict[str, Any] = {"density": 1.0} if codec == "sparse" else {}
    tallies.pack(base, {"a": a, "b": b}, store, codec=codec, variant="fp16", **parameters)
    assert json.loads((store / "store.json").read_text())["variant"] == "fp16"
    tallies.store.add(store, "c", c)
    opened = tallies.Store.open(store)
    assert opened.base.tensors["w"].dtype == "F16"
    loaded = opened.load("c")
    assert loaded["w"].dtype == np.float16
    report = opened.unpack("c", tmp_path / "out")
    assert report.fingerprint
    assert (tmp_path / "out" / "model.fp16.safetensors").is_file()


def test_variant_of_no_model(tmp_path: Path) -> None:
    base, a = write_both(tmp_path / "base", 0), write_both(tmp_path / "a", 1)
    for root in (base, a):
        (root / "model.fp16.safetensors").unlink()
    with pytest.raises(InputError, match="variant 'fp16': none of the models has files of it"):
        tallies.pack(base, {"a": a}, tmp_path / "store", variant="fp16")
    tallies.pack(base, {"a": a}, tmp_path / "store")
    assert "variant" not in json.loads((tmp_path / "store" / "store.json").read_text())
