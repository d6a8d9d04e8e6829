"""Scales of float8 tensors are found by name, shape and declaration, or refused."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tallies
from tallies.checkpoint.checkpoint import Checkpoint
from tallies.checkpoint.opening import open_model
from tallies.checkpoint.scaled import with_scales
from tallies.checkpoint.tensors import Scale
from tallies.errors import InputError
from tallies.inspection.verify import verify
from tests.support.checkpoints import Array, write
from tests.support.scaled_models import COMPRESSED, DEEPSEEK, E4M3, models, recipe


def attached(root: Path, tensors: Mapping[str, Array], config: object = None) -> Checkpoint:
    return with_scales(Checkpoint.open(write(root / "model", dict(tensors), config=config)))


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 300), st.integers(1, 300), st.integers(1, 130), st.integers(1, 130))
def test_blocks_of_any_size_are_found(
    tmp_path_factory: pytest.TempPathFactory, rows: int, columns: int, height: int, width: int
) -> None:
    grid = (-(-rows // height), -(-columns // width))
    config = {"quantization_config": {"quant_method": "fp8", "weight_block_size": [height, width]}}
    tensors = {"a.weight": np.zeros((rows, columns), E4M3), "a.weight_scale": np.ones(grid, "f4")}
    checkpoint = attached(tmp_path_factory.mktemp("blocks"), tensors, config)
    scale = checkpoint.tensors["a.weight"].scale
    assert scale is not None
    covered = (-(-rows // scale.block_rows), -(-columns // scale.block_columns))
    assert covered == grid
    assert checkpoint.left_out == ("a.weight_scale",)
    for length, n, block, found in (
        (height, rows, grid[0], scale.block_rows),
        (width, columns, grid[1], scale.block_columns),
    ):
        assert found == length or block in (1, n)


SMALL = {"quantization_config": {"quant_method": "fp8", "weight_block_size": [64, 64]}}
GROUPS = {
    "quantization_config": {
        "quant_method": "compressed-tensors",
        "config_groups": {"group_0": {"weights": {"strategy": "group", "group_size": 128}}},
    }
}


@pytest.mark.parametrize(
    ("weight", "scale", "config", "blocks"),
    [
        ((256, 256), (2, 2), None, (128, 128)),
        ((256, 512), (4, 8), SMALL, (64, 64)),
        ((256, 512), (256, 4), GROUPS, (1, 128)),
        ((256, 384), (1, 384), None, (256, 1)),
        ((100, 384), (1, 3), None, (100, 128)),
        ((300, 512), (3, 4), None, (128, 128)),
        ((4, 256, 384), (4, 2, 3), DEEPSEEK, (128, 128)),
        ((4, 200, 384), (4, 1, 384), None, (200, 1)),
        ((4, 200, 384), (4, 200, 1), None, (1, 384)),
        ((4, 200, 384), (4, 1, 1), None, (200, 384)),
        ((7, 5), (7,), None, (1, 5)),
        ((7, 5), (1, 1), None, (7, 5)),
        ((5,), (), None, (1, 5)),
    ],
)
def test_what_shapes_mean(
    tmp_path: Path,
    weight: tuple[int, ...],
    scale: tuple[int, ...],
    config: object,
    blocks: tuple[int, int],
) -> None:
    tensors = {"a.weight": np.zeros(weight, E4M3), "a.weight_scale": np.ones(scale, np.float32)}
    found = attached(tmp_path, tensors, config).tensors["a.weight"].scale
    assert isinstance(found, Scale)
    assert (found.block_rows, found.block_columns) == blocks


WEIGHT = np.zeros((256, 256), E4M3)
SCALE = np.ones((2, 2), np.float32)

REFUSED: dict[str, tuple[dict[str, Array], object, str]] = {
    "a missing scale": (
        {"a.weight": WEIGHT, "a.weight_scale_inv": SCALE, "b.weight": WEIGHT},
        None,
        "'b.weight' is F8_E4M3 without a scale in a model with a scale 'a.weight_scale_inv', "
        "expected 'b.weight_scale_inv' or 'b.weight_scale'",
    ),
    "no scale at all": (
        {"a.weight": WEIGHT},
        DEEPSEEK,
        r"without a scale in a model with a quantization_config \('fp8'\)",
    ),
    "too few blocks": (
        {"a.weight": WEIGHT, "a.weight_scale_inv": np.ones((2, 1), np.float32)},
        {"quantization_config": {"quant_method": "fp8", "weight_block_size": [64, 128]}},
        r"has shape \[2, 1\], which does not fit 'a.weight' of shape \[256, 256\]",
    ),
    "too many blocks": (
        {"a.weight": WEIGHT, "a.weight_scale_inv": np.ones((3, 2), np.float32)},
        DEEPSEEK,
        r"has shape \[3, 2\].* each block of 128 x 128",
    ),
    "blocks that do not divide": (
        {"a.weight": WEIGHT, "a.weight_scale": np.ones((3, 2), np.float32)},
        None,
        r"has shape \[3, 2\]",
    ),
    **{
        f"blocks of no stated size, {shape}": (
            {"a.weight": np.zeros((256, 384), E4M3), "a.weight_scale": np.ones(shape, "f4")},
            None,
            rf"'a.weight_scale' has shape \[{shape[0]}, {shape[1]}\], which does not fit "
            r"'a.weight' of shape \[256, 384\]; expected one factor, one for each row or column, "
            r"or one for each block of 128 x 128; state the block size as "
            r"quantization_config.weight_block_size in config.json",
        )
        for shape in ((2, 2), (1, 2), (1, 3), (4, 3), (32, 3), (256, 384), (256, 3))
    },
    "blocks across a stack": (
        {"a.weight": np.zeros((2, 200, 256), E4M3), "a.weight_scale": np.ones((2, 2, 2), "f4")},
        DEEPSEEK,
        r"has shape \[2, 2, 2\]",
    ),
    "another rank": (
        {"a.weight": WEIGHT, "a.weight_scale": np.ones((1, 2, 2), np.float32)},
        None,
        r"has shape \[1, 2, 2\]",
    ),
    "scales of no elements": (
        {"a.weight": WEIGHT, "a.weight_scale": np.ones((0, 2), np.float32)},
        None,
        r"has shape \[0, 2\]",
    ),
    "scales of integers": (
        {"a.weight": WEIGHT, "a.weight_scale": np.ones((2, 2), np.int32)},
        None,
        "'a.weight_scale' is I32, expected a scale of F32, BF16 or F16",
    ),
    "scales of float64": (
        {"a.weight": WEIGHT, "a.weight_scale": np.ones((2, 2), np.float64)},
        None,
        "'a.weight_scale' is F64",
    ),
    "a scale without its tensor": (
        {"a.weight": WEIGHT, "a.weight_scale": SCALE, "b.weight_scale": SCALE},
        None,
        "'b.weight_scale' is the scale of 'b.weight', which is absent",
    ),
    "a scale of a plain tensor": (
        {"a.weight": WEIGHT, "a.weight_scale": SCALE, "b.weight": SCALE, "b.weight_scale": SCALE},
        None,
        "'b.weight_scale' is the scale of 'b.weight', which is F32, expected float8",
    ),
    "two scales": (
        {"a.weight": WEIGHT, "a.weight_scale": SCALE, "a.weight_scale_inv": SCALE},
        None,
        "'a.weight' has two scales, 'a.weight_scale_inv' and 'a.weight_scale'",
    ),
    "another quantisation": (
        {"a.weight": WEIGHT, "a.weight_scale": SCALE},
        {"quantization_config": {"quant_method": "gptq"}},
        r"has a quantization_config \('gptq'\)",
    ),
    "packed weights beside": (
        {"a.weight": WEIGHT, "a.weight_scale": SCALE, "b.weight_packed": np.zeros(3, np.int32)},
        COMPRESSED,
        "'b.weight_packed' was written by compressed-tensors",
    ),
    "integers with scales beside": (
        {"a.weight": WEIGHT, "a.weight_scale": SCALE, "b": np.zeros(3, np.uint8), "b_scale": SCALE},
        None,
        "'b' is U8 with the scale tensor 'b_scale'",
    ),
}


@pytest.mark.parametrize("case", REFUSED.values(), ids=REFUSED.keys())
def test_refused(tmp_path: Path, case: tuple[dict[str, Array], object, str]) -> None:
    tensors, config, message = case
    path = write(tmp_path / "model", tensors, config=config)
    with pytest.raises(InputError, match=message) as caught:
        open_model(str(path))
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


def test_the_way_out_of_blocks_of_another_size_exists(tmp_path: Path) -> None:
    tensors = {"a.weight": np.zeros((256, 384), E4M3), "a.weight_scale": np.ones((4, 3), "f4")}
    stated = {"quantization_config": {"quant_method": "fp8", "weight_block_size": [64, 128]}}
    model = open_model(str(write(tmp_path / "model", dict(tensors), config=stated)))
    scale = model.tensors["a.weight"].scale
    assert scale is not None
    assert (scale.block_rows, scale.block_columns) == (64, 128)


def test_a_declaration_without_float8_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "model", {"a.weight": SCALE}, config=DEEPSEEK)
    with pytest.raises(InputError, match=r"has a quantization_config \('fp8'\)"):
        open_model(str(path))


def test_scales_that_are_not_finite_are_named(tmp_path: Path) -> None:
    stored, _ = models(0, "blocks")
    base = write(tmp_path / "base", dict(stored), config=DEEPSEEK)
    stored["layer.b.weight_scale_inv"][0, 1] = np.nan
    path = write(tmp_path / "model", stored, config=DEEPSEEK)
    message = r"'layer\.b\.weight_scale_inv' has 1 NaN or infinite values, the first at element 1,"
    with pytest.raises(InputError, match=message):
        verify(path)
    assert verify(path, nonfinite="warn")["nonfinite"] == {
        "layer.b.weight_scale_inv": {"count": 1, "first": 1}
    }
    with pytest.raises(InputError, match=message):
        tallies.merge(recipe("linear", [path, path]), tmp_path / "out")
    assert not (tmp_path / "out").exists()
    for codec in ("tall", "bitdelta"):
        with pytest.raises(InputError, match=message):
            tallies.pack(base, {"x": path}, tmp_path / "store", codec=codec)


def test_a_value_that_is_not_finite_is_named_itself(tmp_path: Path) -> None:
    stored, _ = models(0, "blocks")
    stored["layer.b.weight"][1, 2] = np.nan
    path = write(tmp_path / "model", stored, config=DEEPSEEK)
    with pytest.raises(InputError, match=r"'layer\.b\.weight' has 1 NaN .* at element 258,"):
        verify(path)
