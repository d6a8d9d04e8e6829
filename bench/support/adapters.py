"""Synthetic adapters of Llama models, as PEFT writes them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from .checkpoints import Llama

_SPREAD = 0.02
_PREFIX = "base_model.model."


def ensure(directory: Path, llama: Llama, base: Path, n: int, rank: int) -> list[Path]:
    """Adapters on all linear layers, made if they are not there.

    Args:
        directory: The place of all.
        llama: The shapes of the model.
        base: The model, for the adapters' configurations.
        n: The number of adapters.
        rank: The rank of each.
    """
    paths = [directory / f"adapter-r{rank}-{i + 1}" for i in range(n)]
    for seed, path in enumerate(paths):
        if not (path / "adapter_config.json").exists():
            _write(path, llama, base, rank, seed)
    return paths


def _write(path: Path, llama: Llama, base: Path, rank: int, seed: int) -> None:
    draw = np.random.default_rng(seed)
    tensors = {}
    for name, shape in llama.shapes().items():
        if len(shape) == 2 and "embed" not in name:
            place = _PREFIX + name.removesuffix(".weight")
            for factor, size in (("A", (rank, shape[1])), ("B", (shape[0], rank))):
                values = np.float32(_SPREAD) * draw.standard_normal(size, np.float32)
                tensors[f"{place}.lora_{factor}.weight"] = values
    path.mkdir(parents=True, exist_ok=True)
    save_file(tensors, path / "adapter_model.safetensors", {"format": "pt"})
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": str(base),
        "r": rank,
        "lora_alpha": 2 * rank,
        "target_modules": [
            *(f"{one}_proj" for one in ("q", "k", "v", "o")),
            *(f"{one}_proj" for one in ("gate", "up", "down")),
        ],
    }
    # Written last: it says that the adapter is complete.
    (path / "adapter_config.json").write_text(json.dumps(config, indent=2))
