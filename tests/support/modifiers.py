"""Models of three layers, and merges of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tallies.methods._method import Method
from tests.support.checkpoints import Model, write

NAMES = ["embed", "layers.0.w", "layers.1.w", "layers.1.b", "layers.2.w", "norm"]


def f32(*values: float) -> npt.NDArray[np.float32]:
    return np.array(values, np.float32)


def models(n: int = 4, names: list[str] = NAMES) -> list[Model]:
    rng = np.random.default_rng(0)
    return [
        {name: rng.standard_normal((8, 9)).astype(np.float32) for name in names} for _ in range(n)
    ]


def n_experts(method: type[Method]) -> int:
    return method.most_models or 3


def recipe(root: Path, method: str, n: int = 3) -> dict[str, Any]:
    base, *experts = models(1 + n)
    return {
        "merge_method": method,
        "base_model": str(write(root / "base", base)),
        "models": [
            {"model": str(write(root / f"{i}", expert))} for i, expert in enumerate(experts)
        ],
    }
