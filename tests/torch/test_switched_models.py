"""Tied, overlapping and odd modules, which are switched or refused by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from tallies import InputError, Store, pack
from tallies.torch.task_switcher import TaskSwitcher
from tests.support.switching import (
    Net,
    Tensors,
    TiedNet,
    assert_is,
    bits,
    copies,
    expert_of,
    packed,
)


@pytest.mark.parametrize("preload", [True, "device"])
def test_tied_in_the_model_and_once_in_the_store(tmp_path: Path, preload: Any) -> None:
    model = TiedNet()
    base = copies(model)
    del base["head.weight"]
    store = packed(tmp_path, base, "tall")
    switcher = TaskSwitcher(model, store, preload=preload)
    switcher.activate("math")
    expected = store.load("math", framework="torch")
    assert_is(model, {**expected, "head.weight": expected["embed.weight"]})
    assert model.head.weight is model.embed.weight


@pytest.mark.parametrize("is_tied", [True, False])
@pytest.mark.parametrize("codec", ["tall", "sparse"])
def test_tied_in_the_store(tmp_path: Path, is_tied: bool, codec: str) -> None:
    names = {"embed.weight": "model.embed_tokens.weight", "head.weight": "lm_head.weight"}

    class Language(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = torch.nn.Module()
            self.model.embed_tokens = torch.nn.Embedding(40, 6)
            self.lm_head = torch.nn.Linear(6, 40, bias=False)
            with torch.no_grad():
                self.lm_head.weight.copy_(self.model.embed_tokens.weight)
            if is_tied:
                self.lm_head.weight = self.model.embed_tokens.weight

    model = Language()
    base = copies(model)
    assert base.keys() == set(names.values())
    for seed, name in enumerate(("base", "math", "code")):
        directory = tmp_path / name
        directory.mkdir()
        one = base if name == "base" else expert_of(base, seed)
        one = {**one, names["head.weight"]: one[names["embed.weight"]].clone()}
        save_file(one, directory / "model.safetensors")
        (directory / "config.json").write_text('{"tie_word_embeddings": true}')
    tasks = {task: tmp_path / task for task in ("math", "code")}
    pack(tmp_path / "base", tasks, tmp_path / "store", codec=codec)
    store = Store.open(tmp_path / "store")
    assert store.manifest.tensors["lm_head.weight"].tied_to == "model.embed_tokens.weight"
    switcher = TaskSwitcher(model, store)
    for task in tasks:
        switcher.activate(task)
        assert_is(model, store.load(task, framework="torch"))
    switcher.deactivate()
    assert_is(model, base)
    memory = torch.zeros(41, 6)
    model.model.embed_tokens.weight = torch.nn.Parameter(memory[:-1])
    model.lm_head.weight = torch.nn.Parameter(memory[1:])
    with pytest.raises(InputError, match=r"'model.embed_tokens.weight' and 'lm_head.weight' share"):
        switcher.activate("math")


def test_tied_in_the_model_only(tmp_path: Path) -> None:
    model = TiedNet()
    store = packed(tmp_path, copies(model), "tall")
    with pytest.raises(InputError, match=r"'embed.weight' and 'head.weight' share memory"):
        TaskSwitcher(model, store)


def test_parameters_that_overlap(store: Store, model: Net) -> None:
    memory = torch.cat([model.frozen.detach(), torch.zeros(2)])
    model.frozen = torch.nn.Parameter(memory[:6], requires_grad=False)
    model.norm.weight = torch.nn.Parameter(memory[1:8])
    with pytest.raises(InputError, match=r"'frozen' and 'norm.weight' share memory"):
        TaskSwitcher(model, store)


def test_a_parameter_that_begins_anywhere_in_its_memory(store: Store, model: Net) -> None:
    memory = torch.full((41 * 7 + 2,), 5.0)
    memory[1:-1] = model.embed.weight.detach().reshape(-1)
    model.embed.weight = torch.nn.Parameter(memory[1:-1].view(41, 7))
    TaskSwitcher(model, store).activate("math")
    assert_is(model, store.load("math", framework="torch"))
    assert memory[0] == memory[-1] == 5.0


def _rename(model: Net) -> None:
    model.other = model.linear
    del model.linear


def _add(model: Net) -> None:
    model.extra = torch.nn.Parameter(torch.zeros(2))


def _transpose(model: Net) -> None:
    model.embed.weight.data = model.embed.weight.data.t().contiguous().t()


def _widen(model: Net) -> None:
    model.gain.data = model.gain.data.float()


def _grow(model: Net) -> None:
    model.gain.data = torch.ones(10, dtype=torch.float16)


def _leave_the_cpu(model: Net) -> None:
    model.gain = torch.nn.Parameter(model.gain.detach().to("meta"))


def _hook(model: Net) -> None:
    def add(module: torch.nn.Module, state: Tensors, prefix: str, metadata: object) -> None:
        state["made up"] = torch.zeros(1)

    model.register_state_dict_post_hook(add)


ODD_MODELS = [
    (_rename, r"lacks tensor 'linear\.(bias|weight)'"),
    (_add, r"has tensor 'extra', which .* lacks"),
    (_transpose, r"tensor 'embed\.weight' is not contiguous"),
    (_widen, r"tensor 'gain' is torch\.float32 \[9\], expected torch\.float16 \[9\]"),
    (_grow, r"tensor 'gain' is torch\.float16 \[10\], expected torch\.float16 \[9\]"),
    (_leave_the_cpu, r"tensor 'gain' is on device meta.*move the model to the CPU"),
    (_hook, r"state dict has 'made up', which is no parameter"),
]


@pytest.mark.parametrize(("change", "message"), ODD_MODELS)
def test_a_model_that_does_not_fit(store: Store, model: Net, change: Any, message: str) -> None:
    switcher = TaskSwitcher(model, store)
    change(model)
    with pytest.raises(InputError, match=message):
        switcher.activate("math")
    with pytest.raises(InputError, match=message):
        TaskSwitcher(model, store)
    assert bits(model.norm.weight) == bits(torch.ones(7))


def test_a_model_that_is_not_the_base(store: Store, model: Net) -> None:
    with torch.no_grad():
        model.norm.bias[3] = -0.0
    with pytest.raises(InputError, match=r"tensor 'norm\.bias' has other values than the base"):
        TaskSwitcher(model, store)


def test_a_task_of_other_dtypes(tmp_path: Path, model: Net) -> None:
    base = copies(model)
    save_file(base, tmp_path / "base.safetensors")
    wide = {**expert_of(base, 1), "gain": torch.rand(9)}
    save_file(wide, tmp_path / "wide.safetensors")
    pack(
        tmp_path / "base.safetensors",
        {"wide": tmp_path / "wide.safetensors"},
        tmp_path / "store",
        codec="bitdelta",
    )
    switcher = TaskSwitcher(model, Store.open(tmp_path / "store"))
    with pytest.raises(
        InputError, match=r"'gain' is torch\.float16 \[9\], expected torch\.float32"
    ):
        switcher.activate("wide")
    assert switcher.active is None
    assert_is(model, base)


def test_an_unknown_task(store: Store, model: Net) -> None:
    switcher = TaskSwitcher(model, store)
    switcher.activate("math")
    with pytest.raises(InputError, match="'maht' is not known; did you mean 'math'"):
        switcher.activate("maht")
    assert switcher.active == "math"
    assert_is(model, store.load("math", framework="torch"))
