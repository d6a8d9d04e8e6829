"""Stores of adapters: what comes back is what base and adapters merge to, bit for bit."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tallies import InputError, Store, merge, pack
from tallies.inspection.verify import verify
from tallies.store import add, remove
from tests.reference.dtype import narrow
from tests.support import adapters, scaled_models
from tests.support.adapters import BF16, F16, F32, Adapter, embedding, experts, kohya, lora, tokens
from tests.support.checkpoints import (
    Model,
    assert_same_tensors,
    read,
    read_file,
    write,
)
from tests.support.stores import assert_refused, flip

CONFIG = {"model_type": "llama", "tie_word_embeddings": False}


def with_stack(base: Model) -> Model:
    """The model with a stack of experts and a convolution."""
    rng = np.random.default_rng(8)
    more = {"model.experts.gate_up": (3, 8, 6), "model.conv.weight": (6, 4, 3, 3)}
    dtype = base["lm_head.weight"].dtype
    return base | {name: rng.standard_normal(shape).astype(dtype) for name, shape in more.items()}


MAKERS: dict[str, Callable[[Model], Adapter]] = {
    "float32": lambda base: lora(base, dtype=F32),
    "bfloat16": lambda base: lora(base, ["q_proj", "down_proj"], rank=9, dtype=BF16, rslora=True),
    "float16": lambda base: lora(base, ["k_proj"], rank=1, alpha=-3.0, dtype=F16),
    "saved module": lambda base: lora(base, ["v_proj"], save=["lm_head"], dtype=F32),
    "saved in the base's dtype": lambda base: lora(base, ["v_proj"], save=["lm_head"], dtype=BF16),
    "embedding": embedding,
    "tokens": lambda base: lora(base, ["q_proj"]) | tokens(base, [0, 7, 19]),
    "stack": lambda base: experts(base, "model.experts.gate_up"),
    "convolution": lambda base: kohya(base, ["conv"]),
    "loha": lambda base: kohya(base, ["q_proj"], kind="loha"),
    "lokr": lambda base: kohya(base, ["q_proj"], kind="lokr"),
    "lokr of factors": lambda base: kohya(base, ["q_proj"], kind="lokr_low"),
    "difference": lambda base: kohya(base, ["q_proj"], kind="diff"),
}


class Models:
    """A base, its adapters and their store, in a directory."""

    def __init__(self, folder: Path, dtype: Any = BF16) -> None:
        self.folder = folder
        self.base = with_stack(adapters.model(dtype))
        write(folder / "base", self.base, config=CONFIG)
        self.made: dict[str, Adapter] = {}
        self.paths: dict[str, Path] = {}

    def add(self, name: str, adapter: Adapter) -> str:
        """Write an adapter; return the text of the model with it."""
        self.made[name], self.paths[name] = adapter, adapter.write(self.folder / name)
        return self.text(name)

    def text(self, *names: str) -> str:
        return "+".join(map(str, (self.folder / "base", *(self.paths[name] for name in names))))

    def merged(self, *names: str) -> Model:
        """The result in the base's dtypes, also of modules that an adapter saved in another."""
        found = adapters.merged(self.base, *(self.made[name] for name in names))
        return {name: narrow(one, self.base[name].dtype) for name, one in found.items()}

    def pack(self, **tasks: str) -> Store:
        pack(self.folder / "base", tasks, self.folder / "store", codec="lora")
        return Store.open(self.folder / "store")

    def task_file(self, task: str) -> Path:
        return self.folder / "store" / "tasks" / f"{task}.safetensors"


@pytest.fixture
def here(tmp_path: Path) -> Models:
    folder = tmp_path / "lora"
    folder.mkdir()
    return Models(folder)


@pytest.mark.parametrize("dtype", [BF16, F16, F32], ids=str)
@pytest.mark.parametrize("kind", MAKERS)
def test_a_task_is_what_base_and_adapter_merge_to(tmp_path: Path, kind: str, dtype: Any) -> None:
    here = Models(tmp_path / "lora", dtype)
    store = here.pack(a=here.add("a", MAKERS[kind](here.base)))
    expected = here.merged("a")
    assert_same_tensors(store.load("a"), expected)
    store.unpack("a", tmp_path / "out")
    assert_same_tensors(read(tmp_path / "out"), expected)
    name = next(name for name in expected if store.manifest.tensors[name].is_coded)
    found = store.tensor("a", name, framework="torch").float().numpy()
    np.testing.assert_array_equal(found, expected[name].astype(np.float32))
    assert verify(store.path)["kind"] == "store"


@pytest.mark.parametrize("threads", [1, 3])
def test_dora_comes_back_as_it_merges(tmp_path: Path, threads: int) -> None:
    here = Models(tmp_path / "lora")
    text = here.add("a", lora(here.base, dora=True))
    store = here.pack(a=text)
    merge({"models": [{"model": text}], "merge_method": "linear"}, tmp_path / "merged")
    loaded = store.load("a", threads=threads)
    assert_same_tensors(loaded, read(tmp_path / "merged"))
    for name, array in here.merged("a").items():
        difference = loaded[name].astype(np.float32) - array.astype(np.float32)
        assert np.abs(difference).max() <= 2**-7 * np.abs(array.astype(np.float32)).max()


def test_adapters_of_all_kinds_share_a_store(here: Models) -> None:
    texts = {
        kind: here.add(str(i), make(here.base)) for i, (kind, make) in enumerate(MAKERS.items())
    }
    texts["two"] = here.text("0", "1")
    store = here.pack(**texts)
    for i, kind in enumerate(MAKERS):
        assert_same_tensors(store.load(kind), here.merged(str(i)))
    assert_same_tensors(store.load("two"), here.merged("0", "1"))
    assert store.nbytes < 60_000


@pytest.mark.parametrize("kind", ["blocks", "channels", "tensor"])
def test_a_base_of_float8_with_scales(tmp_path: Path, kind: str) -> None:
    scaled, plain = scaled_models.write_pair(tmp_path, 3, kind)
    made = lora(scaled_models.models(3, kind)[1], ["a", "c"], rank=2)
    adapter = made.write(tmp_path / "adapter")
    pack(scaled, {"t": f"{scaled}+{adapter}"}, tmp_path / "store", codec="lora")
    loaded = Store.open(tmp_path / "store").load("t")
    expected = adapters.merged(read(plain), made)
    for name, array in expected.items():
        np.testing.assert_array_equal(loaded[name], narrow(array, loaded[name].dtype))


def test_reports_name_the_adapters(here: Models) -> None:
    here.add("a", lora(here.base, ["q_proj"]))
    here.add("b", embedding(here.base))
    (here.paths["b"] / "tokenizer.json").write_text("{}")
    report = pack(
        here.folder / "base", {"t": here.text("a", "b")}, here.folder / "store", codec="lora"
    )
    found = [(one.path, one.kind, one.tensors) for one in report.tasks[0].adapters]
    assert found == [(str(here.paths["a"]), "LoRA", 2), (str(here.paths["b"]), "LoRA", 1)]
    assert "LoRA, changes 2 tensors" in " ".join(str(report).split())
    unpacked = Store.open(here.folder / "store").unpack("t", here.folder / "out")
    assert "the merge of" in str(unpacked)
    assert not unpacked.exact
    assert unpacked.kept_files == ["tokenizer.json"]
    assert (here.folder / "out" / "tokenizer.json").read_text() == "{}"
    recipe = {"models": [{"model": here.text("a", "b")}], "merge_method": "linear"}
    merge(recipe, here.folder / "merged")
    assert_same_tensors(read(here.folder / "out"), read(here.folder / "merged"))
    assert (here.folder / "merged" / "tokenizer.json").read_text() == "{}"


def test_factors_are_kept_as_they_are(here: Models) -> None:
    made = lora(here.base, ["q_proj"], dtype=F16)
    here.pack(a=here.add("a", made))
    stored = read_file(here.task_file("a"))
    name = "model.layers.0.self_attn.q_proj"
    pieces = [made.tensors[f"base_model.model.{name}.lora_{which}.weight"] for which in "BA"]
    for i, piece in enumerate(pieces):
        assert stored[f"{name}.weight::{i}"].tobytes() == piece.tobytes()
    assert len(stored) == 3 * 2


def test_a_copy_of_the_base_under_the_adapter(here: Models) -> None:
    here.add("a", lora(here.base))
    shutil.copytree(here.folder / "base", here.folder / "copy")
    store = here.pack(a=f"{here.folder / 'copy'}+{here.paths['a']}")
    assert_same_tensors(store.load("a"), here.merged("a"))


def test_models_without_an_adapter_are_refused(here: Models) -> None:
    here.add("a", lora(here.base, ["q_proj"]))
    other = here.folder / "other"
    write(other, here.merged("a"), config=CONFIG)
    words = ("no adapter", "tallies extract-lora", "codec 'lora'")
    assert_refused(lambda: here.pack(t=str(other)), "task 't'", "q_proj", *words)
    both = f"{other}+{here.paths['a']}"
    assert_refused(lambda: here.pack(t=both), "task 't'", "q_proj", *words)
    assert not (here.folder / "store").exists()


def test_damage_is_found(here: Models) -> None:
    store = here.pack(a=here.add("a", lora(here.base, ["q_proj"])))
    name = "model.layers.1.self_attn.q_proj.weight"
    for part in (name, f"{name}::1"):
        flip(here.task_file("a"), part, 3, 2)
        assert_refused(lambda: store.load("a"), part, "is damaged")
        assert_refused(lambda: verify(store.path), part, "is damaged")
        flip(here.task_file("a"), part, 3, 2)
    assert_same_tensors(store.load("a"), here.merged("a"))
    flip(here.folder / "base" / "model.safetensors", name, 3, 2)
    unchecked = Store.open(store.path, check_base=False)
    assert_refused(lambda: unchecked.load("a"), name, "is not the store's base")


def test_tasks_come_and_go_by_themselves(here: Models) -> None:
    store = here.pack(a=here.add("a", lora(here.base)))
    before = here.task_file("a").stat().st_mtime_ns
    add(store.path, "b", here.add("b", embedding(here.base)))
    assert here.task_file("a").stat().st_mtime_ns == before
    assert_same_tensors(Store.open(store.path).load("b"), here.merged("b"))
    shutil.rmtree(here.paths["a"])
    assert_same_tensors(Store.open(store.path).load("a"), here.merged("a"))
    remove(store.path, "a")
    assert Store.open(store.path).tasks == ("b",)


def test_adapters_alone_and_those_that_moved(here: Models) -> None:
    here.add("a", lora(here.base))
    here.add("b", lora(here.base, seed=2))
    store = here.pack(a=str(here.paths["a"]))
    add(store.path, "b", here.paths["b"])
    for task in "ab":
        assert_same_tensors(Store.open(store.path).load(task), here.merged(task))
    places = dict(here.paths)
    verify(store.path, tasks=places)
    wrong = {"a": here.paths["b"]}
    assert_refused(lambda: verify(store.path, tasks=wrong), "is not the expert", "task 'a'")
    moved = here.paths["a"].rename(here.folder / "elsewhere")
    remove(store.path, "b", tasks={"a": moved})
    assert Store.open(store.path).manifest.tasks["a"].source == "../elsewhere"
    verify(store.path, tasks={"a": moved})


def test_values_that_are_not_finite(here: Models) -> None:
    made = lora(here.base, ["q_proj"])
    name = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"
    made.tensors[name][1, 2] = np.nan
    text = here.add("a", made)
    assert_refused(lambda: here.pack(a=text), here.paths["a"], name, "NaN or infinite")
    pack(
        here.folder / "base",
        {"a": text},
        here.folder / "store",
        codec="lora",
        nonfinite="propagate",
    )
    loaded = Store.open(here.folder / "store").load("a")
    found = np.isnan(loaded["model.layers.0.self_attn.q_proj.weight"].astype(np.float32))
    assert found[:, 2].all()
    assert found.sum() == len(found)


@pytest.mark.parametrize(
    "codec", ["tall", "emr", "magnitude", "sparse", "bitdelta", "tsv_c", "twin"]
)
def test_other_codecs_take_what_adapters_make(here: Models, codec: str, tmp_path: Path) -> None:
    here = Models(tmp_path / "float32", F32)
    made = {"a": lora(here.base, ["q_proj", "up_proj"]), "b": embedding(here.base)}
    texts = {name: here.add(name, adapter) for name, adapter in made.items()}
    for name in made:
        write(here.folder / f"merged-{name}", here.merged(name), config=CONFIG)
    whole = {name: str(here.folder / f"merged-{name}") for name in made}
    for out, tasks in {"of-adapters": texts, "of-models": whole}.items():
        pack(here.folder / "base", tasks, here.folder / out, codec=codec)
    found, expected = (Store.open(here.folder / out) for out in ("of-adapters", "of-models"))
    for name in made:
        assert_same_tensors(found.load(name), expected.load(name))


def test_bits_that_no_file_has_are_refused(here: Models) -> None:
    text = here.add("a", lora(here.base, ["q_proj"]))
    with pytest.raises(InputError, match=r"a/adapter_model.*q_proj.*cannot keep bit for bit.*lora"):
        pack(
            here.folder / "base",
            {"a": text},
            here.folder / "store",
            codec="sparse",
            density="exact",
        )


def test_a_base_with_an_adapter_that_a_task_lacks(here: Models) -> None:
    first = here.add("a", adapters.lora(here.base, seed=1))
    other = here.add("b", adapters.lora(here.base, seed=2))
    out = here.folder / "store"
    with pytest.raises(
        InputError, match=r"task 't': .*base\+.*b lacks the adapter of the base "
    ) as e:
        pack(first, {"t": other}, out, codec="lora")
    assert f"({first}+ADAPTER)" in str(e.value)
    assert not out.exists()
    pack(first, {"t": here.text("a", "b")}, out, codec="lora")
    assert_same_tensors(Store.open(out).load("t"), here.merged("a", "b"))
