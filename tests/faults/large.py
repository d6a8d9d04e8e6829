"""Models that are large and take little of a disk."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Final

import numpy as np

SHAPE: Final = (1 << 20, 1 << 11)
"""4 GiB of bfloat16."""


def sparse(path: Path, seed: int, shape: tuple[int, int] = SHAPE) -> Path:
    """Write a model of one large tensor and a small one, whose values are mostly holes."""
    path.mkdir()
    rng = np.random.default_rng(seed)
    large, small = 2 * shape[0] * shape[1], 2 * 64
    entries = {
        "model.large.weight": {"dtype": "BF16", "shape": shape, "data_offsets": [0, large]},
        "small": {"dtype": "BF16", "shape": [64], "data_offsets": [large, large + small]},
    }
    head = json.dumps(entries).encode()
    with open(path / "model.safetensors", "wb") as file:
        file.write(struct.pack("<Q", len(head)) + head)
        file.truncate(8 + len(head) + large + small)
        for at in rng.integers(0, large // 4096, 200):
            file.seek(8 + len(head) + int(at) * 4096)
            file.write((rng.integers(0x3C00, 0x3F00, 2048).astype("<u2")).tobytes())
    return path
