"""Patches on models in memory: in place, bit for bit, there and back, or not at all."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

import tallies
from tallies.torch import apply_patch, patching

State = dict[str, torch.Tensor]

DTYPES = (
    *(torch.float32, torch.bfloat16, torch.float16, torch.float64, torch.float8_e4m3fn),
    *(torch.int64, torch.int32, torch.int8, torch.uint8, torch.bool),
)


def bits(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.detach().contiguous().view(-1).view(torch.uint8)


def assert_same(found: State, expected: State) -> None:
    for name, tensor in expected.items():
        assert torch.equal(bits(found[name]), bits(tensor)), name


def copy_of(state: State) -> State:
    return {name: tensor.detach().clone() for name, tensor in state.items()}


def patch_of(old: State, new: State, **options: Any) -> bytes:
    data = tallies.make_patch(old, new, **options).data
    assert data is not None
    return data


@st.composite
def states(draw: st.DrawFn) -> tuple[State, State]:
    """Two states of one form: few, many or no elements differ."""
    rng = np.random.default_rng(draw(st.integers(0, 1 << 30)))
    old: State = {}
    new: State = {}
    for i in range(draw(st.integers(1, 4))):
        dtype = draw(st.sampled_from(DTYPES))
        shape = draw(st.sampled_from([(), (0,), (5,), (300, 7), (70_000,), (3, 1, 4)]))
        size = torch.empty((), dtype=dtype).element_size()
        share = draw(st.sampled_from([0, 0.01, 0.4, 1]))
        n = int(np.prod(shape)) * size
        a = rng.integers(0, 2 if dtype is torch.bool else 256, n).astype(np.uint8)
        b = np.where(rng.random(n) < share, a ^ 1, a).astype(np.uint8)
        old[f"t{i}"], new[f"t{i}"] = (
            torch.from_numpy(one).view(dtype).view(shape) if n else torch.empty(shape, dtype=dtype)
            for one in (a, b)
        )
    return old, new


@given(states(), st.sampled_from(["xor", "difference", "new"]))
@settings(max_examples=40, deadline=None)
def test_there_and_back(pair: tuple[State, State], values: str) -> None:
    old, new = pair
    data = patch_of(old, new, values=values)
    model = copy_of(old)
    places = [tensor.data_ptr() for tensor in model.values()]
    n_changed = apply_patch(model, data, verify=True)
    assert n_changed == tallies.make_patch(old, new).n_changed
    assert_same(model, new)
    assert [tensor.data_ptr() for tensor in model.values()] == places
    if values == "new":
        with pytest.raises(tallies.InputError, match="its values are 'new' ones"):
            apply_patch(model, data, undo=True)
        return
    apply_patch(model, data, undo=True, verify=True)
    assert_same(model, old)


class Tied(torch.nn.Module):
    """A model whose head is its embedding, with a buffer."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed = torch.nn.Embedding(50, 8)
        self.head = torch.nn.Linear(8, 50, bias=False)
        self.head.weight = self.embed.weight
        self.register_buffer("steps", torch.arange(4))


@pytest.mark.parametrize("names", [["embed.weight"], ["head.weight"], None])
def test_tied_tensors_change_once(names: list[str] | None) -> None:
    model = Tied()
    old = copy_of(model.state_dict())
    old = {name: old[name] for name in (names or old)}
    new = copy_of(old)
    for name in new:
        new[name].view(-1)[3] = 9
    data = patch_of(old, new)
    apply_patch(model, data)
    assert_same(model.state_dict(), new)
    assert model.head.weight is model.embed.weight
    apply_patch(model, data, undo=True)
    assert_same(model.state_dict(), old)


def test_tied_tensors_that_a_patch_unties_are_refused() -> None:
    model = Tied()
    old = copy_of(model.state_dict())
    new = copy_of(old)
    new["head.weight"][0, 0] = 9
    new["embed.weight"][1, 1] = 9
    before = copy_of(model.state_dict())
    with pytest.raises(tallies.InputError, match=r"share their memory, and .* untie them"):
        apply_patch(model, patch_of(old, new))
    assert_same(model.state_dict(), before)


def test_a_patch_on_disk_and_a_chain(tmp_path: Path) -> None:
    states = [{"w": torch.randn(400, 30).bfloat16()}]
    for i in range(3):
        states.append(copy_of(states[-1]))
        states[-1]["w"].view(-1)[i::7] *= 2
    for i, state in enumerate(states):
        (tmp_path / f"m{i}").mkdir()
        save_file(state, tmp_path / f"m{i}" / "model.safetensors")
    paths = [tmp_path / f"p{i}" for i in range(3)]
    for i, path in enumerate(paths):
        tallies.make_patch(tmp_path / f"m{i}", tmp_path / f"m{i + 1}", path)
    model = copy_of(states[0])
    apply_patch(model, paths)
    assert_same(model, states[3])
    apply_patch(model, paths[1:], undo=True, verify=True)
    assert_same(model, states[1])


@pytest.mark.parametrize(
    ("odd", "message"),
    [
        ({"v": torch.zeros(4)}, "'w' is not known"),
        ({"w": torch.zeros(4).bfloat16()}, "'w' is bfloat16, and .* of float32; load the model"),
        ({"w": torch.zeros(2, 2)}, r"'w' has shape \[2, 2\], and .* changes \[4\]"),
        ({"w": torch.zeros(8)[::2]}, r"'w' has strides \[2\], expected elements in the order"),
        ({"w": torch.zeros(4, device="meta")}, "'w' is a meta tensor"),
        ({"w": [0.0] * 4}, "'w' is list, expected a tensor"),
        ({"w": torch.zeros(4).to_sparse()}, "'w' is layout torch.sparse_coo"),
    ],
)
def test_tensors_that_are_refused(odd: Any, message: str) -> None:
    data = patch_of({"w": torch.zeros(4)}, {"w": torch.ones(4)})
    with pytest.raises(tallies.InputError, match=message):
        apply_patch(odd, data)


def test_another_base_is_refused_when_asked() -> None:
    data = patch_of(
        {"v": torch.zeros(3), "w": torch.zeros(4)}, {"v": torch.zeros(3), "w": torch.ones(4)}
    )
    for name in ("v", "w"):
        model = {"v": torch.zeros(3), "w": torch.zeros(4)}
        model[name][1] = 5
        before = copy_of(model)
        with pytest.raises(tallies.InputError, match=rf"'{name}' has fingerprint .* starts from"):
            apply_patch(model, data, verify=True)
        assert_same(model, before)


def test_a_patch_that_was_applied_before_is_noticed() -> None:
    torch.manual_seed(0)
    old = {"large": torch.randn(1 << 19), "small": torch.randn(40)}
    new = {name: tensor.clone() for name, tensor in old.items()}
    for tensor in new.values():
        tensor[7] = 9
    data = patch_of(old, new)
    model = copy_of(old)
    apply_patch(model, data)
    with pytest.raises(tallies.InputError, match=r"'small' .* new one already: was the patch app"):
        apply_patch(model, data)
    with pytest.raises(
        tallies.InputError, match=r"'small' .* old one already: was the patch taken"
    ):
        apply_patch(copy_of(old), data, undo=True)
    assert_same(model, new)
    apply_patch(model, data, verify=False)
    assert_same(model, old)  # values are exclusive-or
    # A tensor of more bytes than the patch, and than 1 MiB, is read only when all are.
    model["large"][0] += 1
    apply_patch(model, data)
    apply_patch(model, data, undo=True)
    with pytest.raises(tallies.InputError, match=r"'large' has fingerprint .* starts from"):
        apply_patch(model, data, verify=True)


def test_added_and_removed_tensors_are_refused() -> None:
    old, new = {"w": torch.zeros(4)}, {"w": torch.ones(4), "x": torch.ones(2)}
    for pair in ((old, new), (new, old)):
        with pytest.raises(tallies.InputError, match="takes changes of elements alone"):
            apply_patch(copy_of(pair[0]), patch_of(*pair))


def test_damage_is_found_before_anything_changes() -> None:
    old = {name: torch.randn(1000) for name in "abc"}
    new = {name: tensor + 1 for name, tensor in old.items()}
    data = bytearray(patch_of(old, new))
    data[-5] ^= 1
    model = copy_of(old)
    with pytest.raises(tallies.InputError, match="damaged"):
        apply_patch(model, bytes(data))
    assert_same(model, old)


def test_changes_that_are_not_kept_are_read_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patching, "_KEPT_BYTES", 10)
    old = {name: torch.randn(1000) for name in "abc"}
    new = {name: tensor * 2 for name, tensor in old.items()}
    model = copy_of(old)
    apply_patch(model, patch_of(old, new))
    assert_same(model, new)


def test_autograd_sees_the_change() -> None:
    model = torch.nn.Linear(4, 4)
    old = copy_of(model.state_dict())
    new = copy_of(old)
    new["weight"] += 1
    x = torch.ones(2, 4, requires_grad=True)
    loss = model(x).pow(2).sum()
    version = model.weight._version
    apply_patch(model, patch_of(old, new))
    assert model.weight.requires_grad
    assert model.weight._version > version
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_inference_tensors() -> None:
    data = patch_of({"w": torch.zeros(4)}, {"w": torch.ones(4)})
    with torch.inference_mode():
        model = {"w": torch.zeros(4)}
        apply_patch(model, data)
        assert model["w"].tolist() == [1, 1, 1, 1]
    with pytest.raises(tallies.InputError, match="is an inference tensor"):
        apply_patch(model, data)


def test_no_temporary_has_the_size_of_a_tensor() -> None:
    old = {"w": torch.zeros(1 << 24)}
    new = {"w": old["w"].clone()}
    new["w"][::1000] = 1
    data = patch_of(old, new)
    gc.collect()
    with torch.profiler.profile(profile_memory=True) as seen:
        apply_patch(old, data)
    most = max((abs(one.self_cpu_memory_usage) for one in seen.key_averages()), default=0)
    assert most < 1 << 20
    assert_same(old, new)
