"""Live models: tasks of a store in one model, and merges that are differentiated."""

from __future__ import annotations

import doctest
import importlib
import shutil
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from tallies import InputError, Store, pack
from tallies.torch import from_files, staging, store_deltas, weighted
from tallies.torch.merged_module import MergedModule
from tallies.torch.task_switcher import TaskSwitcher
from tallies.torch.weighted import weighted_merge

Tensors = dict[str, torch.Tensor]

TASKS = ("math", "code", "chat")
CODECS: dict[str, dict[str, Any]] = {
    "tall": {},
    "emr": {},
    "magnitude": {},
    "sparse": {"density": 0.3},
    "exact": {"codec": "sparse", "density": "exact"},
    "int8": {"codec": "sparse", "density": 0.3, "values": "int8"},
    "bitdelta": {},
    "tsv_c": {"fraction": 0.5},
    "twin": {"fraction": 0.5},
}
TILE = 1 << 16


class Net(torch.nn.Module):
    """Parameters of three dtypes, one of them frozen, and buffers with and without a fraction."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = torch.nn.Embedding(41, 7)
        self.linear = torch.nn.Linear(7, 5, dtype=torch.bfloat16)
        self.gain = torch.nn.Parameter(torch.ones(9, dtype=torch.float16))
        self.frozen = torch.nn.Parameter(torch.randn(6), requires_grad=False)
        self.norm = torch.nn.BatchNorm1d(7)
        self.register_buffer("ids", torch.arange(7))
        self.register_buffer("cache", torch.zeros(3), persistent=False)


class TiedNet(Net):
    """The head is the embedding, under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.head = torch.nn.Linear(7, 41, bias=False)
        self.head.weight = self.embed.weight


def copies(model: torch.nn.Module) -> Tensors:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def expert_of(base: Tensors, seed: int) -> Tensors:
    generator = torch.Generator().manual_seed(seed)
    return {
        name: tensor
        if not tensor.is_floating_point() or name == "frozen"
        else (tensor + torch.randn(tensor.shape, generator=generator) * (1 + seed % 3) / 10).to(
            tensor.dtype
        )
        for name, tensor in base.items()
    }


def packed(root: Path, base: Tensors, codec: str, **parameters: Any) -> Store:
    given = {"codec": codec, **CODECS.get(codec, {}), **parameters}
    save_file(base, root / "base.safetensors")
    for seed, task in enumerate(TASKS):
        save_file(expert_of(base, seed), root / f"{task}.safetensors")
    tasks = {task: root / f"{task}.safetensors" for task in TASKS}
    pack(root / "base.safetensors", tasks, root / "store", **given)
    return Store.open(root / "store")


def bits(tensor: torch.Tensor) -> bytes:
    if not tensor.numel():
        return b""
    return bytes(tensor.detach().reshape(-1).view(torch.uint8).numpy().tobytes())


def assert_is(model: torch.nn.Module, expected: Mapping[str, torch.Tensor]) -> None:
    """The model holds these tensors, bit for bit, and no others."""
    found = model.state_dict()
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert (found[name].dtype, found[name].shape) == (tensor.dtype, tensor.shape), name
        assert bits(found[name]) == bits(tensor), name


def addresses(model: torch.nn.Module) -> dict[str, int]:
    return {name: tensor.data_ptr() for name, tensor in model.state_dict().items()}


@pytest.fixture(autouse=True)
def _seed() -> Iterator[None]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


@pytest.fixture
def model() -> Net:
    return Net()


@pytest.fixture
def store(tmp_path: Path, model: Net) -> Store:
    return packed(tmp_path, copies(model), "tall")


# Switching.


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


SHARED_CODECS = ("tall", "emr", "magnitude")


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
    changed = [base[name] for name in store.manifest.of_kind("masked")]
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


@pytest.fixture(params=[1, 300, 1 << 20])
def by_way_of_the_host(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tensors of the CPU as if they were a device's, in batches of so many bytes."""
    monkeypatch.setattr(staging, "on_host", lambda _: False)
    monkeypatch.setattr(staging, "_pinned", lambda n: torch.full((n,), 165, dtype=torch.uint8))
    monkeypatch.setattr(from_files, "_STAGED_BYTES", request.param)


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


def flip_last_byte(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


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
    changed = [base[name] for name in store.manifest.of_kind("masked")]
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


# Merging.

DTYPES = (torch.float32, torch.float16, torch.bfloat16)


def reference(
    base: torch.Tensor, deltas: list[torch.Tensor], factors: np.ndarray[Any, Any]
) -> torch.Tensor:
    """In NumPy, one operation and one rounding at a time."""
    total = base.float().numpy().copy()
    for factor, delta in zip(factors.astype(np.float32), deltas, strict=True):
        product = (delta.float().numpy() * factor).astype(np.float32)
        total = (total + product).astype(np.float32)
    return torch.from_numpy(np.ascontiguousarray(total)).to(base.dtype)


def drawn(data: st.DataObject, shape: tuple[int, ...], seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    tensor = torch.randn(shape, generator=generator).to(data.draw(st.sampled_from(DTYPES)))
    if len(shape) == 2 and data.draw(st.booleans()):
        return tensor.t().contiguous().t()
    return tensor


@given(data=st.data())
@settings(max_examples=40)
def test_merge_and_gradient(data: st.DataObject) -> None:
    shapes = data.draw(
        st.lists(
            st.sampled_from([(), (0,), (3,), (5, 4), (TILE - 1,), (TILE + 3,), (2, TILE)]),
            min_size=1,
            max_size=3,
        )
    )
    n_tasks = data.draw(st.integers(1, 3))
    base = {str(i): drawn(data, shape, i) for i, shape in enumerate(shapes)}
    deltas = [
        {str(i): drawn(data, shape, 10 * t + i + 7) for i, shape in enumerate(shapes)}
        for t in range(n_tasks)
    ]
    given = {name: tensor.clone() for name, tensor in base.items()}
    per_tensor = data.draw(st.booleans())
    dtype = data.draw(st.sampled_from([torch.float32, torch.float64]))
    shape = (n_tasks, len(shapes)) if per_tensor else (n_tasks,)
    coefficients = torch.randn(shape, dtype=dtype).requires_grad_()
    merged = weighted_merge(base, deltas, coefficients)
    assert list(merged) == list(base)
    seeds = {name: torch.randn(t.shape).to(t.dtype) for name, t in base.items()}
    torch.autograd.backward(list(merged.values()), list(seeds.values()))
    dots = np.zeros((n_tasks, len(shapes)))
    sizes = np.zeros_like(dots)
    for j, name in enumerate(base):
        row = [delta[name] for delta in deltas]
        column = coefficients[:, j] if per_tensor else coefficients
        expected = reference(base[name], row, column.detach().numpy())
        assert merged[name].dtype == base[name].dtype
        assert bits(merged[name]) == bits(expected)
        for t, delta in enumerate(row):
            products = (seeds[name].double() * delta.double()).reshape(-1).numpy()
            dots[t, j], sizes[t, j] = products.sum(), np.abs(products).sum()
        assert bits(base[name]) == bits(given[name])
    assert coefficients.grad is not None and coefficients.grad.dtype == dtype
    if not per_tensor:
        dots, sizes = dots.sum(1), sizes.sum(1)
    # Of each tensor a number rounded to the coefficients' dtype, and their sum in that.
    unit = torch.finfo(dtype).eps * (len(shapes) if not per_tensor else 1)
    bound = (unit + 1e-10) * sizes
    assert np.all(np.abs(coefficients.grad.numpy() - dots) <= bound)


@pytest.mark.parametrize("n_blocks", [None, 1, 3, 50])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_what_a_device_does_has_the_bits_of_the_processor(
    monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype, n_blocks: int | None
) -> None:
    shapes: dict[str, tuple[int, ...]] = {
        "w": (7, 41),
        "v": (),
        "none": (0, 3),
        "long": (TILE + 9,),
    }
    if n_blocks == 50:
        del shapes["long"]
    base = {name: torch.randn(shape).to(dtype) for name, shape in shapes.items()}
    deltas = [{name: torch.randn(t.shape).half() for name, t in base.items()} for _ in range(3)]
    deltas[1]["w"] = torch.randn(41, 7).t()
    shape = (3,) if n_blocks is None else (3, len(base), n_blocks)
    coefficients = torch.randn(shape, dtype=torch.float64)
    seeds = {name: torch.randn(t.shape).to(t.dtype) for name, t in base.items()}

    def run() -> tuple[Tensors, torch.Tensor]:
        given = coefficients.clone().requires_grad_()
        merged = weighted_merge(base, deltas, given)
        torch.autograd.backward(list(merged.values()), list(seeds.values()))
        assert given.grad is not None
        return merged, given.grad

    expected, expected_grad = run()
    monkeypatch.setattr(weighted, "_on_host", lambda _: False)
    found, grad = run()
    for name, tensor in expected.items():
        assert bits(found[name]) == bits(tensor), name
    if n_blocks in (None, 1):
        assert bits(grad) == bits(expected_grad)
    assert torch.allclose(grad, expected_grad, rtol=0, atol=1e-9)


def test_a_delta_of_a_store_is_not_taken_on_a_device(store: Store, model: Net) -> None:
    delta = store_deltas(store)[0]["gain"]
    with pytest.raises(InputError, match=r"deltas\[0\]: found a delta of a store.*base on cuda:0"):
        weighted._check_delta("deltas[0]", delta, torch.device("cuda", 0))


def test_one_tensor_and_the_gradient_of_the_base() -> None:
    base = torch.randn(5, requires_grad=True)
    deltas = [torch.randn(5, requires_grad=True), torch.randn(5)]
    coefficients = torch.tensor([0.5, -2.0], requires_grad=True)
    merged = weighted_merge(base, deltas, coefficients)
    seed = torch.randn(5)
    merged.backward(seed)
    assert base.grad is not None and bits(base.grad) == bits(seed)
    assert deltas[0].grad is None
    assert not weighted_merge(base.detach(), deltas[1:], torch.ones(1)).requires_grad


def test_several_losses_add_up() -> None:
    base, delta = torch.randn(4), torch.randn(4)
    coefficients = torch.tensor([0.3], requires_grad=True)
    merged = weighted_merge(base, [delta], coefficients)
    for _ in range(3):
        merged.sum().backward(retain_graph=True)
    assert coefficients.grad is not None
    assert torch.allclose(coefficients.grad, 3 * delta.sum())


def test_tensors_that_no_delta_has_are_the_base_s() -> None:
    base = {"ids": torch.arange(3), "w": torch.ones(2), "b": torch.ones(1)}
    merged = weighted_merge(base, [{"w": torch.ones(2)}], torch.tensor([[2.0]]))
    assert merged["ids"] is base["ids"] and merged["b"] is base["b"]
    assert merged["w"].tolist() == [3.0, 3.0]


def test_zero_times_infinity_is_nan() -> None:
    merged = weighted_merge(torch.ones(2), [torch.tensor([1.0, torch.inf])], torch.zeros(1))
    assert merged[0] == 1 and merged[1].isnan()


def test_the_example_of_the_documentation() -> None:
    # By its name, which in the package is the function's.
    module = importlib.import_module("tallies.torch.weighted")
    failed, attempted = doctest.testmod(module)
    assert (failed, attempted) == (0, 5)


ONE = torch.ones(2)
ODD_MERGES = [
    ((ONE, [], ONE), r"deltas: found none"),
    ((ONE, ONE, ONE), r"deltas: found Tensor, expected a sequence"),
    ((ONE, [{"w": ONE}], ONE), r"deltas\[0\]: found dict, expected a tensor"),
    (({"w": ONE}, [ONE], ONE), r"deltas\[0\]: found Tensor, expected a dict"),
    ((ONE, [ONE], ONE), r"coefficients: found shape \[2\], expected \[1\].*\[1, 1\]"),
    ((ONE, [ONE], 0.5), r"coefficients: found float"),
    ((ONE, [ONE], torch.ones(1).half()), r"coefficients: found torch\.float16"),
    (
        (ONE, [ONE], torch.ones(1, device="meta")),
        r"coefficients: found device meta, expected the CPU",
    ),
    ((ONE, [ONE.to("meta")], torch.ones(1)), r"deltas\[0\]: found device meta, expected cpu"),
    ((ONE.to("meta"), [ONE], torch.ones(1)), r"base: found device meta, expected the CPU"),
    (
        ({"w": ONE, "v": ONE.to("meta")}, [{"w": ONE, "v": ONE}], torch.ones(1)),
        r"base: tensor 'v': found device meta, expected the CPU",
    ),
    ((ONE, [torch.ones(3)], torch.ones(1)), r"deltas\[0\]: found shape \[3\].*\[2\]"),
    ((ONE.double(), [ONE], torch.ones(1)), r"base: found torch\.float64"),
    (({"w": ONE.int()}, [{"w": ONE}], torch.ones(1)), r"base: tensor 'w': found torch\.int32"),
    (({"w": ONE}, [{"v": ONE}], torch.ones(1)), r"deltas\[0\]: tensor 'v' is not known"),
    (
        ({"w": ONE, "v": ONE}, [{"w": ONE, "v": ONE}, {"w": ONE}], ONE),
        r"deltas\[1\]: lacks tensor 'v'",
    ),
    (
        ({"w": ONE, "v": ONE}, [{"w": ONE}, {"w": ONE, "v": ONE}], ONE),
        r"deltas\[0\]: lacks tensor 'v'",
    ),
]


@pytest.mark.parametrize(("arguments", "message"), ODD_MERGES)
def test_arguments_that_do_not_fit(arguments: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        weighted_merge(*arguments)


# Learning coefficients.


class Classifier(torch.nn.Module):
    """Two layers and a norm whose statistics are buffers."""

    def __init__(self) -> None:
        super().__init__()
        self.first = torch.nn.Linear(6, 8)
        self.norm = torch.nn.BatchNorm1d(8)
        self.last = torch.nn.Linear(8, 3)

    def forward(self, x: torch.Tensor, *, shift: float = 0.0) -> torch.Tensor:
        out: torch.Tensor = self.last(self.norm(self.first(x)).tanh()) + shift
        return out


def deltas_of(module: torch.nn.Module, n_tasks: int) -> list[Tensors]:
    return [
        {name: torch.randn_like(one) / 5 for name, one in module.named_parameters()}
        for _ in range(n_tasks)
    ]


@pytest.mark.parametrize("per_tensor", [True, False])
def test_merged_module_is_the_module_with_merged_values(per_tensor: bool) -> None:
    module = Classifier().eval()
    base, deltas = copies(module), deltas_of(module, 2)
    merged = MergedModule(module, base, deltas, initial=0.25, per_tensor=per_tensor)
    names = ("first.weight", "first.bias", "norm.weight", "norm.bias", "last.weight", "last.bias")
    assert merged.names == names
    assert not merged.training
    assert merged.coefficients.shape == ((2, 6) if per_tensor else (2,))
    assert bits(merged.coefficients) == bits(torch.full(merged.coefficients.shape, 0.25))
    assert [name for name, _ in merged.named_parameters()] == ["coefficients"]
    assert list(merged.state_dict()) == ["coefficients"]
    with torch.no_grad():
        merged.coefficients.add_(torch.randn(merged.coefficients.shape))
    plain = Classifier().eval()
    plain.load_state_dict(weighted_merge(base, deltas, merged.coefficients.detach()))
    x = torch.randn(4, 6)
    assert bits(merged(x, shift=2.0)) == bits(plain(x, shift=2.0))
    assert_is(module, base)


def test_entropy_minimisation_lowers_the_entropy() -> None:
    module = Classifier().eval()
    merged = MergedModule(module, copies(module), deltas_of(module, 3), per_tensor=True)
    x = torch.randn(32, 6)
    optimizer = torch.optim.Adam(merged.parameters(), lr=0.05)
    entropies = []
    for _ in range(20):
        entropy = torch.distributions.Categorical(logits=merged(x)).entropy().mean()
        optimizer.zero_grad()
        entropy.backward()
        optimizer.step()
        entropies.append(float(entropy.detach()))
    assert entropies[-1] < 0.8 * entropies[0]
    assert merged.coefficients.grad is not None
    assert bool((merged.coefficients.grad != 0).any(0).all())


def test_gradients_are_those_of_the_plain_expression() -> None:
    module = Classifier().eval()
    base, deltas = copies(module), deltas_of(module, 2)
    merged = MergedModule(module, base, deltas, initial=0.5)
    x = torch.randn(4, 6)
    merged(x).square().sum().backward()
    plain = torch.full((2,), 0.5, requires_grad=True)
    values = {
        name: base[name] + plain[0] * deltas[0][name] + plain[1] * deltas[1][name]
        for name in merged.names
    }
    torch.func.functional_call(module, values, x).square().sum().backward()
    assert merged.coefficients.grad is not None and plain.grad is not None
    assert torch.allclose(merged.coefficients.grad, plain.grad, rtol=1e-5)


def test_training_mode_changes_neither_base_nor_module() -> None:
    module = Classifier()
    base, deltas = copies(module), deltas_of(module, 2)
    given = {name: tensor.clone() for name, tensor in base.items()}
    merged = MergedModule(module, base, deltas).train()
    merged(torch.randn(16, 6)).sum().backward()
    assert merged.merged()["norm.num_batches_tracked"] == 1
    assert all(bits(base[name]) == bits(tensor) for name, tensor in given.items())
    assert_is(module, given)
    assert not merged.eval().training and not module.training


def test_tied_names_are_merged_once() -> None:
    module = TiedNet()
    base = copies(module)
    delta = torch.randn(41, 7)
    both = {"embed.weight": delta, "head.weight": delta.clone()}
    merged = MergedModule(module, base, [both, {"head.weight": delta}], per_tensor=True)
    assert merged.names == ("embed.weight",)
    merged.merged()["embed.weight"].sum().backward()
    assert merged.coefficients.grad is not None
    assert merged.coefficients.grad.shape == (2, 1)
    both["head.weight"][0, 0] += 1
    with pytest.raises(InputError, match=r"deltas\[0\]: tensors 'embed.weight' and 'head.weight'"):
        MergedModule(module, base, [both])


def test_names_of_a_merged_module_that_do_not_fit() -> None:
    module = Classifier()
    base, deltas = copies(module), deltas_of(module, 1)
    with pytest.raises(InputError, match=r"deltas: found none"):
        MergedModule(module, base, [])
    with pytest.raises(InputError, match=r"base: tensor 'extra' is not known"):
        MergedModule(module, {**base, "extra": ONE}, deltas)
    with pytest.raises(InputError, match=r"deltas\[0\]: tensor 'first\.wieght' is not known"):
        MergedModule(module, base, [{"first.wieght": ONE}])
    del base["norm.running_var"]
    with pytest.raises(InputError, match=r"base: lacks tensor 'norm\.running_var'"):
        MergedModule(module, base, deltas)
