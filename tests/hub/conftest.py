"""A hub on this machine, a cache of its own, and models on the hub."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tallies.hub import listing, shadow
from tests.support.checkpoints import Model, write
from tests.support.hub import Hub, asked_at, serving


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """The directory of the library's settings and cache."""
    return tmp_path / "hf home"


@pytest.fixture
def hub(tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub that this process asks; the current directory is an empty one."""
    listing._known.clear()
    shadow._root.cache_clear()
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    found = Hub()
    with serving(found) as address, asked_at(address, home):
        yield found


def tensors(seed: int, n_rows: int = 64) -> Model:
    rng = np.random.default_rng(seed)
    names = {"embed_tokens.weight": (n_rows, 32), "layers.0.weight": (32, 32), "norm.weight": (32,)}
    # Whole numbers: differences and sums of them are exact.
    return {
        name: rng.integers(-500, 500, shape).astype(np.float32) for name, shape in names.items()
    }


@pytest.fixture
def models(hub: Hub, tmp_path: Path) -> dict[str, Model]:
    """``org/base``, ``org/one`` and ``org/two`` on the hub; their tensors."""
    made = {name: tensors(seed) for seed, name in enumerate(("base", "one", "two"))}
    for name, model in made.items():
        path = write(tmp_path / "published" / name, model)
        (path / "config.json").write_text('{"model_type": "llama"}')
        (path / "tokenizer.json").write_text('{"x": "' + "y" * 300_000 + '"}')
        (path / "pytorch_model.bin").write_bytes(b"old" * 9000)
        (path / "onnx").mkdir()
        (path / "onnx" / "model.onnx").write_bytes(b"onnx" * 9000)
        hub.directory(f"org/{name}", path, "v1")
    return made
