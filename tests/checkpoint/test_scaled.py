"""Float8 models with scales: which scales are found, what merges of them are, what is refused."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import tallies
from tallies.checkpoint.checkpoint import Checkpoint
from tallies.checkpoint.opening import open_model
from tallies.checkpoint.scaled import with_scales
from tallies.checkpoint.tensors import Scale
from tallies.engine.fingerprints import content, model_fingerprint, tensor_fingerprint
from tallies.errors import InputError
from tallies.inspection.verify import verify
from tests.reference.scaled import scaled
from tests.support.checkpoints import Array, Model, data_bytes, read, write

E4M3 = np.dtype(ml_dtypes.float8_e4m3fn)
BF16 = np.dtype(ml_dtypes.bfloat16)

DEEPSEEK = {
    "torch_dtype": "bfloat16",
    "quantization_config": {"quant_method": "fp8", "weight_block_size": [128, 128]},
}
COMPRESSED = {
    "torch_dtype": "bfloat16",
    "quantization_config": {
        "quant_method": "compressed-tensors",
        "config_groups": {"group_0": {"weights": {"num_bits": 8, "strategy": "channel"}}},
    },
}


def values(rng: np.random.Generator, *shape: int, dtype: np.dtype[Any] = E4M3) -> Array:
    return rng.normal(scale=100, size=shape).clip(-440, 440).astype(np.float32).astype(dtype)


def factors(rng: np.random.Generator, *shape: int, dtype: Any = np.float32) -> Array:
    return rng.uniform(1e-4, 1e-2, size=shape).astype(dtype)


def models(seed: int, kind: str) -> tuple[Model, Model]:
    """A float8 model as files have it, and the same with its values multiplied out."""
    rng = np.random.default_rng(seed)
    stored: Model = {"model.norm.weight": values(rng, 48, dtype=BF16)}
    plain: Model = dict(stored)
    for name, (rows, columns) in {"a": (200, 300), "b": (128, 256), "c": (130, 7)}.items():
        weight = values(rng, rows, columns)
        match kind:
            case "blocks":
                scale = factors(rng, -(-rows // 128), -(-columns // 128))
                suffix, blocks = "_scale_inv", (128, 128)
            case "bfloat16 blocks":
                scale = factors(rng, -(-rows // 128), -(-columns // 128), dtype=BF16)
                suffix, blocks = "_scale_inv", (128, 128)
            case "channels":
                scale = factors(rng, rows, 1, dtype=BF16)
                suffix, blocks = "_scale", (1, columns)
            case "rows":
                scale = factors(rng, rows)
                suffix, blocks = "_scale", (1, columns)
            case "tensor":
                scale = factors(rng)
                suffix, blocks = "_scale", (rows, columns)
            case _:
                scale = factors(rng, 1)
                suffix, blocks = "_scale_inv", (rows, columns)
        matrix = scale.reshape(scale.shape if scale.ndim == 2 else (-1, 1))
        stored[f"layer.{name}.weight"] = weight
        stored[f"layer.{name}.weight{suffix}"] = scale
        if kind == "tensor":
            stored[f"layer.{name}.input_scale"] = factors(rng)
        plain[f"layer.{name}.weight"] = scaled(weight, matrix, *blocks)
    return stored, plain


def write_pair(root: Path, seed: int, kind: str) -> tuple[Path, Path]:
    stored, plain = models(seed, kind)
    config = DEEPSEEK if "blocks" in kind else COMPRESSED
    # The scales of some tensors lie in another shard than the tensors.
    first = write(root / f"fp8-{seed}", stored, n_files=2, config=config)
    return first, write(root / f"plain-{seed}", plain, config={"torch_dtype": "bfloat16"})


KINDS = ["blocks", "bfloat16 blocks", "channels", "rows", "tensor", "one"]


def recipe(method: str, paths: list[Path], **more: Any) -> dict[str, Any]:
    made: dict[str, Any] = {
        "merge_method": method,
        "models": [{"model": str(path)} for path in paths[1:]],
        **more,
    }
    return made if method == "linear" else {**made, "base_model": str(paths[0])}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("method", ["ties", "dare_linear", "linear", "tsv_m", "model_stock"])
def test_merges_are_those_of_the_products(tmp_path: Path, kind: str, method: str) -> None:
    pairs = [write_pair(tmp_path, seed, kind) for seed in range(3)]
    fp8, plain = (list(paths) for paths in zip(*pairs, strict=True))
    report = tallies.merge(recipe(method, fp8), tmp_path / "fp8", seed=7)
    tallies.merge(recipe(method, plain, out_dtype="bfloat16"), tmp_path / "plain", seed=7)
    found, expected = data_bytes(tmp_path / "fp8"), data_bytes(tmp_path / "plain")
    assert json.loads(found.pop("config.json")) == json.loads(expected.pop("config.json"))
    assert found == expected
    assert {array.dtype for array in read(tmp_path / "fp8").values()} == {BF16}
    told = [warning for warning in report.warnings if "as value times scale" in warning]
    assert len(told) == (2 if method == "linear" else 3)


def test_a_plain_base_with_scaled_experts(tmp_path: Path) -> None:
    pairs = [write_pair(tmp_path, seed, "blocks") for seed in range(3)]
    mixed = [pairs[0][1], pairs[1][0], pairs[2][1]]
    tallies.merge(recipe("ties", mixed), tmp_path / "mixed")
    tallies.merge(recipe("ties", [plain for _, plain in pairs]), tmp_path / "plain")
    assert data_bytes(tmp_path / "mixed") == data_bytes(tmp_path / "plain")


def test_wider_results(tmp_path: Path) -> None:
    pairs = [write_pair(tmp_path, seed, "channels") for seed in range(3)]
    for i, name in enumerate(("fp8", "plain")):
        made = recipe("task_arithmetic", [pair[i] for pair in pairs], out_dtype="float32")
        tallies.merge(made, tmp_path / name)
    assert data_bytes(tmp_path / "fp8").keys() == data_bytes(tmp_path / "plain").keys()
    for name, array in read(tmp_path / "plain").items():
        assert array.tobytes() == read(tmp_path / "fp8")[name].tobytes()


@pytest.mark.parametrize("kind", KINDS)
def test_layer_scaling_and_norms(tmp_path: Path, kind: str) -> None:
    """Norms are measured over stretches that begin where rows of blocks do."""
    pairs = [write_pair(tmp_path, seed, kind) for seed in range(3)]
    for i, name in enumerate(("fp8", "plain")):
        made = recipe(
            "task_arithmetic",
            [pair[i] for pair in pairs],
            out_dtype="float32",
            layer_scaling={"alpha": "auto", "beta": 0.5},
        )
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("tallies.merging.layer_scaling._ELEMENTS", 4096)
            tallies.merge(made, tmp_path / name)
    for name, array in read(tmp_path / "plain").items():
        assert array.tobytes() == read(tmp_path / "fp8")[name].tobytes(), name


def test_reports_tell_models_with_other_scales_apart(tmp_path: Path) -> None:
    stored, _ = models(1, "blocks")
    base = write(tmp_path / "base", stored, config=DEEPSEEK)
    same = write(tmp_path / "same", stored, config=DEEPSEEK)
    changed = {**stored, "layer.a.weight_scale_inv": stored["layer.a.weight_scale_inv"] * 2}
    other = write(tmp_path / "other", changed, config=DEEPSEEK)
    report = tallies.merge(recipe("task_arithmetic", [base, same, other]), tmp_path / "out")
    expected = []
    for path in (base, same, other):
        tensors = open_model(str(path)).tensors
        prints = {name: tensor_fingerprint(one, content(one)) for name, one in tensors.items()}
        expected.append(model_fingerprint(prints))
    assert report.base is not None
    assert [one.fingerprint for one in (report.base, *report.experts)] == expected
    assert expected[0] == expected[1] != expected[2]
    assert [one.n_equal_to_base for one in report.experts] == [4, 3]


# Stores


@pytest.mark.parametrize("codec", ["tall", "magnitude", "emr", "bitdelta"])
@pytest.mark.parametrize("kind", ["blocks", "channels", "tensor"])
def test_stores_are_those_of_the_products(tmp_path: Path, kind: str, codec: str) -> None:
    """Norms are stored as they are, or with a mask; results have the dtype of decoded tensors."""
    pairs = [write_pair(tmp_path, seed, kind) for seed in range(3)]
    for form, (base, *experts) in zip(("fp8", "plain"), zip(*pairs, strict=True), strict=True):
        tasks = {f"task{i}": path for i, path in enumerate(experts)}
        more: dict[str, Any] = {} if codec == "bitdelta" else {"shared_dtype": "F32"}
        tallies.pack(base, tasks, tmp_path / f"store-{form}", codec=codec, **more)
        store = tallies.Store.open(tmp_path / f"store-{form}", base=base)
        store.unpack("task1", tmp_path / f"out-{form}")
    fp8, plain = read(tmp_path / "out-fp8"), read(tmp_path / "out-plain")
    assert fp8.keys() == plain.keys()
    for name, array in plain.items():
        assert fp8[name].dtype == BF16
        assert fp8[name].tobytes() == array.astype(BF16).tobytes(), name
    loaded = tallies.Store.open(tmp_path / "store-fp8", base=pairs[0][0]).load("task1")
    assert all(loaded[name].tobytes() == array.tobytes() for name, array in fp8.items())


def test_a_tensor_that_no_task_changed_is_decoded(tmp_path: Path) -> None:
    stored, plain = models(0, "blocks")
    other, _ = models(1, "blocks")
    changed = {**stored, "layer.b.weight": other["layer.b.weight"]}
    base = write(tmp_path / "base", stored, config=DEEPSEEK)
    expert = write(tmp_path / "expert", changed, config=DEEPSEEK)
    tallies.pack(base, {"x": expert}, tmp_path / "store", codec="tall")
    tallies.Store.open(tmp_path / "store", base=base).unpack("x", tmp_path / "out")
    found = read(tmp_path / "out")
    assert found["layer.a.weight"].tobytes() == plain["layer.a.weight"].astype(BF16).tobytes()
    assert "quantization_config" not in json.loads((tmp_path / "out" / "config.json").read_text())


@pytest.mark.parametrize("codec", ["sparse", "tsv_c"])
def test_codecs_that_do_not_read_scales_say_so(tmp_path: Path, codec: str) -> None:
    (base, _), (expert, _) = (write_pair(tmp_path, seed, "blocks") for seed in range(2))
    with pytest.raises(InputError, match=r"with the scale .* which codec .* pack with tall"):
        tallies.pack(base, {"x": expert}, tmp_path / "store", codec=codec)


def test_a_store_over_a_base_with_other_scales_is_refused(tmp_path: Path) -> None:
    (base, _), (expert, _) = (write_pair(tmp_path, seed, "blocks") for seed in range(2))
    tallies.pack(base, {"x": expert}, tmp_path / "store", codec="tall")
    stored, _ = models(0, "blocks")
    stored["layer.a.weight_scale_inv"] *= np.float32(2)
    other = write(tmp_path / "other", stored, config=DEEPSEEK)
    with pytest.raises(InputError, match="is not the base of"):
        tallies.Store.open(tmp_path / "store", base=other)


# Torch files


def test_scaled_tensors_of_torch_files(tmp_path: Path) -> None:
    """A transposed view of float8, whose scales are a view as well."""
    rng = np.random.default_rng(5)
    weight, scale = values(rng, 300, 200), factors(rng, 3, 2)
    expected = scaled(weight, scale, 128, 128)
    columns = torch.from_numpy(weight.view(np.uint8).T.copy()).view(torch.float8_e4m3fn).t()
    wide = torch.zeros(3, 4)
    wide[:, ::2] = torch.from_numpy(scale)
    state = {"a.weight": columns, "a.weight_scale_inv": wide[:, ::2]}
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text(json.dumps({"dtype": "float32"}))
    torch.save(state, tmp_path / "model" / "pytorch_model.bin")
    tallies.merge(recipe("linear", [tmp_path / "model"] * 3), tmp_path / "out")
    np.testing.assert_array_equal(read(tmp_path / "out")["a.weight"], expected)


# Finding scales


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


@pytest.mark.parametrize(
    ("weight", "scale", "config", "blocks"),
    [
        ((256, 256), (2, 2), None, (128, 128)),
        ((256, 512), (4, 8), None, (64, 64)),
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


def test_stacks_of_experts_are_read(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    weight, scale = values(rng, 3, 40, 24), factors(rng, 3, 1, 24)
    expected = np.concatenate([scaled(w, s, 40, 1) for w, s in zip(weight, scale, strict=True)])
    tensors = {"experts.gate_up_proj": weight, "experts.gate_up_proj_scale": scale}
    path = write(tmp_path / "model", tensors, config={"dtype": "float32"})
    tallies.merge(recipe("linear", [path, path]), tmp_path / "out")
    assert read(tmp_path / "out")["experts.gate_up_proj"].tobytes() == expected.tobytes()


# Bad input

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
        "'a.weight_scale' is I32, expected a scale of F32, BF16, F16",
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


def test_a_declaration_without_float8_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "model", {"a.weight": SCALE}, config=DEEPSEEK)
    with pytest.raises(InputError, match=r"has a quantization_config \('fp8'\)"):
        open_model(str(path))


def test_scales_that_are_not_finite(tmp_path: Path) -> None:
    stored, _ = models(0, "blocks")
    stored["layer.b.weight_scale_inv"][0, 1] = np.nan
    path = write(tmp_path / "model", stored, config=DEEPSEEK)
    message = r"'layer\.b\.weight' has 16384 NaN or infinite values, the first at element 128"
    with pytest.raises(InputError, match=message):
        verify(path)
    with pytest.raises(InputError, match=message):
        tallies.merge(recipe("linear", [path, path]), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_verify_reads_sound_models(tmp_path: Path) -> None:
    for kind in KINDS:
        fp8, _ = write_pair(tmp_path / kind, 0, kind)
        assert verify(fp8)["nonfinite"] == {}


def test_config_keeps_all_but_the_declaration(tmp_path: Path) -> None:
    stored, _ = models(0, "blocks")
    config = {**DEEPSEEK, "name": "modèle", "text_config": {"compression_config": {"x": 1}, "n": 2}}
    config["text_config"]["compression_config"] = {"quant_method": "fp8"}  # type: ignore[index]
    path = write(tmp_path / "model", stored, config=config)
    (path / "hf_quant_config.json").write_text("{}")
    (path / "tokenizer.json").write_text("{}")
    tallies.merge(recipe("linear", [path, path]), tmp_path / "out")
    assert json.loads((tmp_path / "out" / "config.json").read_text()) == {
        "torch_dtype": "bfloat16",
        "name": "modèle",
        "text_config": {"n": 2},
    }
    assert (tmp_path / "out" / "tokenizer.json").exists()
    assert not (tmp_path / "out" / "hf_quant_config.json").exists()
