"""Tasks that lack tensors of the base, or have others beside them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tallies import InputError, Store, pack
from tallies.store import add
from tests.support.checkpoints import Model, read, write
from tests.support.command import tallies
from tests.support.merges import dyadic


def model(seed: int) -> Model:
    rng = np.random.default_rng(seed)
    return {"layer.weight": dyadic(rng, 4, 4), "norm.weight": dyadic(rng, 4)}


BUFFERS: Model = {
    "embed.position_ids": np.arange(4),
    "layer.inv_freq": np.linspace(1, 0.5, 4, dtype=np.float32),
}


@pytest.mark.parametrize("codec", ["tall", "bitdelta", "sparse"])
@pytest.mark.parametrize("who", ["base", "task"])
def test_buffers_of_one_model_are_the_bases(tmp_path: Path, codec: str, who: str) -> None:
    base, task = (
        model(seed) | (BUFFERS if who == name else {}) for seed, name in enumerate(("base", "task"))
    )
    paths = write(tmp_path / "base", base), write(tmp_path / "task", task)
    pack(paths[0], {"a": paths[1]}, tmp_path / "store", codec=codec)
    found = Store.open(tmp_path / "store").load("a")
    assert found.keys() == base.keys()
    for name in BUFFERS if who == "base" else ():
        assert np.array_equal(found[name], BUFFERS[name])


def test_each_task_keeps_constants_of_its_own(tmp_path: Path) -> None:
    own = {"layer.inv_freq": BUFFERS["layer.inv_freq"] * 2}
    paths = write(tmp_path / "base", model(0) | BUFFERS), write(tmp_path / "t", model(1) | own)
    pack(paths[0], {"a": paths[1]}, tmp_path / "s", codec="sparse", density="exact")
    found = Store.open(tmp_path / "s").load("a")
    assert np.array_equal(found["layer.inv_freq"], own["layer.inv_freq"])


@pytest.mark.parametrize("codec", ["tall", "emr", "sparse"])
def test_counters_of_batches_are_the_bases(tmp_path: Path, codec: str) -> None:
    name = "bn.num_batches_tracked"
    models = [model(seed) | {name: np.array(seed)} for seed in range(2)]
    paths = [write(tmp_path / str(seed), one) for seed, one in enumerate(models)]
    pack(paths[0], {"a": paths[1]}, tmp_path / "s", codec=codec)
    store = Store.open(tmp_path / "s")
    assert store.load("a")[name] == 0
    assert not store.unpack("a", tmp_path / "out").exact


def test_missing_and_extra_tensors_of_a_task(tmp_path: Path) -> None:
    base = write(tmp_path / "base", model(0) | {"score.weight": np.ones((2, 4), np.float32)})
    task = write(tmp_path / "task", model(1) | {"value.weight": np.ones((1, 4), np.float32)})
    with pytest.raises(InputError, match=r"lacks tensor 'score\.weight'.*--missing base"):
        pack(base, {"a": task}, tmp_path / "s")
    with pytest.raises(InputError, match=r"has tensor 'value\.weight'.*--extra drop"):
        pack(base, {"a": task}, tmp_path / "s", missing="base")
    options = ["--base", base, "--task", f"a={task}", "--missing", "score=base", "--extra", "drop"]
    assert tallies("pack", *options, "--out", tmp_path / "s").status == 0
    store = Store.open(tmp_path / "s")
    assert np.array_equal(store.load("a")["score.weight"], np.ones((2, 4), np.float32))
    add(tmp_path / "s", "b", task, missing="base", extra="drop")
    Store.open(tmp_path / "s").unpack("b", tmp_path / "out")
    assert read(tmp_path / "out").keys() == {*model(0), "score.weight"}


def test_wrapped_names_of_a_task_are_told_with_the_command_that_renames(tmp_path: Path) -> None:
    base = write(tmp_path / "base", model(0))
    task = write(tmp_path / "t", {f"module.{name}": one for name, one in model(1).items()})
    with pytest.raises(InputError, match=r"by a prefix.*tallies merge --method linear --model"):
        pack(base, {"a": task}, tmp_path / "s")
    rename = ["--rename", f"{task}=module.:"]
    done = tallies("merge", "--method", "linear", "--model", task, *rename, "--out", tmp_path / "n")
    assert done.status == 0
    assert all(np.array_equal(one, model(1)[name]) for name, one in read(tmp_path / "n").items())
    pack(base, {"a": tmp_path / "n"}, tmp_path / "s")
