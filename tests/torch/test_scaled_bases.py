"""Stores over a base of float8 with scales: models are switched, and task vectors read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tallies import InputError, Store, pack
from tallies.torch import TaskSwitcher, store_deltas
from tests.support.checkpoints import write
from tests.support.scaled_models import COMPRESSED, DEEPSEEK, E4M3, models
from tests.support.switching import assert_is, copies


class Holder(torch.nn.Module):
    """A module with the parameters of a state dict, by their dotted names."""

    def __init__(self, tensors: dict[str, torch.Tensor]) -> None:
        super().__init__()
        for name, tensor in tensors.items():
            *parents, last = name.split(".")
            module: torch.nn.Module = self
            for parent in parents:
                if parent not in module._modules:
                    module.add_module(parent, torch.nn.Module())
                module = module.get_submodule(parent)
            module.register_parameter(last, torch.nn.Parameter(tensor))


def packed(root: Path, kind: str, codec: str, dtype: str) -> tuple[Store, dict[str, torch.Tensor]]:
    """A store of two tasks, and the decoded base in the dtype that config.json names."""
    config: dict[str, Any] = {**(DEEPSEEK if kind == "blocks" else COMPRESSED)}
    paths = []
    for seed in range(3):
        stored, plain = models(seed, kind)
        stored["head.weight"] = np.full((7, 300), 2 + seed, E4M3)
        stored["head.weight_scale"] = np.full((7, 1), 0.37, np.float32)
        if not seed:
            base = {
                name: torch.from_numpy(np.asarray(value, np.float32))
                for name, value in plain.items()
            }
            base["head.weight"] = torch.full((7, 300), 2 * 0.37)
        paths.append(write(root / f"m{seed}", stored, config={**config, "torch_dtype": dtype}))
    pack(paths[0], {"math": paths[1], "code": paths[2]}, root / "store", codec=codec)
    result = getattr(torch, dtype)
    kept = {"model.norm.weight": torch.bfloat16}
    return (
        Store.open(root / "store"),
        {name: value.to(kept.get(name, result)) for name, value in base.items()},
    )


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
@pytest.mark.parametrize("kind", ["blocks", "channels"])
@pytest.mark.parametrize(
    ("codec", "preload"),
    [
        ("tall", True),
        ("tall", False),
        ("tall", "device"),
        ("magnitude", "device"),
        ("bitdelta", True),
    ],
)
def test_switching(tmp_path: Path, kind: str, codec: str, preload: Any, dtype: str) -> None:
    store, base = packed(tmp_path, kind, codec, dtype)
    model = Holder(base)
    before = copies(model)
    switcher = TaskSwitcher(model, store, preload=preload)
    for task in ("math", "code", "math"):
        switcher.activate(task)
        assert_is(model, store.load(task, framework="torch"))
    switcher.deactivate()
    assert_is(model, before)


def test_a_model_with_stored_values_is_refused(tmp_path: Path) -> None:
    """The values as stored, without their scales, are not the base."""
    store, base = packed(tmp_path, "blocks", "tall", "bfloat16")
    base["head.weight"] = torch.full((7, 300), 2.0, dtype=torch.bfloat16)
    with pytest.raises(InputError, match=r"'head.weight' has other values than the base"):
        TaskSwitcher(Holder(base), store)


@pytest.mark.parametrize("codec", ["tall", "bitdelta"])
@pytest.mark.parametrize("kind", ["blocks", "channels"])
def test_task_vectors_are_to_decoded_values(tmp_path: Path, kind: str, codec: str) -> None:
    store, base = packed(tmp_path, kind, codec, "float32")
    for task, deltas in zip(("math", "code"), store_deltas(store), strict=True):
        expected = store.load(task, framework="torch")
        assert deltas.keys() == expected.keys()
        for name, delta in deltas.items():
            sums = base[name].float() + delta.dense()
            torch.testing.assert_close(sums, expected[name].float(), rtol=1e-2, atol=1e-6)
