"""The caller's floating-point modes change no byte of what is written or switched."""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Any, Final

import numpy as np
import pytest
import torch

from tallies import Store, merge, pack
from tallies.torch import TaskSwitcher
from tests.support.checkpoints import Model, data_bytes, read, write
from tests.support.compiled import compiled
from tests.support.float_modes import MODES, REGISTER, mode_set

METHODS: Final[dict[str, dict[str, Any]]] = {
    "linear": {},
    "ties": {"density": 0.7},
    "della": {},
    "pcb": {},
    "sce": {"select_topk": 0.5},
    "model_stock": {},
    "karcher": {},
    "multislerp": {},
    "codiemb": {"exponent": 0.3},
    "iso_c": {},
    "star": {},
}
TINY: Final = float(np.finfo(np.float32).tiny)


@pytest.fixture(scope="module")
def register(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    """The control register of floating-point operations, to read and to write."""
    return ctypes.CDLL(str(compiled(tmp_path_factory.mktemp("register"), REGISTER)))


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base and three experts, whose values and changes are partly subnormal."""
    root = tmp_path_factory.mktemp("models")
    rng = np.random.default_rng(11)
    for name in ("base", "a", "b", "c"):
        model: Model = {
            "layer.weight": rng.standard_normal((33, 21)).astype(np.float32),
            "small.weight": (rng.standard_normal((40, 17)) * TINY).astype(np.float32),
            "narrow.weight": (rng.standard_normal((19, 23)) * 2.0**-14).astype(np.float16),
        }
        write(root / name, model)
    return root


@pytest.mark.parametrize("method", METHODS)
def test_no_mode_changes_a_merge_on_disk(
    register: ctypes.CDLL, models: Path, tmp_path: Path, method: str
) -> None:
    """Neither kernels and threads, nor coefficients that Python solves for, nor linear algebra."""
    recipe = {
        "merge_method": method,
        "models": [{"model": str(models / name)} for name in "abc"],
        "parameters": METHODS[method],
    }
    if method not in ("linear", "karcher"):
        recipe["base_model"] = str(models / "base")
    merge(recipe, tmp_path / "expected", threads=2)
    expected = data_bytes(tmp_path / "expected")
    for number, mode in enumerate(MODES.values()):
        with mode_set(register, mode):
            merge(recipe, tmp_path / str(number), threads=2)
        assert data_bytes(tmp_path / str(number)) == expected, f"{mode:x}"


@pytest.mark.parametrize("codec", ["tall", "emr", "magnitude", "bitdelta", "lossless", "tsv_c"])
@pytest.mark.parametrize("preload", [True, False])
def test_no_mode_changes_a_switched_module(
    register: ctypes.CDLL, models: Path, tmp_path: Path, codec: str, preload: bool
) -> None:
    tasks = {name: models / name for name in "abc"}
    pack(models / "base", tasks, tmp_path / "store", codec=codec)
    store = Store.open(tmp_path / "store")
    expected = {task: store.load(task) for task in tasks}
    for mode in MODES.values():
        module = torch.nn.Module()
        for name, values in read(models / "base").items():
            child = torch.nn.Module()
            child.weight = torch.nn.Parameter(torch.from_numpy(values.copy()), requires_grad=False)
            module.add_module(name.partition(".")[0], child)
        with mode_set(register, mode):
            switcher = TaskSwitcher(module, store, preload=preload)
            found = {}
            for task in tasks:
                switcher.activate(task)
                found[task] = {n: t.numpy().tobytes() for n, t in module.state_dict().items()}
        for task, model in expected.items():
            assert found[task] == {name: values.tobytes() for name, values in model.items()}
