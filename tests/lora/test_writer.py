"""Adapters are written as PEFT stores them, the same bytes in whatever order they come."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from tallies.errors import InputError
from tallies.lora.peft_config import short_names
from tallies.lora.targets import Kept, Kind, Target
from tallies.lora.writer import AdapterWriter


def factors(rows: int, rank: int, columns: int, stack: tuple[int, ...] = ()) -> list[np.ndarray]:
    rng = np.random.default_rng(rows + rank + columns)
    return [
        rng.normal(size=(*stack, rows, rank)).astype("f4"),
        rng.normal(size=(*stack, rank, columns)).astype("f4"),
    ]


def written(directory: Path, *targets: tuple, kept: tuple = (), **options) -> tuple[dict, dict]:
    directory.mkdir()
    writer = AdapterWriter(directory, **options)
    for target, left, right in targets:
        writer.add(target, left, right)
    for one, data in kept:
        writer.keep(one, [data])
    writer.finish()
    assert sorted(path.name for path in directory.iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
    ]
    config = json.loads((directory / "adapter_config.json").read_text())
    return load_file(directory / "adapter_model.safetensors"), config


def test_linear_factors_are_stored_as_they_are(tmp_path: Path) -> None:
    left, right = factors(5, 2, 3)
    tensors, config = written(tmp_path / "a", (Target("m.up.weight", (5, 3)), left, right))
    np.testing.assert_array_equal(tensors["base_model.model.m.up.lora_B.weight"], left)
    np.testing.assert_array_equal(tensors["base_model.model.m.up.lora_A.weight"], right)
    assert (config["r"], config["lora_alpha"], config["target_modules"]) == (2, 2, ["m.up"])


@pytest.mark.parametrize("alpha", [1.0, 4.0, 3.0])
def test_alpha_is_taken_out_of_the_factors(tmp_path: Path, alpha: float) -> None:
    left, right = factors(5, 2, 3)
    target = Target("m.up.weight", (5, 3))
    tensors, config = written(tmp_path / "a", (target, left, right), alpha=alpha)
    a, b = (tensors[f"base_model.model.m.up.lora_{x}.weight"] for x in "AB")
    np.testing.assert_allclose(b @ a * (config["lora_alpha"] / config["r"]), left @ right, 1e-6)


def test_embeddings_and_transposed_weights_swap_the_factors(tmp_path: Path) -> None:
    left, right = factors(7, 2, 4)
    embedding = Target("embed.weight", (7, 4), Kind.EMBEDDING)
    transposed = Target("h.0.c_fc.weight", (7, 4), Kind.TRANSPOSED)
    tensors, config = written(tmp_path / "a", (embedding, left, right), (transposed, left, right))
    a, b = (tensors[f"base_model.model.embed.lora_embedding_{x}"] for x in "AB")
    np.testing.assert_array_equal((b @ a).T, left @ right)
    a, b = (tensors[f"base_model.model.h.0.c_fc.lora_{x}.weight"] for x in "AB")
    np.testing.assert_array_equal((b @ a).T, left @ right)
    assert config["fan_in_fan_out"] is True


def test_convolutions_keep_their_kernel_in_the_first_factor(tmp_path: Path) -> None:
    left, right = factors(6, 2, 4 * 9)
    target = Target("conv.weight", (6, 4, 3, 3), Kind.CONVOLUTION)
    tensors, _ = written(tmp_path / "a", (target, left, right))
    a, b = (tensors[f"base_model.model.conv.lora_{x}.weight"] for x in "AB")
    assert (a.shape, b.shape) == ((2, 4, 3, 3), (6, 2, 1, 1))
    np.testing.assert_array_equal(b.reshape(6, 2) @ a.reshape(2, -1), left @ right)


@pytest.mark.parametrize("kind", [Kind.STACK, Kind.TRANSPOSED_STACK])
def test_stacks_are_stored_by_expert_and_by_rank(tmp_path: Path, kind: Kind) -> None:
    left, right = factors(5, 2, 3, (4,))
    target = Target("mlp.experts.up", (4, 5, 3), kind)
    tensors, config = written(tmp_path / "a", (target, left, right))
    a, b = (tensors[f"base_model.model.mlp.experts.lora_{x}.weight"] for x in "AB")
    # As PEFT reads them: experts lead in A, and are innermost in B.
    a, b = a.reshape(4, 2, -1), b.reshape(len(b), 2, 4)
    order = "orx,xri->xoi" if kind is Kind.STACK else "orx,xri->xio"
    np.testing.assert_allclose(np.einsum(order, b, a), left @ right, 1e-5, 1e-6)
    assert (config["target_parameters"], config["target_modules"]) == (["mlp.experts.up"], [])


def test_ranks_that_differ_have_patterns(tmp_path: Path) -> None:
    targets = [
        (Target(f"m.{i}.up.weight", (5, 5)), *factors(5, rank, 5))
        for i, rank in enumerate([2, 2, 3])
    ]
    _, config = written(tmp_path / "a", *targets)
    assert config["r"] == 2
    assert config["rank_pattern"] == config["alpha_pattern"] == {r"^m\.2\.up": 3}


def test_order_and_threads_change_no_byte(tmp_path: Path) -> None:
    targets = [(Target(f"m.{i}.weight", (5, 5)), *factors(5, 1 + i % 3, 5)) for i in range(9)]
    for name, given in (("a", targets), ("b", targets[::-1])):
        written(tmp_path / name, *given, dtype="F16")
    for file in (tmp_path / "a").iterdir():
        assert file.read_bytes() == (tmp_path / "b" / file.name).read_bytes()


def test_tensors_are_kept_whole(tmp_path: Path) -> None:
    values = np.arange(4, dtype="f4")
    tensors, config = written(
        tmp_path / "a",
        (Target("m.up.weight", (5, 3)), *factors(5, 2, 3)),
        kept=(
            (Kept("m.norm.weight", "F32", (4,)), values.tobytes()),
            (Kept("m.up.bias", "F32", (4,)), values.tobytes()),
        ),
    )
    np.testing.assert_array_equal(tensors["base_model.model.m.norm.weight"], values)
    np.testing.assert_array_equal(tensors["base_model.model.m.up.base_layer.bias"], values)
    assert (config["modules_to_save"], config["bias"]) == (["m.norm"], "lora_only")


def test_factors_beyond_float16_are_refused(tmp_path: Path) -> None:
    left, right = factors(5, 2, 3)
    with pytest.raises(InputError, match=r"m\.up\.weight.*beyond float16"):
        written(tmp_path / "a", (Target("m.up.weight", (5, 3)), left * 1e6, right), dtype="F16")


def test_a_tensor_that_is_changed_twice_is_refused(tmp_path: Path) -> None:
    one = (Target("m.up.weight", (5, 3)), *factors(5, 2, 3))
    with pytest.raises(InputError, match=r"lora_A\.weight.*twice"):
        written(tmp_path / "a", one, one)


@pytest.mark.parametrize(
    ("targets", "known", "expected"),
    [
        (["a.0.q", "a.1.q"], ["a.0.q", "a.1.q", "a.0.k"], ["q"]),
        (["a.0.q"], ["a.0.q", "a.1.q"], ["0.q"]),
        (["a.0.q"], ["a.0.q", "b.0.q"], ["a.0.q"]),
        (["a.0.q", "b.q"], None, ["a.0.q", "b.q"]),
        (["q"], ["q", "a.q"], ["q"]),
    ],
)
def test_names_are_as_short_as_they_can_be(
    targets: list[str], known: list[str] | None, expected: list[str]
) -> None:
    assert short_names(targets, known) == expected
