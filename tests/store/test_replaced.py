"""A store that is replaced while it is read serves what was opened, or refuses."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
import torch

from tallies import InputError, StorageError, Store
from tallies.torch import TaskSwitcher
from tests.support.checkpoints import Model, read, write
from tests.support.stores import BASE, CODECS, expert, loaded, mask_lambda, packed, same_values

N_ROUNDS = 12


@pytest.fixture
def other(tmp_path: Path) -> Path:
    """The same base with experts of the same names and other values."""
    root = tmp_path / "other/models"
    for name, model in {"base": BASE, "a": expert(3), "b": expert(4)}.items():
        write(root / name, model)
    return root


class Net(torch.nn.Module):
    """A module with the tensors of the base."""

    def __init__(self) -> None:
        super().__init__()
        self.bias = torch.nn.Parameter(torch.from_numpy(BASE["bias"].copy()))
        self.frozen = torch.nn.Parameter(torch.from_numpy(BASE["frozen"].copy()))
        self.embed = torch.nn.Embedding.from_pretrained(
            torch.from_numpy(BASE["embed.weight"].copy())
        )
        self.layer = torch.nn.Linear(7, 5, bias=False, dtype=torch.float16)
        self.layer.weight.data = torch.from_numpy(BASE["layer.weight"].copy())
        self.register_buffer("ids", torch.from_numpy(BASE["ids"].copy()))


def held(model: torch.nn.Module) -> Model:
    return {name: tensor.detach().numpy().copy() for name, tensor in model.state_dict().items()}


def replace(models: Path, kind: str, out: Path) -> None:
    packed(models, kind, out=out, overwrite=True)


@pytest.mark.parametrize("kind", CODECS)
def test_what_was_opened_or_nothing(models: Path, other: Path, kind: str) -> None:
    """A store opened before reads the old values, or says that it is another one now."""
    path = packed(models, kind)
    store = Store.open(path)
    old = loaded(store, kind)
    model = Net()
    task = None if kind == "candidates" else TaskSwitcher(model, store, preload=False)
    replace(other, kind, path)
    assert not same_values(loaded(Store.open(path), kind)["a"], old["a"])
    out = path.parent / "out"
    for name in ("a", "b"):
        try:
            assert same_values(store.load(name, mask_lambda=mask_lambda(kind)), old[name])
            store.unpack(name, out / name, mask_lambda=mask_lambda(kind))
            assert same_values(read(out / name), old[name])
        except (InputError, StorageError) as error:
            assert str(path) in str(error)
    if task is not None:
        try:
            task.activate("a")
            assert same_values(held(model), old["a"])
        except (InputError, StorageError) as error:
            assert str(path) in str(error)
            task.deactivate()
            assert same_values(held(model), BASE)


@pytest.mark.parametrize("kind", ["tall", "bitdelta", "magnitude"])
def test_a_store_that_refuses_says_that_it_was_replaced(
    models: Path, other: Path, kind: str
) -> None:
    path = packed(models, kind)
    store = Store.open(path)
    replace(other, kind, path)
    with pytest.raises(InputError, match=rf"opened, for {path} was replaced since; open it again"):
        store.load("a")


@pytest.mark.parametrize("kind", ["tall", "lossless", "bitdelta", "magnitude"])
def test_read_while_it_is_replaced_again_and_again(models: Path, other: Path, kind: str) -> None:
    path = packed(other, kind, out=models.parent / "store")
    known = [loaded(Store.open(path), kind)]
    replace(models, kind, path)
    known.append(loaded(Store.open(path), kind))
    ended = threading.Event()
    failures: list[BaseException] = []

    def write_on() -> None:
        try:
            for i in range(N_ROUNDS):
                replace((other, models)[i % 2], kind, path)
        except BaseException as error:
            failures.append(error)
        finally:
            ended.set()

    writer = threading.Thread(target=write_on)
    writer.start()
    n_read = 0
    model = Net()
    while not ended.is_set():
        try:
            store = Store.open(path)
            found = [store.load("a"), store.load("b")]
            assert any(
                same_values(found[0], one["a"]) and same_values(found[1], one["b"]) for one in known
            )
            task = TaskSwitcher(model, store)
            task.activate("a")
            assert any(same_values(held(model), one["a"]) for one in known)
            task.deactivate()
            assert same_values(held(model), BASE)
            n_read += 1
        except (InputError, StorageError) as error:
            assert str(path) in str(error)
    writer.join()
    assert not failures
    assert n_read > 0
