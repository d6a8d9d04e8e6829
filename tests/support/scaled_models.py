"""Float8 models with scales, and the same models with their values multiplied out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from tests.reference.scaled import scaled
from tests.support.checkpoints import Array, Model, write

E4M3 = np.dtype(ml_dtypes.float8_e4m3fn)
BF16 = np.dtype(ml_dtypes.bfloat16)

DEEPSEEK = {
    "torch_dtype": "bfloat16",
    "quantization_config": {"quant_method": "fp8", "weight_block_size": [128, 128]},
}
COMPRESSED = {
    "torch_dtype": "bfloat16",
    "quantization_config": {
        "quant_method": "compressed-tensors",
        "config_groups": {"group_0": {"weights": {"num_bits": 8, "strategy": "channel"}}},
    },
}

KINDS = ["blocks", "bfloat16 blocks", "channels", "rows", "tensor", "one"]


def values(rng: np.random.Generator, *shape: int, dtype: np.dtype[Any] = E4M3) -> Array:
    return rng.normal(scale=100, size=shape).clip(-440, 440).astype(np.float32).astype(dtype)


def factors(rng: np.random.Generator, *shape: int, dtype: Any = np.float32) -> Array:
    return rng.uniform(1e-4, 1e-2, size=shape).astype(dtype)


def models(seed: int, kind: str) -> tuple[Model, Model]:
    """A float8 model as files have it, and the same with its values multiplied out."""
    rng = np.random.default_rng(seed)
    stored: Model = {"model.norm.weight": values(rng, 48, dtype=BF16)}
    plain: Model = dict(stored)
    for name, (rows, columns) in {"a": (200, 300), "b": (128, 256), "c": (130, 7)}.items():
        weight = values(rng, rows, columns)
        match kind:
            case "blocks":
                scale = factors(rng, -(-rows // 128), -(-columns // 128))
                suffix, blocks = "_scale_inv", (128, 128)
            case "bfloat16 blocks":
                scale = factors(rng, -(-rows // 128), -(-columns // 128), dtype=BF16)
                suffix, blocks = "_scale_inv", (128, 128)
            case "channels":
                scale = factors(rng, rows, 1, dtype=BF16)
                suffix, blocks = "_scale", (1, columns)
            case "rows":
                scale = factors(rng, rows)
                suffix, blocks = "_scale", (1, columns)
            case "tensor":
                scale = factors(rng)
                suffix, blocks = "_scale", (rows, columns)
            case _:
                scale = factors(rng, 1)
                suffix, blocks = "_scale_inv", (rows, columns)
        matrix = scale.reshape(scale.shape if scale.ndim == 2 else (-1, 1))
        stored[f"layer.{name}.weight"] = weight
        stored[f"layer.{name}.weight{suffix}"] = scale
        if kind == "tensor":
            stored[f"layer.{name}.input_scale"] = factors(rng)
        plain[f"layer.{name}.weight"] = scaled(weight, matrix, *blocks)
    return stored, plain


def write_pair(root: Path, seed: int, kind: str) -> tuple[Path, Path]:
    stored, plain = models(seed, kind)
    config = DEEPSEEK if "blocks" in kind else COMPRESSED
    # The scales of some tensors lie in another shard than the tensors.
    first = write(root / f"fp8-{seed}", stored, n_files=2, config=config)
    return first, write(root / f"plain-{seed}", plain, config={"torch_dtype": "bfloat16"})


def recipe(method: str, paths: list[Path], **more: Any) -> dict[str, Any]:
    made: dict[str, Any] = {
        "merge_method": method,
        "models": [{"model": str(path)} for path in paths[1:]],
        **more,
    }
    return made if method == "linear" else {**made, "base_model": str(paths[0])}
