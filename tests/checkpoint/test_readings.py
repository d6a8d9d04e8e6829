"""The shapes of a model's tensors tell which reading of an edit is meant."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tallies.checkpoint.adapters.adapter import Edit
from tallies.checkpoint.adapters.opening import open_adapter
from tallies.checkpoint.adapters.readings import settled
from tallies.checkpoint.changes import Magnitudes, Product
from tallies.errors import InputError
from tests.support import adapters

Shapes = dict[str, tuple[int, ...]]
UP, DOWN, MORE = (f"experts.{name}" for name in ("gate_up_proj", "down_proj", "more_proj"))


def edits(path: Path, shapes: Shapes, **config: Any) -> tuple[Edit, ...]:
    """Write an adapter of rank 2 of tensors of these shapes, and open it."""
    tensors = {
        f"base_model.model.{name}": np.ones(shape, np.float32) for name, shape in shapes.items()
    }
    made = adapters.Adapter(tensors, adapters.peft_config(2, 4.0, []) | config)
    return open_adapter(made.write(path)).edits


def pair(module: str, n_in: int, n_out: int, n_experts: int = 1) -> Shapes:
    rank = 2 * n_experts
    return {f"{module}.lora_A.weight": (rank, n_in), f"{module}.lora_B.weight": (n_out, rank)}


def matrix(edit: Edit) -> tuple[int, ...]:
    assert isinstance(edit.change, Product)
    return (*edit.change.left.shape[:-1], edit.change.right.shape[-1])


@pytest.mark.parametrize("stated", [False, True])
@pytest.mark.parametrize("shape", [(5, 7), (7, 5)])
def test_a_layer_may_store_its_matrix_transposed(
    tmp_path: Path, stated: bool, shape: tuple[int, int]
) -> None:
    shapes = pair("q", 5, 7) | {"q.lora_magnitude_vector": (7,)}
    found = edits(tmp_path / "a", shapes, fan_in_fan_out=stated, use_dora=True)
    product, norms = (settled(edit, {"q.weight": shape}.get) for edit in found)
    assert matrix(product) == shape
    assert isinstance(norms.change, Magnitudes)
    assert norms.change.of_columns == (shape == (5, 7))
    assert norms.change.columns == shape[1]


@pytest.mark.parametrize("stated", [False, True])
def test_a_square_matrix_is_as_the_configuration_says(tmp_path: Path, stated: bool) -> None:
    shapes = pair("q", 5, 5)
    (edit,) = edits(tmp_path / "a", shapes, fan_in_fan_out=stated)
    found = settled(edit, {"q.weight": (5, 5)}.get).change
    assert isinstance(found, Product)
    assert found.left.name.endswith("lora_A.weight" if stated else "lora_B.weight")


@pytest.mark.parametrize("is_transposed", [False, True])
@pytest.mark.parametrize("inner", [4, 6])
def test_stacks_are_told_by_shape(tmp_path: Path, is_transposed: bool, inner: int) -> None:
    """A stack of square matrices is stored as the one beside it is."""
    shapes = pair("experts.base_layer", 6, 2 * inner, 3) | pair("experts", inner, 6, 3)
    found = edits(tmp_path / "a", shapes, target_parameters=["experts.down_proj", UP])
    upright = {UP: (3, 2 * inner, 6), DOWN: (3, 6, inner)}
    lying = {UP: (3, 6, 2 * inner), DOWN: (3, inner, 6)}
    model = lying if is_transposed else upright
    chosen = [settled(edit, model.get) for edit in found]
    assert {edit.name: matrix(edit) for edit in chosen} == model
    down = next(edit.change for edit in chosen if edit.name == DOWN)
    assert isinstance(down, Product)
    assert down.left.name.endswith("lora_A.weight" if is_transposed else "lora_B.weight")


def test_stacks_of_one_shape_are_refused(tmp_path: Path) -> None:
    shapes = pair("experts.base_layer", 6, 8, 3) | pair("experts", 6, 8, 3)
    found = edits(tmp_path / "a", shapes, target_parameters=[DOWN, MORE])
    with pytest.raises(
        InputError, match=r"any of 'experts.down_proj', 'experts.more_proj'.*merge_"
    ):
        settled(found[0], {DOWN: (3, 8, 6), MORE: (3, 8, 6)}.get)
    assert settled(found[0], {DOWN: (3, 8, 6), MORE: (3, 8, 7)}.get).name == DOWN


def test_without_a_fit_the_first_that_is_there_is_kept(tmp_path: Path) -> None:
    shapes = pair("experts", 6, 8, 3)
    (edit,) = edits(tmp_path / "a", shapes, target_parameters=[DOWN, MORE])
    assert settled(edit, {MORE: (9, 9, 9)}.get).name == MORE
    assert settled(edit, {}.get) is edit


def test_experts_that_do_not_divide_the_rank(tmp_path: Path) -> None:
    shapes = {"experts.lora_A.weight": (5, 6), "experts.lora_B.weight": (8, 5)}
    with pytest.raises(InputError, match=r"no product of the rank 2, .*states for 'experts.down_"):
        edits(tmp_path / "a", shapes, target_parameters=[DOWN])
