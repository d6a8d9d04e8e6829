"""Targets of PEFT's adapters: parameters of modules, whole modules, and tokens."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tallies.checkpoint.adapters.opening import open_adapter
from tallies.checkpoint.adapters.placing import place
from tallies.checkpoint.opening import open_model
from tallies.errors import InputError
from tests.support import adapters, checkpoints
from tests.support.placed import value

PREFIX = "base_model.model."
MLP = "model.layers.0.mlp"
UP = f"{MLP}.up_proj"
N = 3

Arrays = dict[str, np.ndarray[Any, Any]]


def normal(seed: int, *shape: int) -> np.ndarray[Any, Any]:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def placed(path: Path, base: Arrays, adapter: Arrays, **config: Any) -> Arrays:
    """Return the values of a model with an adapter of rank 4 and alpha 8."""
    path.mkdir(exist_ok=True)
    checkpoints.write(path / "base.safetensors", base)
    named = {PREFIX + name: array for name, array in adapter.items()}
    settings = {**adapters.peft_config(4, 8.0, []), **config}
    written = adapters.Adapter(named, settings).write(path / "adapter")
    found = place(open_model(str(path / "base.safetensors")), open_adapter(written))
    return {name: value(tensor) for name, tensor in found.tensors.items()}


def pair(seed: int, module: str, rows: int, columns: int, rank: int) -> Arrays:
    return {
        f"{module}.lora_A.weight": normal(seed, rank, columns),
        f"{module}.lora_B.weight": normal(seed + 1, rows, rank),
    }


def stack(arrays: Arrays, rank: int) -> np.ndarray[Any, Any]:
    """Return the sum of products of each expert, whose factors lie as PEFT has them."""
    a, b = (one.astype(np.float64) for one in arrays.values())
    left, right = b.reshape(len(b), rank, N), a.reshape(N, rank, a.shape[1])
    return np.einsum("ore,eri->eoi", left, right)


@pytest.mark.parametrize("ranks", [(4, 4), (4, 2), (2, 4)])
@pytest.mark.parametrize("start", ["", "experts.", "mlp.experts."])
def test_each_parameter_of_a_module_has_a_rank_of_its_own(
    tmp_path: Path, start: str, ranks: tuple[int, int]
) -> None:
    names = (f"{MLP}.experts.gate_up_proj", f"{MLP}.experts.down_proj")
    base = {
        names[0]: normal(1, N, 12, 8),
        names[1]: normal(2, N, 8, 6),
        f"{UP}.weight": normal(3, 12, 8),
    }
    inner = pair(4, f"{MLP}.experts.base_layer", 12, 8, N * ranks[0])
    outer = pair(6, f"{MLP}.experts", 8, 6, N * ranks[1])
    up = pair(8, UP, 12, 8, 4)
    found = placed(
        tmp_path,
        base,
        inner | outer | up,
        target_modules=["up_proj"],
        target_parameters=[f"{start}gate_up_proj", f"{start}down_proj"],
        rank_pattern={"experts.gate_up_proj": ranks[0], "experts.down_proj": ranks[1]},
        alpha_pattern={"experts.down_proj": 3},
    )
    a, b = up.values()
    expected = {
        names[0]: base[names[0]] + 8 / ranks[0] * stack(inner, ranks[0]),
        names[1]: base[names[1]] + 3 / ranks[1] * stack(outer, ranks[1]),
        f"{UP}.weight": base[f"{UP}.weight"] + 8 / 4 * b.astype(np.float64) @ a,
    }
    for name, array in expected.items():
        np.testing.assert_allclose(found[name], array, rtol=0, atol=1e-5, err_msg=name)


@pytest.mark.parametrize(
    ("targets", "alpha"),
    [
        (["up_proj"], 16),
        (["mlp.up_proj"], 16),
        (r".*\.up_proj", 16),
        ([], 5),
        (["p_proj"], 5),
        ("up_proj", 5),
    ],
)
def test_a_target_that_is_a_module_is_no_parameter(
    tmp_path: Path, targets: list[str] | str, alpha: int
) -> None:
    base, factors = {f"{UP}.weight": normal(1, 12, 8)}, pair(2, UP, 12, 8, 4)
    found = placed(
        tmp_path,
        base,
        factors,
        target_modules=targets,
        target_parameters=["norm.weight", "weight"],
        alpha_pattern={"up_proj": 16, "up_proj.weight": 5},
    )
    a, b = factors.values()
    expected = base[f"{UP}.weight"] + alpha / 4 * b.astype(np.float64) @ a
    np.testing.assert_allclose(found[f"{UP}.weight"], expected, rtol=0, atol=1e-5)


def test_factors_that_have_the_rank_of_no_parameter_are_refused(tmp_path: Path) -> None:
    base = {f"{MLP}.experts.down_proj": normal(1, N, 8, 6)}
    with pytest.raises(InputError, match=r"no product of the rank 4, .*merge_and_unload"):
        placed(tmp_path, base, pair(2, f"{MLP}.experts", 8, 6, 3), target_parameters=["down_proj"])


@pytest.mark.parametrize("saved", ["up_proj", "mlp"])
def test_values_of_a_module_that_is_saved_stand_before_its_factors(
    tmp_path: Path, saved: str
) -> None:
    base, factors, new = {f"{UP}.weight": normal(1, 12, 8)}, pair(2, UP, 12, 8, 4), normal(4, 12, 8)
    found = placed(tmp_path, base, factors | {f"{UP}.weight": new}, modules_to_save=[saved])
    a, b = factors.values()
    expected = new + 2 * b.astype(np.float64) @ a
    np.testing.assert_allclose(found[f"{UP}.weight"], expected, rtol=0, atol=1e-5)


def test_a_token_beyond_the_vocabulary_is_named(tmp_path: Path) -> None:
    base = {"model.embed_tokens.weight": normal(1, 12, 8)}
    rows = {"model.embed_tokens.token_adapter.trainable_tokens_delta": normal(2, 3, 8)}
    found = placed(tmp_path, base, rows, trainable_token_indices=[3, 11, 0])
    expected = base["model.embed_tokens.weight"].copy()
    expected[[3, 11, 0]] = next(iter(rows.values()))
    np.testing.assert_array_equal(found["model.embed_tokens.weight"], expected)
    with pytest.raises(InputError, match=r"the token 12, but .* has 12 rows.*merge_and_unload"):
        placed(tmp_path / "beyond", base, rows, trainable_token_indices=[3, 12, 0])
