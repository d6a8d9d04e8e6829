"""Models whose merge has every stage: survey, several files, repair, copies, ties, extra files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from tests.support.checkpoints import Array, Model, write

OPTIONS: dict[str, Any] = {"max_shard_size": 50_000, "max_memory": "64KiB", "threads": 1}
"""With these the result has five files, and tensors have several tiles."""


def models(root: Path) -> dict[str, Any]:
    """The recipe of a TIES merge of three experts below ``root``.

    The votes of the first tensors are mostly positive and those of the last, larger one negative,
    so that what cancelled votes took is repaired at the end.
    """
    rng = np.random.default_rng(5)

    def few(*shape: int) -> Array:
        return (rng.integers(-8, 8, shape) / 4).astype(np.float32)

    embedding = few(30, 40)
    base: Model = {
        "a.few": few(120, 90),
        "b.few": few(120, 90),
        "ints": np.arange(100),
        "lm_head.weight": embedding,
        "model.embed_tokens.weight": embedding,
        "model.smooth": rng.standard_normal((70, 50)).astype(np.float16),
        "y.few": few(150, 90),
        "z.few": few(40, 300),
    }
    experts: list[Model] = []
    for _ in range(3):
        expert: Model = {}
        for name, tensor in base.items():
            steps = rng.integers(-4, 5, tensor.shape) / 4
            one_way = 1 if name[0] in "ab" else -1
            delta = np.where(rng.random(tensor.shape) < 0.05, one_way, steps)
            expert[name] = tensor if name == "ints" else (tensor + delta).astype(tensor.dtype)
        expert["lm_head.weight"] = expert["model.embed_tokens.weight"]
        experts.append(expert)
    tied = {"tie_word_embeddings": True}
    paths = [
        write(root / name, model, n_files=2, config=tied)
        for name, model in zip(("base", "x", "y", "z"), (base, *experts), strict=True)
    ]
    (root / "base/tokenizer").mkdir()
    (root / "base/tokenizer/vocab.txt").write_text("one two three")
    (root / "base/journal").write_text("a file with the name of one of ours")
    return {
        "merge_method": "ties",
        "base_model": str(paths[0]),
        "models": [{"model": str(path)} for path in paths[1:]],
        "parameters": {"density": 0.6},
    }
