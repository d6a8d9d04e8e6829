"""A module switched to adapters of a store holds what base and adapter merge to, bit for bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch

from tallies import Store, pack
from tallies.torch import store_deltas, weighted_merge
from tallies.torch.task_switcher import TaskSwitcher
from tests.reference.dtype import narrow
from tests.support import adapters
from tests.support.adapters import Adapter, embedding, kohya, lora, tokens
from tests.support.checkpoints import Model, write

BASE = adapters.model()

MADE: dict[str, tuple[Adapter, ...]] = {
    "lora": (lora(BASE),),
    "two": (lora(BASE), lora(BASE, ["q_proj", "gate_proj"], rank=3, seed=9)),
    "loha": (kohya(BASE, ["q_proj"], kind="loha"),),
    "lokr": (kohya(BASE, ["up_proj"], kind="lokr_low"),),
    "embedding": (embedding(BASE),),
    "tokens": (lora(BASE, ["q_proj"]) | tokens(BASE, [1, 3]),),
    "saved": (lora(BASE, ["v_proj"], save=["lm_head"]),),
}


def tensor_of(array: np.ndarray) -> torch.Tensor:
    assert array.dtype == ml_dtypes.bfloat16
    return torch.from_numpy(array.view(np.int16).copy()).view(torch.bfloat16)


def module_of(model: Model) -> torch.nn.Module:
    """A module whose parameters have the names of the model."""
    root = torch.nn.Module()
    for name, array in model.items():
        *folders, last = name.split(".")
        at = root
        for folder in folders:
            if not hasattr(at, folder):
                at.add_module(folder, torch.nn.Module())
            at = at.get_submodule(folder)
        at.register_parameter(last, torch.nn.Parameter(tensor_of(array), requires_grad=False))
    return root


def assert_is(module: torch.nn.Module, expected: Model) -> None:
    for name, tensor in module.state_dict().items():
        wanted = tensor_of(narrow(expected[name], adapters.BF16))
        assert torch.equal(tensor.view(torch.int16), wanted.view(torch.int16)), name


@pytest.fixture
def store(tmp_path: Path) -> Store:
    write(tmp_path / "base", BASE)
    texts = {}
    for task, made in MADE.items():
        paths = [adapter.write(tmp_path / f"{task}{i}") for i, adapter in enumerate(made)]
        texts[task] = "+".join(map(str, (tmp_path / "base", *paths)))
    pack(tmp_path / "base", texts, tmp_path / "store", codec="lora")
    return Store.open(tmp_path / "store")


@pytest.mark.parametrize("preload", [True, False, "device"])
def test_each_task_is_what_base_and_adapter_merge_to(store: Store, preload: Any) -> None:
    module = module_of(BASE)
    switcher = TaskSwitcher(module, store, preload=preload)
    for task, made in MADE.items():
        switcher.activate(task)
        assert_is(module, adapters.merged(BASE, *made))
    switcher.deactivate()
    assert_is(module, BASE)


def test_factors_stay_factors_in_memory(store: Store) -> None:
    (deltas,) = store_deltas(store, ["lora"])
    kept = sum(part.nbytes for delta in deltas.values() for part in delta.memory)
    assert kept == sum(array.nbytes for array in MADE["lora"][0].tensors.values())


def test_factors_stay_factors_beside_the_model(store: Store, tmp_path: Path) -> None:
    text = f"{tmp_path / 'base'}+{tmp_path / 'lora0'}"
    pack(tmp_path / "base", {"lora": text}, tmp_path / "one", codec="lora")
    switcher = TaskSwitcher(module_of(BASE), Store.open(tmp_path / "one"), preload="device")
    factors = sum(array.nbytes for array in MADE["lora"][0].tensors.values())
    assert switcher.nbytes == factors + sum(array.nbytes for array in BASE.values())


def test_vectors_are_the_products(store: Store) -> None:
    zeros = {name: np.zeros_like(array, np.float32) for name, array in BASE.items()}
    base = {name: torch.zeros(array.shape) for name, array in BASE.items()}
    for task in ("lora", "two", "loha", "lokr", "embedding"):
        (deltas,) = store_deltas(store, [task])
        expected = adapters.merged(zeros, *MADE[task])
        for name, delta in deltas.items():
            np.testing.assert_array_equal(delta.dense().numpy(), expected[name])
        merged = weighted_merge(base, [deltas], torch.ones(1))
        for name in deltas:
            np.testing.assert_array_equal(merged[name].numpy(), expected[name])
