"""transformers loads merges and unpacked experts of the families that people merge."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import tallies
from tests.reference.task_arithmetic import task_arithmetic
from tests.support.families import Family, families

FAMILIES = families()
WEIGHTS = (0.5, 0.25)


@pytest.fixture(scope="module", params=FAMILIES)
def trio(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Family, Path]:
    """A family, and a directory with a base and two experts."""
    family = FAMILIES[request.param]
    folder = tmp_path_factory.mktemp(request.param)
    for seed, name in enumerate(("base", "math", "code")):
        family.save(folder / name, seed, torch.bfloat16)
    return family, folder


def tensors_of(path: Path) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = {}
    for file in sorted(path.glob("*.safetensors")):
        found |= load_file(file)
    return found


def merged_by_numpy(folder: Path, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """Return the tensors of the merge, computed by the reference and rounded once."""
    base, *experts = (tensors_of(folder / name) for name in ("base", "math", "code"))
    merged = {}
    for name, tensor in base.items():
        if tensor.is_floating_point():
            rows = [one[name].float().numpy() for one in (base, *experts)]
            value = task_arithmetic(rows[0], rows[1:], weights=np.float32(WEIGHTS))
            merged[name] = torch.from_numpy(value).to(dtype)
        else:
            merged[name] = tensor
    return merged


def assert_loads_as(family: Family, found: Path, expected: Path, dtype: torch.dtype) -> None:
    """Compare two directories as transformers sees them: names, dtypes, parameters and outputs."""
    (ours, said), (theirs, _) = family.load(found), family.load(expected)
    assert not any(said.values()), said
    assert ours.dtype == dtype
    states: list[dict[str, Any]] = [model.state_dict() for model in (ours, theirs)]
    assert states[0].keys() == states[1].keys()
    for name, tensor in states[0].items():
        assert torch.equal(tensor, states[1][name]), name
    pairs = zip(family.outputs(ours), family.outputs(theirs), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


@pytest.mark.parametrize(
    ("dtype", "shard"),
    [(torch.bfloat16, "5GB"), (torch.float32, "40KB")],
    ids=["bfloat16, one file", "float32, shards"],
)
def test_a_merge_loads_with_the_values_that_numpy_gives(
    trio: tuple[Family, Path], tmp_path: Path, dtype: torch.dtype, shard: str
) -> None:
    family, folder = trio
    recipe = {
        "merge_method": "task_arithmetic",
        "base_model": str(folder / "base"),
        "models": [
            {"model": str(folder / name), "parameters": {"weight": weight}}
            for name, weight in zip(("math", "code"), WEIGHTS, strict=True)
        ],
        "out_dtype": str(dtype).removeprefix("torch."),
        "max_shard_size": shard,
    }
    tallies.merge(recipe, tmp_path / "merged")

    expected = tmp_path / "expected"
    shutil.copytree(folder / "base", expected)
    merged = merged_by_numpy(folder, dtype)
    save_file(merged, expected / "model.safetensors", metadata={"format": "pt"})
    config = expected / "config.json"
    config.write_text(config.read_text().replace("bfloat16", str(dtype).removeprefix("torch.")))
    assert_loads_as(family, tmp_path / "merged", expected, dtype)


def test_an_exact_store_gives_back_experts_that_load(
    trio: tuple[Family, Path], tmp_path: Path
) -> None:
    family, folder = trio
    tasks = {name: folder / name for name in ("math", "code")}
    tallies.pack(folder / "base", tasks, tmp_path / "store", codec="sparse", density="exact")
    store = tallies.Store.open(tmp_path / "store")
    for name, expert in tasks.items():
        store.unpack(name, tmp_path / name)
        assert_loads_as(family, tmp_path / name, expert, torch.bfloat16)


def test_a_masked_store_gives_back_models_that_load(
    trio: tuple[Family, Path], tmp_path: Path
) -> None:
    family, folder = trio
    tasks = {name: folder / name for name in ("math", "code")}
    tallies.pack(folder / "base", tasks, tmp_path / "store", codec="tall")
    tallies.Store.open(tmp_path / "store").unpack("math", tmp_path / "again")
    model, said = family.load(tmp_path / "again")
    assert not any(said.values()), said
    assert model.dtype == torch.bfloat16
    loaded = tallies.Store.open(tmp_path / "store").load("math", framework="torch")
    written = tensors_of(tmp_path / "again")
    assert written.keys() == loaded.keys()
    assert all(torch.equal(written[name], loaded[name]) for name in written)
