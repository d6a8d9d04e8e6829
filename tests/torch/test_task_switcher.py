"""A switched module holds what the store gives, bit for bit."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from tallies import InputError, Store, pack
from tallies.torch import store_deltas
from tallies.torch.task_switcher import TaskSwitcher
from tests.support.switching import (
    CODECS,
    SHARED_CODECS,
    TASKS,
    Net,
    addresses,
    assert_is,
    bits,
    copies,
    expert_of,
    flip_last_byte,
    packed,
)


@pytest.mark.parametrize("preload", [True, False])
@pytest.mark.parametrize("codec", CODECS)
def test_each_task_is_what_load_returns_and_the_base_comes_back(
    tmp_path: Path, codec: str, preload: bool, model: Net
) -> None:
    base = copies(model)
    store = packed(tmp_path, base, codec)
    switcher = TaskSwitcher(model, store, preload=preload)
    assert (switcher.nbytes > 0) == preload
    before = addresses(model)
    assert switcher.active is None
    for task in (*TASKS, "math", "chat"):
        switcher.activate(task)
        assert switcher.active == task
        expected = store.load(task, framework="torch")
        assert_is(model, expected)
        assert bits(expected["embed.weight"]) != bits(base["embed.weight"])
    switcher.deactivate()
    assert switcher.active is None
    assert_is(model, base)
    assert addresses(model) == before


@pytest.mark.parametrize("codec", SHARED_CODECS)
def test_tasks_kept_beside_the_model_need_no_file(tmp_path: Path, codec: str, model: Net) -> None:
    base = copies(model)
    store = packed(tmp_path, base, codec)
    switcher = TaskSwitcher(model, store, preload="device")
    expected = {task: store.load(task, framework="torch") for task in TASKS}
    shutil.rmtree(store.path)
    store.base.path.unlink()
    before = addresses(model)
    for task in (*TASKS, "math"):
        switcher.activate(task)
        assert_is(model, expected[task])
    with torch.no_grad():
        model.frozen.fill_(7)
    switcher.deactivate()
    assert_is(model, base)
    assert addresses(model) == before
    changed = [base[name] for name in store.manifest.coded]
    masks = sum((tensor.numel() + 7) // 8 for tensor in changed)
    kept = sum(tensor.nbytes for tensor in (*changed, *base.values()))
    assert switcher.nbytes == kept + len(TASKS) * masks


@pytest.mark.parametrize("codec", ["tsv_c", "twin"])
def test_whole_tensors_are_kept_beside_the_model_as_well(
    tmp_path: Path, codec: str, model: Net
) -> None:
    store = packed(tmp_path, copies(model), codec)
    TaskSwitcher(model, store, preload="device").activate("math")
    assert_is(model, store.load("math", framework="torch"))


@pytest.mark.parametrize("codec", ["sparse", "exact", "int8", "bitdelta"])
def test_codecs_that_are_not_kept_beside_the_model(tmp_path: Path, codec: str, model: Net) -> None:
    store = packed(tmp_path, copies(model), codec)
    with pytest.raises(InputError, match=r"preload: found 'device'.*expected a mask and a shared"):
        TaskSwitcher(model, store, preload="device")


def test_another_preload(store: Store, model: Net) -> None:
    with pytest.raises(InputError, match="preload: found 'gpu', expected True, False or 'device'"):
        TaskSwitcher(model, store, preload="gpu")  # type: ignore[arg-type]


def test_a_path_is_no_store(store: Store, model: Net) -> None:
    path = str(store.path)
    for take in (lambda: TaskSwitcher(model, path), lambda: store_deltas(path)):  # type: ignore[arg-type]
        with pytest.raises(InputError, match=r"store: found '.*', expected a store; open it with"):
            take()


@pytest.mark.usefixtures("by_way_of_the_host")
@pytest.mark.parametrize("codec", CODECS)
def test_switches_by_way_of_the_host(tmp_path: Path, codec: str, model: Net) -> None:
    base = copies(model)
    store = packed(tmp_path, base, codec)
    switcher = TaskSwitcher(model, store)
    before = addresses(model)
    for task in TASKS:
        switcher.activate(task)
        assert_is(model, store.load(task, framework="torch"))
    switcher.deactivate()
    assert_is(model, base)
    assert addresses(model) == before


@pytest.mark.usefixtures("by_way_of_the_host")
def test_a_damaged_base_by_way_of_the_host(store: Store, model: Net) -> None:
    base = copies(model)
    switcher = TaskSwitcher(model, store)
    whole = store.base.path.read_bytes()
    flip_last_byte(store.base.path)
    with pytest.raises(InputError, match=r"base\.safetensors: tensor .* is not the store's base"):
        switcher.activate("math")
    with pytest.raises(InputError, match="is no task"):
        _ = switcher.active
    store.base.path.write_bytes(whole)
    switcher.deactivate()
    assert_is(model, base)


def test_switches_on_every_target(target: str, store: Store, model: Net) -> None:
    switcher = TaskSwitcher(model, store, threads=1)
    switcher.activate("code")
    assert_is(model, store.load("code", framework="torch"))


def test_one_of_several_candidates(tmp_path: Path, model: Net) -> None:
    store = packed(tmp_path, copies(model), "tall", **{"lambda": [0.2, 1.0]})
    switcher = TaskSwitcher(model, store)
    for lam in (0.2, 1.0):
        with switcher.using("math", mask_lambda=lam):
            assert_is(model, store.load("math", mask_lambda=lam, framework="torch"))
    with pytest.raises(InputError, match="has candidates for lambda"):
        switcher.activate("math")
    assert_is(model, store.load("math", mask_lambda=1.0, framework="torch"))


@pytest.mark.parametrize("codec", ["sparse", "bitdelta"])
def test_tensors_that_only_another_task_changed(tmp_path: Path, model: Net, codec: str) -> None:
    base = copies(model)
    changed = {"math": "embed.weight", "code": "gain"}
    save_file(base, tmp_path / "base.safetensors")
    for task, name in changed.items():
        expert = {**base, name: expert_of(base, 1)[name]}
        save_file(expert, tmp_path / f"{task}.safetensors")
    tasks = {task: tmp_path / f"{task}.safetensors" for task in changed}
    pack(tmp_path / "base.safetensors", tasks, tmp_path / "store", codec=codec)
    store = Store.open(tmp_path / "store")
    switcher = TaskSwitcher(model, store)
    for task in ("math", "code", "math"):
        switcher.activate(task)
        assert_is(model, store.load(task, framework="torch"))
        differ = [name for name, one in model.state_dict().items() if bits(one) != bits(base[name])]
        assert differ == [changed[task]]


def test_what_was_changed_in_between_is_written_over(store: Store, model: Net) -> None:
    base = copies(model)
    switcher = TaskSwitcher(model, store)
    switcher.activate("math")
    with torch.no_grad():
        for tensor in model.state_dict().values():
            tensor.fill_(1)
    switcher.activate("math")
    assert_is(model, store.load("math", framework="torch"))
    with torch.no_grad():
        model.frozen.fill_(7)
    switcher.deactivate()
    assert_is(model, base)


def test_state_dict_round_trip(store: Store, model: Net) -> None:
    base = copies(model)
    switcher = TaskSwitcher(model, store)
    switcher.activate("math")
    saved = copies(model)
    other = Net()
    other.load_state_dict(saved)
    assert_is(other, store.load("math", framework="torch"))
    switcher.activate("code")
    model.load_state_dict(saved)
    assert_is(model, saved)
    switcher.deactivate()
    assert_is(model, base)


@pytest.mark.parametrize("preload", [True, "device"])
def test_a_backward_pass_over_the_values_of_another_task_is_refused(
    store: Store, model: Net, preload: Any
) -> None:
    switcher = TaskSwitcher(model, store, preload=preload)
    loss = (model.embed.weight**2).sum()
    switcher.activate("math")
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


@pytest.mark.parametrize("preload", [True, "device"])
def test_a_model_of_inference_mode(store: Store, model: Net, preload: Any) -> None:
    with torch.inference_mode():
        fixed = Net()
        fixed.load_state_dict(model.state_dict())
        fixed.gain = torch.nn.Parameter(model.gain.clone())
        assert fixed.gain.is_inference()
        TaskSwitcher(fixed, store, preload=preload).activate("math")
    assert_is(fixed, store.load("math", framework="torch"))
