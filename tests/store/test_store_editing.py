"""Adding, removing and choosing in a store; counting and verifying; the commands that do it."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tallies import InputError, Store, pack
from tallies.inspection.verify import verify
from tallies.store import add, choose, consensus, remove
from tests.reference.masks import unpack_bits
from tests.reference.tall import masks, shared_vector, vectors
from tests.support.checkpoints import Model, assert_same_tensors, write
from tests.support.command import assert_failed, tallies

INDEPENDENT = ("sparse", "bitdelta", "tsv_c")
SHARED = ("tall", "emr", "magnitude", "twin")


def model(seed: int) -> Model:
    rng = np.random.default_rng(seed)
    return {
        "layer.weight": rng.normal(size=(9, 11)).astype(np.float32),
        "bias": rng.normal(size=37).astype(np.float16),
        "late": np.ones(5, np.float32) * (1 if seed < 3 else seed),
        "frozen": np.ones(70, np.float32),
        "steps": np.array([3]),
    }


@pytest.fixture(autouse=True)
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """base and experts a, b, c; c alone changes the tensor ``late``."""
    monkeypatch.chdir(tmp_path)
    for seed, name in enumerate(("base", "a", "b", "c")):
        write(tmp_path / name, model(seed))
    return tmp_path


def packed(codec: str, *tasks: str, out: str = "store", **parameters: object) -> Path:
    pack("base", {task: task for task in tasks}, out, codec=codec, **parameters)
    return Path(out)


def contents(store: Path) -> dict[str, Model]:
    opened = Store.open(store)
    return {task: opened.load(task) for task in opened.tasks}


def assert_same_store(found: Path, expected: Path) -> None:
    said, wanted = contents(found), contents(expected)
    assert said.keys() == wanted.keys()
    for task, tensors in wanted.items():
        assert_same_tensors(said[task], tensors)
    assert verify(found)["tensors"] == verify(expected)["tensors"]
    # Nothing is left of what was there before.
    names = [sorted(str(p.relative_to(one)) for p in one.rglob("*")) for one in (found, expected)]
    assert names[0] == names[1]


@pytest.mark.parametrize("codec", INDEPENDENT + SHARED)
def test_adding_is_packing_all(codec: str) -> None:
    store = packed(codec, "a", "b")
    report = add(store, "c", "c")
    assert [task.name for task in report.tasks] == (["c"] if codec in INDEPENDENT else [*"abc"])
    assert any("packed again" in text for text in report.warnings) == (codec in SHARED)
    assert report.path == str(store) or Path(report.path) == store.resolve()
    if codec in INDEPENDENT:
        # The tasks that were there keep their files; what they left alone is still the base's.
        for task in "ab":
            expected = contents(packed(codec, task, out=f"alone-{task}"))[task]
            found = contents(store)[task]
            if codec == "bitdelta":
                assert_same_tensors(found, expected)
        assert_same_tensors(contents(store)["c"], contents(packed(codec, "c", out="c-alone"))["c"])
    else:
        assert_same_store(store, packed(codec, "a", "b", "c", out="all"))


@pytest.mark.parametrize("codec", SHARED)
def test_removing_is_packing_the_others(codec: str) -> None:
    store = packed(codec, "a", "b", "c")
    report = remove(store, "b")
    assert report is not None and [task.name for task in report.tasks] == ["a", "c"]
    assert_same_store(store, packed(codec, "a", "c", out="others"))


@pytest.mark.parametrize("codec", INDEPENDENT + SHARED)
def test_removing_leaves_the_others_alone(codec: str) -> None:
    store = packed(codec, "a", "b", "c")
    before = contents(store)
    assert remove(store, "b", keep_shared=True) is None
    after = contents(store)
    assert list(after) == ["a", "c"]
    for task in after:
        assert_same_tensors(after[task], before[task])
    assert not (store / "tasks" / "b.safetensors").exists()


def test_lambdas_stay_with_their_tasks() -> None:
    store = packed("tall", "a", "b", **{"lambda": {"a": 0.2, "b": 0.7}})
    add(store, "c", "c", mask_lambda=1.5)
    lambdas = {"a": 0.2, "b": 0.7, "c": 1.5}
    assert {n: t.mask_lambda for n, t in Store.open(store).manifest.tasks.items()} == lambdas
    assert_same_store(store, packed("tall", "a", "b", "c", out="all", **{"lambda": lambdas}))
    assert Store.open(store).manifest == Store.open("all").manifest


def test_choosing_is_packing_with_that_lambda() -> None:
    store = packed("tall", "a", "b", **{"lambda": [0.2, 0.4, 1.0]})
    with pytest.raises(InputError, match="has several candidates; keep one"):
        consensus(store)
    with pytest.raises(InputError, match="has several candidates; keep one"):
        add(store, "c", "c")
    choose(store, "a", 0.4)
    choose(store, "b", "1.0")
    expected = packed("tall", "a", "b", out="one", **{"lambda": {"a": 0.4, "b": 1.0}})
    assert_same_store(store, expected)
    assert Store.open(store).manifest == Store.open(expected).manifest
    with pytest.raises(InputError, match=r"task 'a' has no candidates: its lambda is 0\.4"):
        choose(store, "a", 0.2)


def test_counts_of_a_consensus() -> None:
    store = packed("tall", "a", "b", "c")
    base, experts = model(0), [model(seed) for seed in (1, 2, 3)]
    names = ["bias", "late", "layer.weight"]
    tasks = vectors(base, experts, names)
    bits = masks(tasks, shared_vector(tasks))
    found = consensus(store)
    for name in names:
        size = base[name].size
        used = sum(unpack_bits(mask[name], size).astype(int) for mask in bits)
        assert found["tensors"][name] == np.bincount(used, minlength=4).tolist()
    assert found["used_by"] == np.sum([*found["tensors"].values()], axis=0).tolist()
    assert found["n_parameters"] == sum(base[name].size for name in names)
    with pytest.raises(InputError, match="the masks of bitdelta are signs"):
        consensus(packed("bitdelta", "a", out="signs"))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda: add("store", "a", "c"), "store: has task 'a' already; .*'tallies remove store a'"),
        (lambda: add("store", "../c", "c"), r"task '\.\./c': begins or ends with a dot"),
        (lambda: add("store", "c", "nowhere"), "nowhere: no such file"),
        (lambda: add("nowhere", "c", "c"), "nowhere: is not a store"),
        (lambda: add("store", "c", "c", base="b"), "b: is not the base of store"),
        (lambda: remove("store", "q"), r"task 'q' is not known \(known: a, b\)"),
        (lambda: choose("store", "q", 0.4), r"task 'q' is not known \(known: a, b\)"),
        (lambda: choose("store", "a", 0.4), "task 'a' has no candidates"),
    ],
)
@pytest.mark.parametrize("codec", ["sparse", "bitdelta"])
def test_wrong_changes(codec: str, change: Callable[[], object], words: str) -> None:
    store = packed(codec, "a", "b")
    before = contents(store)
    with pytest.raises(InputError, match=words):
        change()
    for task, tensors in contents(store).items():
        assert_same_tensors(tensors, before[task])
    assert sorted(p.name for p in store.iterdir()) == ["store.json", "tasks"]


def test_the_last_task_stays() -> None:
    store = packed("tall", "a")
    with pytest.raises(InputError, match="task 'a' is the only one"):
        remove(store, "a")


def test_an_expert_that_is_gone() -> None:
    store = packed("tall", "a", "b")
    Path("a").rename("moved")
    with pytest.raises(InputError, match=r"the expert of task 'a' is not at .*/a any more"):
        add(store, "c", "c")
    assert list(contents(store)) == ["a", "b"]


def die_at(moment: int, work: Callable[[], object]) -> bool:
    """Run in a process that is killed just before it touches files for the so-manieth time."""
    child = os.fork()
    if child == 0:
        seen = 0

        def fuse(event: str, arguments: tuple[object, ...]) -> None:
            nonlocal seen
            if event.startswith(("open", "os.", "shutil.", "fcntl.")):
                if seen == moment:
                    signal.raise_signal(signal.SIGKILL)
                seen += 1

        sys.addaudithook(fuse)
        try:
            work()
        finally:
            os._exit(0)
    return os.WIFSIGNALED(os.waitpid(child, 0)[1])


@pytest.mark.parametrize("codec", ["sparse", "tall"])
def test_killed_while_adding(codec: str) -> None:
    """At any moment the store is the old one or the new one, and the next addition works."""
    expected = {
        tasks: contents(packed(codec, *tasks, out="-".join(tasks))) for tasks in ("ab", "abc")
    }
    n_killed, killed = 0, True
    moment = 0
    while killed:
        store = packed(codec, "a", "b", overwrite=True)
        killed = die_at(moment, lambda store=store: add(store, "c", "c", threads=1))
        n_killed += killed
        found = contents(store)
        assert "".join(found) in (expected if killed else ("abc",))
        for task, tensors in expected["".join(found)].items():
            assert_same_tensors(found[task], tensors)
        if "c" not in found:
            add(store, "c", "c")
        assert list(contents(store)) == ["a", "b", "c"]
        moment += 1 + moment // 6
    assert n_killed > 10


def said(*arguments: object) -> str:
    ended = tallies(*arguments)
    assert ended.status == 0, ended.err
    return ended.out


def test_commands(models: Path) -> None:
    experts = ("--task=a=a", "--task=b=b")
    out = said("pack", "--base=base", *experts, "--out=store", "--param=lambda=0.2,0.4")
    assert "at lambda 0.2" in out and "bits per parameter and task" in out
    assert "candidates for lambda 0.2, 0.4" in said("inspect", "store")
    said("unpack", "store", "a", "a-0.2", "--lambda=0.2")
    said("choose", "store", "a", "0.2")
    said("choose", "store", "b", "0.4")
    said("unpack", "store", "a", "again")
    files = [Path(path, "model.safetensors").read_bytes() for path in ("a-0.2", "again")]
    assert files[0] == files[1]
    assert json.loads(said("consensus", "store", "--json"))["tasks"] == ["a", "b"]
    assert said("consensus", "store").splitlines()[-1].startswith("all")
    assert "store is whole" in said("verify", "store")
    assert "checkpoint is whole" in said("verify", "again")
    assert "packed again" in said("add", "store", "--task=c=c", "--lambda=0.4")
    assert "tall of 2 tasks" in said("remove", "store", "b")
    assert "removed c" in said("remove", "store", "c", "--keep-shared")
    assert list(json.loads(said("inspect", "store", "--json"))["tasks"]) == ["a"]
    report = json.loads(said("unpack", "store", "a", "exact", "--json"))
    assert report["task"] == "a" and not report["exact"]
    by_task = said(
        "pack", "--base=base", *experts, "--out=s2", "--param=lambda.a=.1", "--param=lambda.b=.9"
    )
    assert "tall of 2 tasks" in by_task
    exact = ("--codec=sparse", "--param=density=exact")
    said("pack", "--base=base", *experts, "--out=s3", *exact, "--quiet")
    assert "the expert bit for bit" in said("unpack", "s3", "b", "b-again")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["pack", "--base=base", "--task=a", "--out=s"], "--task 'a': expected NAME=VALUE"),
        (["pack", "--base=base", "--task=a=a", "--task=a=b", "--out=s"], "'a' is given twice"),
        (["pack", "--base=base", "--out=s"], "tasks: found none"),
        (["pack", "--base=base", "--task=a=a", "--out=s", "--codec=tal"], "did you mean 'tall'"),
        (
            ["pack", "--base=base", "--task=a=a", "--out=s", "--codec=sparse", "--param=desnity=1"],
            "did you mean 'density'",
        ),
        (["add", "store", "--task=a=c"], "store: has task 'a' already; take another name"),
        (
            [
                "pack",
                "--base=base",
                "--task=a=a",
                "--out=s",
                "--codec=lossless",
                "--param=density=1",
            ],
            "lossless has no parameters, found 'density'",
        ),
        (["unpack", "store", "q", "out"], "task 'q' is not known (known: a, b)"),
        (["unpack", "store", "a", "out", "--base=b"], "is not the store's base"),
        (["choose", "store", "a", "x"], "task 'a' has no candidates"),
        (
            ["add", "store", "--task=c=c", "--task=d=c"],
            "--task: found 2 tasks that are not in store",
        ),
        (["verify", "nowhere"], "nowhere"),
    ],
)
def test_wrong_commands(arguments: list[str], words: str) -> None:
    packed("tall", "a", "b")
    before = sorted(p.name for p in Path().iterdir())
    assert words in assert_failed(tallies(*arguments), 2)
    assert sorted(p.name for p in Path().iterdir()) == before


def test_verifying_a_checkpoint(models: Path) -> None:
    odd = model(1)
    odd["bias"][[3, 5]] = np.nan, np.inf
    write(models / "odd", odd)
    line = assert_failed(tallies("verify", "odd"), 2)
    assert "tensor 'bias' has 2 NaN or infinite values, the first at element 3" in line
    assert "bias: 2 NaN or infinite values from 3 on" in said("verify", "odd", "--nonfinite=warn")
    data = bytearray(Path("a/model.safetensors").read_bytes())
    Path("a/model.safetensors").write_bytes(data[:-1])
    assert_failed(tallies("verify", "a"), 2)


def test_verifying_a_damaged_store(models: Path) -> None:
    store = packed("emr", "a", "b")
    path = store / "tasks" / "b.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 4
    path.write_bytes(data)
    assert f"{path}: tensor" in assert_failed(tallies("verify", store), 2)
