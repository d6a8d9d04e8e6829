"""Models in memory whose names, pieces or buffers are not those of the store's files."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from tallies import InputError, Store
from tallies.torch.task_switcher import TaskSwitcher
from tests.support.switching import Net, Tensors, assert_is, copies, packed

N_EXPERTS, WIDTH, INNER = 3, 4, 6


class Saved(torch.nn.Module):
    """Stands for transformers' class of models that are saved in other pieces."""


class Mixture(Saved):
    """Has one tensor for the experts of each of two kinds of weights, as transformers 5 has."""

    def __init__(self) -> None:
        super().__init__()
        self.gate_up_proj = torch.nn.Parameter(torch.randn(N_EXPERTS, 2 * INNER, WIDTH))
        self.down_proj = torch.nn.Parameter(torch.randn(N_EXPERTS, INNER, WIDTH))
        self.norm = torch.nn.LayerNorm(WIDTH)


def in_files(model: Saved, state: Mapping[str, torch.Tensor]) -> Tensors:
    """Takes the experts apart: halves of the rows, and a transposed matrix of each expert."""
    found = {name: one for name, one in state.items() if name.startswith("norm")}
    halves = {
        name: half.contiguous()
        for name, half in zip("wv", torch.chunk(state["gate_up_proj"], 2, dim=1), strict=True)
    }
    for e in range(N_EXPERTS):
        found |= {f"experts.{e}.{name}": half[e] for name, half in halves.items()}
        found[f"experts.{e}.u"] = state["down_proj"][e].t().contiguous()
    return found


def copied(model: Saved, state: Mapping[str, torch.Tensor]) -> Tensors:
    return {name: one + 0 for name, one in in_files(model, state).items()}


@pytest.fixture
def transformers(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Stands for the two modules of transformers that the switcher asks."""
    loading = SimpleNamespace(revert_weight_conversion=in_files)
    monkeypatch.setitem(sys.modules, "transformers.core_model_loading", loading)
    modeling = SimpleNamespace(PreTrainedModel=Saved)
    monkeypatch.setitem(sys.modules, "transformers.modeling_utils", modeling)
    return loading


@pytest.mark.parametrize(
    ("codec", "preload"), [("tall", True), ("tall", "device"), ("exact", False), ("bitdelta", True)]
)
def test_experts_in_one_tensor_are_switched_in_place(
    tmp_path: Path, transformers: Any, codec: str, preload: Any
) -> None:
    model = Mixture()
    before, place = copies(model), model.gate_up_proj.data_ptr()
    store = packed(tmp_path, in_files(model, before), codec)
    switcher = TaskSwitcher(model, store, preload=preload)
    for task in ("math", "code", "math"):
        switcher.activate(task)
        expected = store.load(task, framework="torch")
        found = in_files(model, model.state_dict())
        assert all(torch.equal(found[name], one) for name, one in expected.items())
        assert found.keys() == expected.keys()
    switcher.deactivate()
    assert_is(model, before)
    assert model.gate_up_proj.data_ptr() == place


def test_a_model_that_moved_is_looked_at_again(tmp_path: Path, transformers: Any) -> None:
    model = Mixture()
    store = packed(tmp_path, in_files(model, copies(model)), "tall")
    switcher = TaskSwitcher(model, store)
    model.down_proj.data = model.down_proj.data.clone()
    switcher.activate("math")
    found = in_files(model, model.state_dict())
    expected = store.load("math", framework="torch")
    assert all(torch.equal(found[name], one) for name, one in expected.items())


def test_experts_that_cannot_be_taken_apart_are_told(tmp_path: Path, transformers: Any) -> None:
    model = Mixture()
    store = packed(tmp_path, in_files(model, copies(model)), "tall")
    transformers.revert_weight_conversion = copied
    with pytest.raises(InputError, match="lacks tensor 'experts"):
        TaskSwitcher(model, store)
    transformers.revert_weight_conversion = None
    with pytest.raises(InputError, match="lacks tensor 'experts"):
        TaskSwitcher(model, store)


def test_a_stack_of_experts_of_another_library_is_told(tmp_path: Path) -> None:
    class Layer(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.experts = torch.nn.Module()
            self.experts.down_proj = torch.nn.Parameter(torch.randn(2, 3, 4))

    model = Layer()
    parts = {f"experts.{e}.down_proj.weight": one for e, one in enumerate(model.experts.down_proj)}
    store = packed(tmp_path, {f"layer.{name}": one.detach() for name, one in parts.items()}, "tall")
    with pytest.raises(InputError, match="one tensor for the experts of a layer"):
        TaskSwitcher(torch.nn.ModuleDict({"layer": model}), store)


@pytest.mark.parametrize("wrap", ["compile", "parallel"])
def test_wrapped_models_are_told_to_give_what_is_inside(
    store: Store, model: Net, wrap: str
) -> None:
    if wrap == "compile":
        wrapped: Any = torch.compile(model, backend="eager")
        message = r"'_orig_mod\.' here and '' there; give the module inside: model\._orig_mod"
    else:
        wrapped = torch.nn.DataParallel(model)
        message = r"'module\.' here and '' there; give the module inside: model\.module"
    with pytest.raises(InputError, match=message):
        TaskSwitcher(wrapped, store)


def test_buffers_that_only_one_of_both_has_are_left_alone(tmp_path: Path) -> None:
    model = Net()
    base = {**copies(model), "position_ids": torch.arange(5)}
    del base["norm.num_batches_tracked"]
    store = packed(tmp_path, base, "tall")
    switcher = TaskSwitcher(model, store)
    model.norm.num_batches_tracked.fill_(7)
    switcher.activate("code")
    expected = store.load("code", framework="torch")
    del expected["position_ids"]
    assert_is(model, {**expected, "norm.num_batches_tracked": torch.tensor(7)})


def test_a_lazy_model_is_told_to_run_first(store: Store) -> None:
    with pytest.raises(InputError, match=r"tensor 'weight' is a tensor of a lazy module"):
        TaskSwitcher(torch.nn.LazyLinear(3), store)
