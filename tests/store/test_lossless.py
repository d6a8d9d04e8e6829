"""Any fine-tune, and a checkpoint by itself, come back bit for bit."""

from __future__ import annotations

import builtins
import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tallies import Store, pack
from tallies.coding import BLOCK
from tallies.engine.limits import tile_limits
from tallies.inspection.stores import inspect_store, verify_store
from tallies.store import add, remove
from tallies.store.families._byte_ranges import n_workers
from tests.support.checkpoints import (
    DTYPES,
    FILE,
    Model,
    assert_same_tensors,
    read,
    read_file,
    write,
)
from tests.support.command import assert_failed, tallies, tree
from tests.support.stores import assert_refused, edit, flip


def random_bits(dtype: str, shape: tuple[int, ...], seed: int) -> Any:
    kind = DTYPES[dtype]
    n_bytes = int(np.prod(shape, dtype=int)) * kind.itemsize
    bits = np.random.default_rng(seed).integers(0, 2 if dtype == "BOOL" else 256, n_bytes, np.uint8)
    return bits.view(kind).reshape(shape)


def tuned(array: Any, seed: int, step: int = 3) -> Any:
    """The same with patterns up to ``step`` further, where that makes no new kind of boolean."""
    if array.dtype == bool:
        return ~array
    bits = array.view(f"u{array.dtype.itemsize}")
    steps = np.random.default_rng(seed).integers(0, step + 1, bits.shape).astype(bits.dtype)
    return (bits + steps).view(array.dtype)


@st.composite
def models(draw: st.DrawFn) -> tuple[Model, Model]:
    """A base and an expert whose tensors are the base's, near them, of another form, or new."""
    base: Model = {}
    expert: Model = {}
    for seed, name in enumerate(("a", "b.weight", "c", "d")):
        shape = draw(st.sampled_from([(0,), (), (7, 5), (3, 0), (40, 1700), (BLOCK,)]))
        dtype = draw(st.sampled_from(sorted(DTYPES)))
        one = random_bits(dtype, shape, seed)
        kind = draw(st.sampled_from(["same", "near", "other", "form", "new", "gone"]))
        if kind != "new":
            base[name] = one
        if kind in ("same", "new"):
            expert[name] = one
        elif kind == "near":
            expert[name] = tuned(one, seed)
        elif kind == "other":
            expert[name] = random_bits(dtype, shape, seed + 100)
        elif kind == "form":
            other = draw(st.sampled_from(sorted(DTYPES)))
            expert[name] = random_bits(other, (*shape, 2), seed)
    return base, expert


@settings(max_examples=40, deadline=None)
@given(models(), st.sampled_from([1, 3]))
def test_a_fine_tune_comes_back(pair: tuple[Model, Model], threads: int) -> None:
    base, expert = pair
    if not base or not expert:
        return
    with TemporaryDirectory() as folder:
        root = Path(folder)
        write(root / "base", base, config={"x": 1})
        write(root / "expert", expert, config={"torch_dtype": "float64"})
        tasks = {"expert": root / "expert"}
        pack(root / "base", tasks, root / "store", codec="lossless", threads=threads)
        store = Store.open(root / "store")
        assert_same_tensors(store.load("expert", threads=threads), expert)
        for name, tensor in expert.items():
            assert store.tensor("expert", name).tobytes() == tensor.tobytes()
        report = store.unpack("expert", root / "out", threads=threads)
        assert report.exact
        assert_same_tensors(read(root / "out"), expert)
        config = (root / "expert" / "config.json").read_bytes()
        assert (root / "out" / "config.json").read_bytes() == config
        verify_store(root / "store", base=root / "base", tasks=tasks)


def test_the_bytes_do_not_depend_on_threads(tmp_path: Path) -> None:
    base = {"w": random_bits("BF16", (40, BLOCK), 0), "v": random_bits("F32", (9, BLOCK), 1)}
    write(tmp_path / "base", base)
    write(tmp_path / "a", {name: tuned(one, 2) for name, one in base.items()})
    for threads in (1, 4):
        out = tmp_path / f"store{threads}"
        pack(tmp_path / "base", {"a": tmp_path / "a"}, out, codec="lossless", threads=threads)
    files = [tmp_path / f"store{threads}" / "tasks" / "a.safetensors" for threads in (1, 4)]
    assert files[0].read_bytes() == files[1].read_bytes()
    assert files[0].stat().st_size < 0.3 * (tmp_path / "a" / FILE).stat().st_size


def dense_pair(n: int = 20 * BLOCK) -> tuple[Model, Model]:
    random = np.random.default_rng(0)
    base = random.normal(scale=0.02, size=n).astype(np.float32)
    expert = base + random.normal(scale=4e-4, size=n).astype(np.float32)
    return {"w": base.astype(DTYPES["BF16"])}, {"w": expert.astype(DTYPES["BF16"])}


def test_sizes_of_a_fine_tune_and_of_a_checkpoint_by_itself(tmp_path: Path) -> None:
    base, expert = dense_pair()
    write(tmp_path / "base", base)
    write(tmp_path / "a", expert)
    one = pack(tmp_path / "base", {"a": tmp_path / "a"}, tmp_path / "one", codec="lossless")
    alone = pack(None, {"a": tmp_path / "a"}, tmp_path / "alone", codec="lossless")
    assert one.tasks[0].n_bytes < expert["w"].nbytes / 2.3
    assert alone.tasks[0].n_bytes < expert["w"].nbytes / 1.48


@pytest.fixture
def pair(tmp_path: Path) -> Path:
    base, expert = dense_pair()
    write(tmp_path / "base", base)
    write(tmp_path / "a", expert)
    pack(tmp_path / "base", {"a": tmp_path / "a"}, tmp_path / "store", codec="lossless")
    return tmp_path


def spoil(path: Path, tensor: str, place: float) -> None:
    """Turn over a bit of a tensor, at this share of its bytes."""
    content = path.read_bytes()
    n_header = int.from_bytes(content[:8], "little")
    begin, end = json.loads(content[8 : 8 + n_header])[tensor]["data_offsets"]
    flip(path, tensor, int((end - begin) * place), 3)


def test_a_range_is_read_without_the_rest(pair: Path) -> None:
    expert = read_file(pair / "a" / FILE)["w"]
    spoil(pair / "store" / "tasks" / "a.safetensors", "w", 0.9)
    spoil(pair / "base" / FILE, "w", 0.95)
    store = Store.open(pair / "store", check_base=False)
    for start, stop in ((0, 0), (0, 1), (BLOCK - 1, BLOCK + 1), (100, 5 * BLOCK + 3)):
        assert store.elements("a", "w", start, stop).tobytes() == expert[start:stop].tobytes()
    assert_refused(lambda: store.tensor("a", "w"), "tasks/a.safetensors", "'w'", "damaged")
    assert_refused(lambda: store.elements("a", "w", 17 * BLOCK, 19 * BLOCK), "'w'")
    assert_refused(lambda: store.elements("a", "w", 5, 4), "elements 5 to 4")
    assert_refused(lambda: store.elements("a", "w", 0, expert.size + 1), str(expert.size))
    assert_refused(lambda: store.elements("a", "v", 0, 1), "'v'")


def test_a_range_of_a_tensor_that_no_task_changed(tmp_path: Path) -> None:
    base = {"w": np.arange(100.0), "v": np.arange(9)}
    write(tmp_path / "base", base)
    write(tmp_path / "a", {**base, "v": np.arange(1, 10)})
    pack(tmp_path / "base", {"a": tmp_path / "a"}, tmp_path / "store", codec="lossless")
    store = Store.open(tmp_path / "store")
    assert store.elements("a", "w", 7, 11).tolist() == [7, 8, 9, 10]
    pack(tmp_path / "base", {"a": tmp_path / "a"}, tmp_path / "t", codec="sparse", density="exact")
    whole = Store.open(tmp_path / "t")
    assert_refused(lambda: whole.elements("a", "v", 0, 1), "restores whole tensors")


def test_another_base_is_named(pair: Path) -> None:
    spoil(pair / "base" / FILE, "w", 0.5)
    assert_refused(lambda: Store.open(pair / "store"), "is not the base")
    store = Store.open(pair / "store", check_base=False)
    assert_refused(lambda: store.load("a"), "base", "'w'", "is not the store's base")
    assert_refused(lambda: store.elements("a", "w", 10 * BLOCK, 11 * BLOCK), "other values")


def replaced(store: Path, tensor: str, change: Any) -> None:
    """Change an entry, and the checksum that ``store.json`` has of it."""
    from tallies.checkpoint.safetensors import read_header
    from tallies.engine.fingerprints import content, tensor_fingerprint

    path = store / "tasks" / "a.safetensors"
    info = {one.name: one for one in read_header(path)[0]}[tensor]
    data = bytearray(path.read_bytes())
    part = data[info.offset : info.offset + info.n_bytes]
    change(part)
    assert len(part) == info.n_bytes
    data[info.offset : info.offset + info.n_bytes] = part
    path.write_bytes(data)
    checksum = tensor_fingerprint(info, content(info))
    edit(store, lambda it: it["checksums"]["tasks/a.safetensors"].update({tensor: checksum}))


def test_tables_that_lie_are_refused(pair: Path) -> None:
    def row(numbers: Any, block: int = 0) -> Any:
        def change(part: bytearray) -> None:
            table = np.frombuffer(part, np.uint32).reshape(-1, 4)
            numbers(table[block])

        return change

    cases = {
        "huge": row(lambda one: one.__setitem__(1, 2**32 - 1)),
        "nothing": row(lambda one: one.__setitem__(2, 0)),
        "shifted": row(lambda one: one.__setitem__(slice(1, 3), [one[1] - 1, one[2] + 1])),
        "longer": row(lambda one: one.__setitem__(1, one[1] + 1)),
        "unknown": row(lambda one: one.__setitem__(0, 9)),
        "other fields": row(lambda one: one.__setitem__(0, one[0] ^ 1)),
        "other values": row(lambda one: one.__setitem__(3, one[3] ^ 1)),
    }
    whole = {path: path.read_bytes() for path in (pair / "store").rglob("*") if path.is_file()}
    for name, change in cases.items():
        replaced(pair / "store", "w::blocks", change)
        store = Store.open(pair / "store")
        assert_refused(lambda: store.load("a"), "tasks/a.safetensors", "'w")  # noqa: B023
        assert_refused(lambda: store.unpack("a", pair / "out"), "'w")  # noqa: B023
        assert_refused(lambda: store.elements("a", "w", 0, 9), "'w")  # noqa: B023
        assert not (pair / "out").exists(), name
        for path, content in whole.items():
            path.write_bytes(content)


def test_frames_that_hold_more_or_less_are_refused(pair: Path) -> None:
    import zstandard

    bomb = zstandard.ZstdCompressor(level=19).compress(bytes(1 << 28))
    short = zstandard.ZstdCompressor().compress(bytes(100))
    for frame in (bomb[:9000], short, b"\x28\xb5\x2f\xfd" + b"\xff" * 60):
        replaced(pair / "store", "w", lambda part, f=frame: part.__setitem__(slice(0, len(f)), f))
        store = Store.open(pair / "store")
        assert_refused(lambda: store.load("a"), "tasks/a.safetensors", "'w'")  # noqa: B023
        assert_refused(lambda: store.elements("a", "w", 3, 9), "'w'")  # noqa: B023


def test_a_manifest_that_lies_is_refused(pair: Path) -> None:
    before = (pair / "store" / "store.json").read_bytes()
    part = {"stem": "model", "variant": "", "metadata": {}}
    for change in (
        {"forms": {"w": ["BF17", [3]]}},
        {"forms": {"w": ["BF16", [-3]]}},
        {"parts": [{"folder": "../up", **part}]},
        {"parts": [{"folder": "/up", **part}]},
        {"parts": [{"folder": "", **part, "stem": "../model"}]},
        {"borrowed": {"w": "tasks/b.safetensors"}},
    ):
        edit(pair / "store", lambda it: it["tasks"]["a"].update(change))  # noqa: B023
        assert_refused(lambda: Store.open(pair / "store"), "store.json")
        (pair / "store" / "store.json").write_bytes(before)
    for change in (
        {"forms": {"w": ["BF16", [BLOCK]]}},
        {"forms": {"v": ["BF16", [BLOCK]]}},
        {"forms": {"w": ["F32", [20 * BLOCK]]}},
    ):
        edit(pair / "store", lambda it: it["tasks"]["a"].update(change))  # noqa: B023
        store = Store.open(pair / "store")
        assert_refused(lambda: store.load("a"), "tasks/a.safetensors")  # noqa: B023
        (pair / "store" / "store.json").write_bytes(before)


def test_tensors_alike_are_stored_once(tmp_path: Path) -> None:
    base, expert = dense_pair(3 * BLOCK)
    base["v"] = np.zeros(9)
    write(tmp_path / "base", base)
    write(tmp_path / "a", {**expert, "v": np.ones(9)})
    write(tmp_path / "b", {**expert, "v": np.full(9, 2.0), "own": np.arange(5)})
    write(tmp_path / "c", {**expert, "v": np.full(9, 2.0), "own": np.arange(5)})
    tasks = {"a": tmp_path / "a", "b": tmp_path / "b"}
    report = pack(tmp_path / "base", tasks, tmp_path / "store", codec="lossless")
    assert report.tasks[1].n_bytes < 0.01 * report.tasks[0].n_bytes

    def check(*names: str) -> None:
        store = Store.open(tmp_path / "store")
        assert store.tasks == names
        for name in names:
            assert_same_tensors(store.load(name), read(tmp_path / name))
        verify_store(tmp_path / "store", tasks={name: tmp_path / name for name in names})

    check("a", "b")
    add(tmp_path / "store", "c", tmp_path / "c")
    check("a", "b", "c")
    borrowed = Store.open(tmp_path / "store").manifest.tasks["c"].borrowed
    assert borrowed == {
        "own": "tasks/b.safetensors", "v": "tasks/b.safetensors", "w": "tasks/a.safetensors",
    }  # fmt: skip
    remove(tmp_path / "store", "a")
    check("b", "c")
    add(tmp_path / "store", "a", tmp_path / "a")
    check("b", "c", "a")
    remove(tmp_path / "store", "b")
    check("c", "a")
    remove(tmp_path / "store", "c")
    check("a")
    one = pack(tmp_path / "base", {"a": tmp_path / "a"}, tmp_path / "one", codec="lossless")
    assert Store.open(tmp_path / "store").nbytes < 1.1 * one.n_bytes + 10000


def test_a_checkpoint_by_itself(tmp_path: Path) -> None:
    base, expert = dense_pair(2 * BLOCK)
    expert |= {"ids": np.arange(7), "empty": np.zeros((0, 3))}
    write(tmp_path / "a", expert, config={"torch_dtype": "bfloat16"})
    write(tmp_path / "b", base)
    store = tmp_path / "store"
    ran = tallies("pack", "--task", f"a={tmp_path / 'a'}", "--out", store, "--codec", "lossless")
    assert ran.status == 0, ran.err
    assert "the store" in ran.out
    opened = Store.open(store)
    assert_same_tensors(opened.load("a"), expert)
    assert opened.unpack("a", tmp_path / "out").exact
    assert_same_tensors(read(tmp_path / "out"), expert)
    assert (tmp_path / "out" / "config.json").read_bytes() == (
        tmp_path / "a" / "config.json"
    ).read_bytes()
    one_file = tmp_path / "one.safetensors"
    opened.unpack("a", one_file)
    assert_same_tensors(read_file(one_file), expert)
    assert inspect_store(store)["base"] is None
    assert "without a base" in tallies("inspect", store).out
    assert tallies("verify", store, "--task", f"a={tmp_path / 'a'}").status == 0
    add(store, "b", tmp_path / "b")
    assert_same_tensors(Store.open(store).load("b"), base)
    remove(store, "a")
    assert_same_tensors(Store.open(store).load("b"), base)
    assert_refused(lambda: Store.open(store, tmp_path / "a"), "by themselves", "leave it out")
    failed = tallies("unpack", store, "b", tmp_path / "x", "--base", tmp_path / "a")
    assert "leave it out" in assert_failed(failed, 2)


def test_parts_in_folders_come_back_in_place(tmp_path: Path) -> None:
    write(tmp_path / "a", {"w": np.arange(9.0)})
    (tmp_path / "a" / "modules.json").write_text(
        json.dumps([{"idx": 0, "path": "2_Dense", "name": "2", "type": "x.Dense"}])
    )
    write(tmp_path / "a" / "2_Dense", {"v": np.arange(5.0)})
    pack(None, {"a": tmp_path / "a"}, tmp_path / "store", codec="lossless")
    Store.open(tmp_path / "store").unpack("a", tmp_path / "out")
    assert_same_tensors(read_file(tmp_path / "out" / FILE), {"w": np.arange(9.0)})
    assert_same_tensors(read_file(tmp_path / "out" / "2_Dense" / FILE), {"v": np.arange(5.0)})


def test_scales_of_float8_are_kept_as_they_are(tmp_path: Path) -> None:
    model = {
        "w": random_bits("F8_E4M3", (128, 256), 0),
        "w_scale_inv": np.ones((1, 2), np.float32),
    }
    write(tmp_path / "base", model, config={"torch_dtype": "bfloat16"})
    other = {**model, "w": tuned(model["w"], 1), "w_scale_inv": np.full((1, 2), 2, np.float32)}
    write(tmp_path / "a", other, config={"torch_dtype": "bfloat16"})
    tasks = {"a": tmp_path / "a"}
    for base, out in ((tmp_path / "base", "store"), (None, "alone")):
        pack(base, tasks, tmp_path / out, codec="lossless")
        assert_same_tensors(Store.open(tmp_path / out).load("a"), other)
        assert Store.open(tmp_path / out).unpack("a", tmp_path / f"{out}-a").exact
        assert_same_tensors(read(tmp_path / f"{out}-a"), other)


def test_refusals(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "base", {"w": np.arange(3.0), "w::blocks": np.arange(3.0)})
    write(tmp_path / "a", {"w": np.arange(1, 4.0), "w::blocks": np.arange(1, 4.0)})
    tasks = {"a": tmp_path / "a"}
    before = tree(tmp_path)

    def refused(*parts: str, base: Path | None = tmp_path / "base", **options: Any) -> None:
        given = {"codec": "lossless", **options}
        assert_refused(lambda: pack(base, tasks, tmp_path / "store", **given), *parts)
        assert tree(tmp_path) == before

    refused("'w::blocks'", "rename one of them")
    refused("needs the base", "'tall'", "lossless", base=None, codec="tall")
    failed = tallies("pack", "--task", f"a={tmp_path / 'a'}", "--out", tmp_path / "store")
    assert "needs the base" in assert_failed(failed, 2)
    real = builtins.__import__

    def without(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "zstandard":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    refused("pip install 'tallies[zstd]'")


def test_an_earlier_store_is_replaced_when_that_is_asked(pair: Path) -> None:
    tasks = {"a": pair / "a"}
    given: dict[str, Any] = {"codec": "lossless"}
    assert_refused(lambda: pack(pair / "base", tasks, pair / "store", **given), "store")
    pack(None, tasks, pair / "store", overwrite=True, **given)
    assert Store.open(pair / "store").manifest.base_path == ""


def test_a_small_budget_takes_fewer_threads() -> None:
    assert n_workers(tile_limits(1 << 30, 8)) == 8
    assert n_workers(tile_limits(1 << 25, 8)) == 2
    assert n_workers(tile_limits(1, 8)) == 1
