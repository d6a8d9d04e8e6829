"""Task vectors of a store, and modules merged from them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from tallies import InputError, Store, _core, pack
from tallies.torch.encoded import store_deltas
from tallies.torch.merged_module import MergedModule
from tallies.torch.weighted import weighted_merge
from tests.support.switching import (
    CODECS,
    TASKS,
    Net,
    bits,
    copies,
    expert_of,
    flip_last_byte,
    packed,
)


@pytest.mark.parametrize("codec", CODECS)
def test_deltas_of_a_store(tmp_path: Path, codec: str) -> None:
    base = copies(Net())
    store = packed(tmp_path, base, codec)
    deltas = store_deltas(store)
    names = [name for name in base if store.manifest.tensors[name].is_stored]
    for t, (task, delta) in enumerate(zip(TASKS, deltas, strict=True)):
        assert sorted(delta) == sorted(names)
        loaded = store.load(task, framework="torch")
        for name in names:
            dense = delta[name].dense()
            assert dense.shape == delta[name].shape == base[name].shape
            kind = store.manifest.tensors[name].kind
            if codec == "exact" or kind == "dense":
                expected = expert_of(base, t)[name].float() - base[name].float()
                assert bits(dense) == bits(expected)
            elif kind == "factored":
                assert bits(dense) == bits(loaded[name].float() - base[name].float())
            else:
                assert bits((base[name].float() + dense).to(base[name].dtype)) == bits(loaded[name])

    coefficients = torch.randn(3, len(names), 2, dtype=torch.float64)
    results = []
    for rows in (deltas, [{name: one.dense() for name, one in row.items()} for row in deltas]):
        given = coefficients.clone().requires_grad_()
        merged = weighted_merge(base, rows, given)
        sum(merged[name].float().square().sum() for name in names).backward()  # type: ignore[union-attr]
        assert given.grad is not None
        results.append((given.grad, *(merged[name] for name in names)))
    assert [bits(one) for one in results[0]] == [bits(one) for one in results[1]]


def test_the_shared_vector_is_in_memory_once(tmp_path: Path) -> None:
    store = packed(tmp_path, copies(Net()), "emr")
    one, *others = (deltas["embed.weight"].memory[1] for deltas in store_deltas(store))
    assert [other.data_ptr() for other in others] == [one.data_ptr()] * (len(TASKS) - 1)


def test_tensors_that_a_task_left_alone_are_zero(tmp_path: Path) -> None:
    base = copies(Net())
    save_file(base, tmp_path / "base.safetensors")
    changed = {"math": "embed.weight", "code": "gain"}
    for task, name in changed.items():
        save_file({**base, name: expert_of(base, 1)[name]}, tmp_path / f"{task}.safetensors")
    tasks = {task: tmp_path / f"{task}.safetensors" for task in changed}
    pack(tmp_path / "base.safetensors", tasks, tmp_path / "store", codec="sparse")
    store = Store.open(tmp_path / "store")
    for task, deltas in zip(("code", "math"), store_deltas(store, ["code", "math"]), strict=True):
        assert {name for name, one in deltas.items() if one.dense().any()} == {changed[task]}
        assert deltas.keys() == set(changed.values())


def test_what_a_store_cannot_give(tmp_path: Path) -> None:
    base = copies(Net())
    store = packed(tmp_path, base, "tall", **{"lambda": [0.2, 1.0]})
    with pytest.raises(InputError, match="has candidates for lambda"):
        store_deltas(store)
    assert len(store_deltas(store, mask_lambda=1.0)) == 3
    with pytest.raises(InputError, match="'maht' is not known"):
        store_deltas(store, ["maht"], mask_lambda=1.0)
    flip_last_byte(store.path / "shared.safetensors")
    with pytest.raises(InputError, match=r"shared\.safetensors: tensor .* is damaged"):
        store_deltas(store, mask_lambda=1.0)


def test_changed_integers_have_no_delta(tmp_path: Path) -> None:
    base = copies(Net())
    save_file(base, tmp_path / "base.safetensors")
    save_file({**base, "ids": base["ids"] + 1}, tmp_path / "math.safetensors")
    tasks = {"math": tmp_path / "math.safetensors"}
    pack(tmp_path / "base.safetensors", tasks, tmp_path / "store", codec="sparse", density="exact")
    with pytest.raises(InputError, match=r"'math' changed tensor 'ids', which is I64"):
        store_deltas(Store.open(tmp_path / "store"))


def test_a_module_merged_from_a_store(tmp_path: Path) -> None:
    module = Net()
    base = copies(module)
    store = packed(tmp_path, base, "tall")
    merged = MergedModule(module, base, store_deltas(store, ["math"]), initial=1.0)
    for name, expected in store.load("math", framework="torch").items():
        assert bits(merged.merged()[name]) == bits(expected)


class Losses:
    """A module merged from random deltas, and two losses of it."""

    def __init__(self, **options: Any) -> None:
        module = torch.nn.Sequential(torch.nn.Linear(6, 5), torch.nn.Tanh(), torch.nn.Linear(5, 2))
        base = copies(module)
        deltas = [{name: torch.randn_like(one) for name, one in base.items()} for _ in range(3)]
        self.merged = MergedModule(module, base, deltas, **options)
        self.batches = torch.randn(2, 4, 6)

    def backward(self) -> None:
        for batch in self.batches:
            self.merged(batch).square().sum().backward()

    def gradient(self) -> torch.Tensor:
        grad = self.merged.coefficients.grad
        assert grad is not None
        self.merged.coefficients.grad = None
        return grad


@pytest.mark.parametrize("options", [{}, {"per_tensor": True}, {"blocks": 3}])
def test_one_merge_for_several_losses(
    options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    losses = Losses(**options)
    losses.backward()
    expected = losses.gradient()
    calls = []
    native = _core.block_dots
    monkeypatch.setattr(_core, "block_dots", lambda **given: calls.append(0) or native(**given))
    with losses.merged.merged_once():
        losses.backward()
        assert losses.merged.coefficients.grad is None
    assert len(calls) == len(losses.merged.names) == 4
    assert torch.allclose(losses.gradient(), expected, rtol=1e-4)
    assert (
        losses.merged.coefficients.shape
        == {
            "{}": (3,),
            "{'per_tensor': True}": (3, 4),
            "{'blocks': 3}": (3, 4, 3),
        }[str(options)]
    )


def test_a_block_of_calls_that_fails_or_asks_for_no_gradient() -> None:
    losses = Losses()
    with losses.merged.merged_once():
        losses.merged(losses.batches[0])
    assert losses.merged.coefficients.grad is None
    with pytest.raises(KeyError), losses.merged.merged_once():
        raise KeyError
    losses.backward()
    assert losses.gradient().shape == (3,)
    for blocks in (0, 2.5, True):
        with pytest.raises(InputError, match="blocks: found"):
            Losses(blocks=blocks)
