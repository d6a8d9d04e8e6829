"""Adapters that were written, as the changes that they make, in NumPy."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np

from tests.reference.dtype import widen
from tests.support import checkpoints
from tests.support.adapters import Adapter
from tests.support.checkpoints import Array, Model


def changes_of(directory: Path) -> dict[str, Array]:
    """Return what PEFT adds to each weight of an adapter of matrices and embeddings, float64."""
    config = json.loads((directory / "adapter_config.json").read_text())
    assert not config["use_rslora"]
    tensors = checkpoints.read(directory / "adapter_model.safetensors")
    found = {}
    for name in tensors:
        a_name, b_name = "lora_A.weight", "lora_B.weight"
        if name.endswith("lora_embedding_A"):
            a_name, b_name = "lora_embedding_A", "lora_embedding_B"
        if not name.endswith(f".{a_name}"):
            continue
        stem = name.removesuffix(f".{a_name}")
        a, b = (widen(tensors[f"{stem}.{one}"]).astype("f8") for one in (a_name, b_name))
        module = stem.removeprefix("base_model.model.")
        rank = _setting(config["rank_pattern"], module, config["r"])
        assert len(a) == rank, name
        product = b @ a * (_setting(config["alpha_pattern"], module, config["lora_alpha"]) / rank)
        found[f"{module}.weight"] = product.T if "embedding" in a_name else product
    return found


def _setting(patterns: dict[str, int], module: str, default: int) -> int:
    # As PEFT looks a module up.
    for pattern, value in patterns.items():
        if re.match(rf"(.*\.)?({pattern})$", module):
            return value
    return default


def effects(adapter: Adapter, base: Model) -> dict[str, Array]:
    """Return what an adapter adds to each weight, float64."""
    return {
        name: change(np.zeros(base[name].shape, "f4")).astype("f8")
        for name, change in adapter.changes.items()
    }
