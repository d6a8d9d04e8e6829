"""Damaged files, threads and nested blocks leave a switched module whole."""

from __future__ import annotations

import shutil
import threading

import pytest

from tallies import InputError, Store
from tallies.torch.task_switcher import TaskSwitcher
from tests.support.switching import TASKS, Net, assert_is, bits, copies, flip_last_byte


def test_a_damaged_store_changes_nothing(store: Store, model: Net) -> None:
    switcher = TaskSwitcher(model, store, preload=False)
    switcher.activate("code")
    flip_last_byte(store.path / "tasks" / "math.safetensors")
    with pytest.raises(InputError, match=r"math\.safetensors: tensor .* is damaged"):
        switcher.activate("math")
    assert switcher.active == "code"
    assert_is(model, store.load("code", framework="torch"))
    switcher.deactivate()
    with pytest.raises(InputError, match=r"math\.safetensors: tensor .* is damaged"):
        TaskSwitcher(model, store)


def test_a_preloaded_store_is_one_shared_vector_and_packed_masks(store: Store, model: Net) -> None:
    base = copies(model)
    switcher = TaskSwitcher(model, store)
    changed = [base[name] for name in store.manifest.coded]
    shared = sum(tensor.nbytes for tensor in changed)
    masks = sum((tensor.numel() + 7) // 8 for tensor in changed)
    assert switcher.nbytes == shared + len(TASKS) * masks
    expected = {task: store.load(task, framework="torch") for task in TASKS}
    shutil.rmtree(store.path)
    for task in TASKS:
        switcher.activate(task)
        assert_is(model, expected[task])
    switcher.deactivate()
    assert_is(model, base)


def test_a_damaged_base_leaves_no_task_until_it_is_repaired(store: Store, model: Net) -> None:
    base = copies(model)
    switcher = TaskSwitcher(model, store)
    whole = store.base.path.read_bytes()
    flip_last_byte(store.base.path)
    with pytest.raises(InputError, match=r"base\.safetensors: tensor .* is not the store's base"):
        switcher.activate("math")
    with pytest.raises(InputError, match="is no task"):
        _ = switcher.active
    with (
        pytest.raises(InputError, match=r"base\.safetensors: tensor .* is not the store's base"),
        switcher.using(None),
    ):
        pass
    store.base.path.write_bytes(whole)
    switcher.deactivate()
    assert switcher.active is None
    assert_is(model, base)


def test_threads_that_hold_the_model_see_one_task(store: Store, model: Net) -> None:
    switcher = TaskSwitcher(model, store)
    expected = {task: bits(store.load(task, framework="torch")["embed.weight"]) for task in TASKS}
    mixed: list[str] = []

    def serve(first: int) -> None:
        for i in range(30):
            task = TASKS[(first + i) % len(TASKS)]
            with switcher.using(task) as used:
                before = bits(used.state_dict()["embed.weight"])
                after = bits(used.state_dict()["embed.weight"])
                if not before == after == expected[task]:
                    mixed.append(task)

    threads = [threading.Thread(target=serve, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert mixed == []


@pytest.mark.parametrize("other", ["activate", "deactivate", "active", "using"])
def test_other_threads_wait_until_the_block_is_left(store: Store, model: Net, other: str) -> None:
    switcher = TaskSwitcher(model, store)
    waiting, done = threading.Event(), threading.Event()

    def act() -> None:
        waiting.set()
        if other == "activate":
            switcher.activate("code")
        elif other == "deactivate":
            switcher.deactivate()
        elif other == "active":
            assert switcher.active == "math"
        else:
            with switcher.using("math"):
                pass
        done.set()

    with switcher.using("math"):
        thread = threading.Thread(target=act)
        thread.start()
        assert waiting.wait(10)
        assert not done.wait(0.2)
        assert_is(model, store.load("math", framework="torch"))
    thread.join(10)
    assert done.is_set()


def test_blocks_within_blocks(store: Store, model: Net) -> None:
    switcher = TaskSwitcher(model, store)
    with switcher.using("math") as outer, switcher.using("math") as inner:
        assert outer is inner is model
        with pytest.raises(InputError, match=r"'code': found inside using\('math'\)"):
            switcher.activate("code")
        with pytest.raises(InputError, match=r"None: found inside using\('math'\)"):
            switcher.deactivate()
        with (
            pytest.raises(InputError, match=r"'code': found inside using\('math'\)"),
            switcher.using("code"),
        ):
            pass
        assert_is(model, store.load("math", framework="torch"))
    with pytest.raises(KeyError), switcher.using("code"):
        raise KeyError
    with switcher.using(None):
        assert switcher.active is None
    switcher.activate("chat")
    assert switcher.active == "chat"
