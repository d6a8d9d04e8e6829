"""Models with adapters in every method: their merge is that of dense float32 models."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tallies import merge, methods
from tests.support import adapters
from tests.support.checkpoints import assert_same_tensors, read, write
from tests.support.methods import PAIRS

BASE = adapters.model(n_layers=1, size=48, inner=200)
WIDE = {name: array.astype(np.float32) for name, array in BASE.items()}
EXPERTS = {
    "one": adapters.lora(WIDE, rank=5),
    "two": adapters.lora(WIDE, ["q_proj", "down_proj"], rank=3, dora=True, seed=7),
}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write(Path("base"), BASE, config={"torch_dtype": "bfloat16"})
    for name, adapter in EXPERTS.items():
        adapter.write(Path(name))
        write(Path(f"dense-{name}"), adapters.merged(WIDE, adapter), config={})
    return tmp_path


@pytest.mark.parametrize(("method", "semantics"), PAIRS)
def test_every_method(here: Path, method: str, semantics: str) -> None:
    known = methods.get(method).parameters(semantics)
    parameters = {
        key: {"density": 0.2}.get(key, 0.5)
        for key, parameter in known.items()
        if parameter.default is None
    }
    recipe = {"merge_method": method, "semantics": semantics, "parameters": parameters}
    recipe["out_dtype"] = "bfloat16"
    if methods.get(method).forms_task_vectors(has_base=True):
        recipe["base_model"] = "base"
    n = methods.get(method).most_models or 2
    merge({**recipe, "models": ["dense-one", "dense-two"][:n]}, "expected", seed=3)
    for number, (max_memory, threads) in enumerate([("512MiB", 2), ("100MiB", 1)]):
        asked = {**recipe, "models": ["base+one", "base+two"][:n]}
        merge(asked, f"out{number}", seed=3, max_memory=max_memory, threads=threads)
        assert_same_tensors(read(Path(f"out{number}")), read(Path("expected")))
