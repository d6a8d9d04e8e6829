"""Modules whose parameters are a merge with learned coefficients."""

from __future__ import annotations

import pytest
import torch

from tallies import InputError
from tallies.torch.merged_module import MergedModule
from tallies.torch.weighted import weighted_merge
from tests.support.switching import Classifier, TiedNet, assert_is, bits, copies, deltas_of
from tests.torch.test_weighted_merge import ONE


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


@pytest.mark.parametrize("mode", [True, False], ids=["train", "eval"])
def test_statistics_are_merged_without_a_gradient(mode: bool) -> None:
    module = Classifier()
    base = copies(module)
    deltas = [{name: torch.rand_like(one.float()) / 5 for name, one in base.items()}] * 2
    deltas = [{**one, "norm.num_batches_tracked": torch.tensor(3)} for one in deltas]
    merged = MergedModule(module, base, deltas, initial=0.25).train(mode)
    assert "norm.running_mean" in merged.names
    assert "norm.num_batches_tracked" not in merged.names
    values = merged.merged()
    expected = weighted_merge(base, [_floats(one) for one in deltas], merged.coefficients)
    assert all(bits(values[name]) == bits(expected[name]) for name in base)
    assert [name for name, one in values.items() if one.requires_grad] == [
        name for name, _ in module.named_parameters()
    ]
    x = torch.randn(4, 6)
    merged(x).square().sum().backward()
    first = merged.coefficients.grad.clone()
    merged.coefficients.grad = None
    with merged.merged_once():
        merged(x).square().sum().backward()
    assert torch.allclose(merged.coefficients.grad, first, rtol=1e-5)
    assert bool(first.all())
    assert_is(module, base)


def _floats(delta: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: one for name, one in delta.items() if one.is_floating_point()}
