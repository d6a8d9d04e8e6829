"""Adapters taken out of fine-tunes: products, errors, bounds, and what is refused."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tallies import InputError, extract_lora
from tallies.engine.files import Scaled
from tallies.lora.difference import grain_of
from tallies.lora.selection import kind_of, saved_whole
from tallies.lora.targets import Kind, Target
from tests.support.checkpoints import Array, Model, data_bytes, read_file, write
from tests.support.command import tallies

UP, DOWN, NORM = "layers.0.up.weight", "layers.0.down.weight", "layers.0.norm.weight"


def made(seed: int = 0, dtype: Any = np.float32) -> Model:
    rng = np.random.default_rng(seed)
    shapes = {UP: (96, 64), DOWN: (64, 96), NORM: (64,), "embed_tokens.weight": (50, 64)}
    return {name: rng.standard_normal(shape).astype(dtype) for name, shape in shapes.items()}


def tuned(base: Model, rank: int = 5, only: str = "layers") -> Model:
    rng = np.random.default_rng(9)
    found = dict(base)
    for name, x in base.items():
        if x.ndim == 2 and only in name:
            change = rng.standard_normal((x.shape[0], rank)) @ rng.standard_normal(
                (rank, x.shape[1])
            )
            found[name] = (x.astype(np.float32) + 0.01 * change).astype(x.dtype)
    return found


@pytest.fixture
def pair(tmp_path: Path) -> Callable[..., tuple[Path, Path]]:
    def write_both(base: Model, own: Model, **options: Any) -> tuple[Path, Path]:
        return (
            write(tmp_path / "tuned", own, **options),
            write(tmp_path / "base", base, **options),
        )

    return write_both


def product(adapter: Path, name: str) -> Array:
    """The change of a weight as PEFT computes it."""
    tensors = read_file(adapter / "adapter_model.safetensors")
    config = json.loads((adapter / "adapter_config.json").read_text())
    module = "base_model.model." + name.removesuffix(".weight")
    a, b = (tensors[f"{module}.lora_{one}.weight"].astype(np.float64) for one in "AB")
    return config["lora_alpha"] / config["r"] * (b @ a)


def test_the_product_is_the_best_of_its_rank(pair: Any, tmp_path: Path) -> None:
    base = made()
    own = {name: x + 0.1 * made(7)[name] for name, x in base.items()}
    report = extract_lora(*pair(base, own), tmp_path / "out", rank=8)
    assert [one.name for one in report.matrices] == [DOWN, UP]
    for one in report.matrices:
        delta = own[one.name].astype(np.float64) - base[one.name]
        s = np.linalg.svd(delta, compute_uv=False)
        best = np.sqrt((s[8:] ** 2).sum() / (s**2).sum())
        error = np.linalg.norm(delta - product(tmp_path / "out", one.name)) / np.linalg.norm(delta)
        assert best - 1e-6 <= error <= 1.03 * best
        assert one.error == pytest.approx(error, rel=1e-5)
        assert one.norm == pytest.approx(np.linalg.norm(delta), rel=1e-6)
    norms = np.array([one.norm for one in report.matrices])
    errors = np.array([one.error for one in report.matrices])
    whole = np.sqrt(((norms * errors) ** 2).sum() / (norms**2).sum())
    assert report.error == pytest.approx(whole)
    assert json.loads((tmp_path / "out" / "tallies.json").read_text())["error"] == report.error


@pytest.mark.parametrize("alpha", [None, 5.0, 7.0])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_the_stated_error_is_that_of_the_stored_factors(
    dtype: str, alpha: float | None, pair: Any, tmp_path: Path
) -> None:
    base = made()
    own = tuned(base)
    out = tmp_path / "out"
    report = extract_lora(*pair(base, own), out, rank=5, alpha=alpha, dtype=dtype)
    for one in report.matrices:
        delta = own[one.name].astype(np.float64) - base[one.name]
        error = np.linalg.norm(delta - product(out, one.name)) / np.linalg.norm(delta)
        assert one.error == pytest.approx(error, rel=1e-2, abs=2e-7)
        assert one.error < {"float32": 4e-6, "bfloat16": 6e-3, "float16": 6e-4}[dtype]


@pytest.mark.parametrize(
    "options",
    [
        {"threads": 1},
        {"threads": 3},
        {"max_memory": "40MiB"},
        {"max_memory": "8GiB", "threads": 2},
    ],
)
def test_threads_and_memory_change_no_byte(
    options: dict[str, Any], pair: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Blocks of some rows each, so that matrices are read in several.
    monkeypatch.setattr("tallies.linalg.randomised._BLOCK", 1 << 10)
    models = pair(made(), {name: x + 0.1 * made(7)[name] for name, x in made().items()})
    extract_lora(*models, tmp_path / "one", rank=8, save_modules=True)
    extract_lora(*models, tmp_path / "other", rank=8, save_modules=True, **options)
    assert data_bytes(tmp_path / "one") == data_bytes(tmp_path / "other")


def test_a_seed_changes_the_start_alone(pair: Any, tmp_path: Path) -> None:
    models = pair(made(), {name: x + 0.1 * made(7)[name] for name, x in made().items()})
    first, second = (
        extract_lora(*models, tmp_path / str(seed), rank=8, seed=seed) for seed in (1, 2)
    )
    assert data_bytes(tmp_path / "1") != data_bytes(tmp_path / "2")
    assert first.error == pytest.approx(second.error, rel=1e-2)


@pytest.mark.parametrize("share", [0.3, 0.9, 1.0])
def test_a_share_of_the_energy_decides_each_rank(share: float, pair: Any, tmp_path: Path) -> None:
    base = made()
    own = tuned({name: x + 0.02 * made(7)[name] for name, x in base.items()})
    report = extract_lora(*pair(base, own), tmp_path / "out", rank=share)
    for one in report.matrices:
        s = np.linalg.svd(own[one.name].astype(np.float64) - base[one.name], compute_uv=False)
        fewest = int((np.cumsum(s**2) < share * (1 - 1e-6) * (s**2).sum()).sum()) + 1
        assert fewest <= one.rank <= fewest + 1
        assert one.error <= np.sqrt(1 - share) + 1e-5
    bounded = extract_lora(
        tmp_path / "tuned", tmp_path / "base", tmp_path / "b", rank=share, max_rank=3
    )
    assert {one.rank for one in bounded.matrices} <= {1, 2, 3}


@given(
    st.sampled_from(["float32", "bfloat16", "float16", "float64"]),
    st.sampled_from(["float32", "bfloat16"]),
    st.integers(1, 9),
)
@settings(max_examples=20)
def test_models_of_any_dtypes(one: str, other: str, rank: int) -> None:
    base = made(1, np.dtype(getattr(ml_dtypes, one, one)))
    own = {
        name: x.astype(getattr(ml_dtypes, other, other))
        for name, x in tuned({n: x.astype(np.float32) for n, x in base.items()}, rank).items()
    }
    with tempfile.TemporaryDirectory() as folder:
        at = Path(folder)
        models = write(at / "tuned", own), write(at / "base", base)
        report = extract_lora(*models, at / "out", rank=96, dtype="float32")
        assert report.matrices and report.warnings
        for found in report.matrices:
            name = found.name
            delta = own[name].astype(np.float32) - base[name].astype(np.float32)
            assert found.rank == 64
            assert np.allclose(product(at / "out", name), delta, atol=1e-5)


def test_stacks_of_experts_have_factors_of_their_own(pair: Any, tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    name = "layers.0.mlp.experts.gate_up_proj"
    # 35 elements a matrix: matrices begin where no slice of a native pass may.
    base = {name: rng.standard_normal((3, 5, 7)).astype(np.float32)}
    change = rng.standard_normal((3, 5, 2)) @ rng.standard_normal((3, 2, 7))
    own = {name: (base[name] + change).astype(np.float32)}
    report = extract_lora(*pair(base, own), tmp_path / "out", rank=2)
    assert report.error < 1e-6
    tensors = read_file(tmp_path / "out" / "adapter_model.safetensors")
    a, b = (tensors[f"base_model.model.layers.0.mlp.experts.lora_{one}.weight"] for one in "AB")
    found = np.einsum("oer,eri->eoi", b.reshape(5, 2, 3).transpose(0, 2, 1), a.reshape(3, 2, 7))
    assert np.allclose(found, change, atol=1e-5)


def test_tensors_that_no_factors_hold_are_kept_or_named(pair: Any, tmp_path: Path) -> None:
    base = made() | {"layers.0.up.bias": np.zeros(96, np.float32)}
    own = tuned(base) | {
        NORM: base[NORM] + 1,
        "embed_tokens.weight": base["embed_tokens.weight"] * 2,
        "layers.0.up.bias": np.ones(96, np.float32),
    }
    models = pair(base, own)
    report = extract_lora(*models, tmp_path / "without", rank=8)
    names = ["embed_tokens.weight", NORM, "layers.0.up.bias"]
    assert sorted(report.left_out) == sorted(names) and not report.saved
    assert any("3 changed tensors left as in the base" in one for one in report.warnings)
    assert any("--save-modules" in one for one in report.warnings)
    report = extract_lora(*models, tmp_path / "with", rank=8, save_modules=True)
    assert report.saved == sorted(names) and not report.left_out and not report.warnings
    tensors = read_file(tmp_path / "with" / "adapter_model.safetensors")
    for name in names:
        stored = name.replace(".bias", ".base_layer.bias")
        assert np.array_equal(tensors[f"base_model.model.{stored}"], own[name])
    config = json.loads((tmp_path / "with" / "adapter_config.json").read_text())
    assert config["modules_to_save"] == ["embed_tokens", "layers.0.norm"]
    assert config["bias"] == "lora_only"


def test_targets_are_found_in_names(pair: Any, tmp_path: Path) -> None:
    base = made()
    models = pair(base, tuned(base, only=""))
    report = extract_lora(*models, tmp_path / "out", rank=8, target="up|embed")
    assert [one.name for one in report.matrices] == ["embed_tokens.weight", UP]
    assert report.left_out == [DOWN]
    assert any("does not find" in one for one in report.warnings)
    for target, words in (("attn", "finds no tensor"), ("norm", "no matrix"), ("(", "no regular")):
        with pytest.raises(InputError, match=words):
            extract_lora(*models, tmp_path / "none", rank=8, target=target)
    assert not (tmp_path / "none").exists()


def test_only_what_differs_is_a_target(pair: Any, tmp_path: Path) -> None:
    base = made() | {f"layers.1.{one}.weight": np.eye(8, dtype=np.float32) for one in ("up", "x")}
    extract_lora(*pair(base, tuned(base, only="layers.0")), tmp_path / "out", rank=8)
    config = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert config["target_modules"] == ["0.up", "down"]


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "rank 0": ({"rank": 0}, "rank: found 0, expected a number from 1 up"),
    "share 1.5": ({"rank": 1.5}, "rank: found 1.5"),
    "rank true": ({"rank": True}, "rank: found True"),
    "bound beside a rank": ({"rank": 4, "max_rank": 8}, "it bounds the ranks"),
    "bound 0": ({"rank": 0.5, "max_rank": 0}, "max_rank: found 0"),
    "alpha 0": ({"rank": 4, "alpha": 0}, "alpha: found 0"),
    "seed -1": ({"rank": 4, "seed": -1}, "seed: found -1"),
    "dtype int8": ({"rank": 4, "dtype": "int8"}, "dtype: found 'int8'"),
    "little memory": ({"rank": 8, "max_memory": "4MiB"}, "raise it \\(--max-memory"),
}


@pytest.mark.parametrize("case", BAD)
def test_wrong_requests_are_refused(case: str, pair: Any, tmp_path: Path) -> None:
    options, words = BAD[case]
    models = pair(made(), tuned(made()))
    with pytest.raises(InputError, match=words):
        extract_lora(*models, tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_equal_models_have_no_adapter(pair: Any, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no matrix differs"):
        extract_lora(*pair(made(), made()), tmp_path / "out", rank=8)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", [UP, NORM])
def test_values_that_are_not_finite_are_named(name: str, pair: Any, tmp_path: Path) -> None:
    own = tuned(made())
    own[name] = own[name].copy()
    own[name].flat[17] = np.nan
    words = f"tuned.*{name}' has 1 NaN or infinite values, the first at element 17.*repair"
    with pytest.raises(InputError, match=words):
        extract_lora(*pair(made(), own), tmp_path / "out", rank=8)


def test_another_vocabulary_is_left_out(pair: Any, tmp_path: Path) -> None:
    base, own = made(), tuned(made())
    own["embed_tokens.weight"] = np.ones((54, 64), np.float32)
    report = extract_lora(*pair(base, own), tmp_path / "out", rank=8, save_modules=True)
    assert any("another vocabulary" in one for one in report.warnings)
    assert report.saved == []


def test_an_earlier_adapter_is_replaced_only_when_asked(pair: Any, tmp_path: Path) -> None:
    models = pair(made(), tuned(made()))
    extract_lora(*models, tmp_path / "out", rank=8)
    with pytest.raises(InputError, match="not empty; pass --overwrite"):
        extract_lora(*models, tmp_path / "out", rank=4)
    assert extract_lora(*models, tmp_path / "out", rank=4, overwrite=True).rank == 4


def test_the_command_says_what_it_made(pair: Any, tmp_path: Path) -> None:
    own, base = pair(made(), tuned(made()))
    ended = tallies("extract-lora", own, "--base", base, "--rank", "8", "--out", tmp_path / "a")
    assert ended.status == 0 and ended.err == ""
    for words in ("adapter of 2 tensors", "rank       8", "worst      layers.0."):
        assert words in ended.out
    options = ("--rank", "0.9", "--max-rank", "3", "--json", "--out", tmp_path / "b")
    found = json.loads(tallies("extract-lora", own, "--base", base, *options).out)
    assert found["rank"] == 0.9 and found["base"] == "../base"
    assert {one["rank"] for one in found["matrices"]} == {3}
    ended = tallies("extract-lora", own, "--base", base, "--rank", "many", "--out", tmp_path / "c")
    assert ended.status == 2 and "--rank 'many'" in ended.err


def test_progress_ends_with_all_bytes(pair: Any, tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    extract_lora(
        *pair(made(), tuned(made())),
        tmp_path / "out",
        rank=8,
        progress=lambda done, whole: told.append((done, whole)),
    )
    assert told == sorted(told) and told[-1][0] == told[-1][1] > 0


def test_kinds_follow_names_and_shapes() -> None:
    assert kind_of("h.0.attn.c_attn.weight", (8, 24), {"gpt2"}) is Kind.TRANSPOSED
    assert kind_of("h.0.attn.c_attn.weight", (24, 8), {"gpt_bigcode"}) is Kind.LINEAR
    assert kind_of("lm_head.weight", (8, 4), ()) is Kind.LINEAR
    assert kind_of("embed_out.weight", (8, 4), ()) is Kind.LINEAR
    assert kind_of("transformer.wte.weight", (8, 4), ()) is Kind.EMBEDDING
    assert kind_of("vision.patch_embed.proj.weight", (8, 3, 2, 2), ()) is Kind.CONVOLUTION
    assert kind_of("conv.weight", (8, 1, 3, 3), ()) is None
    assert kind_of("mlp.gate.weight", (4, 8), ()) is Kind.PARAMETER
    assert kind_of("mlp.experts.down_proj", (4, 8, 2), {"gpt_oss"}) is Kind.TRANSPOSED_STACK
    assert kind_of("mlp.experts.down_proj", (4, 8, 2), {"mixtral"}) is Kind.STACK
    assert kind_of("cls_token", (1, 1, 8), ()) is None
    assert kind_of("norm.weight", (8,), ()) is None


def test_a_module_is_saved_whole_or_not_at_all() -> None:
    targets = [Target("vit.patch.proj.weight", (8, 3, 2, 2)), Target("up.weight", (8, 4))]
    known = ["vit.cls", "vit.patch.proj.weight", "up.bias", "bn.weight", "bn.running_mean"]
    saved, hopeless = saved_whole(["vit.cls", "up.bias", "bn.weight", "alone"], known, targets)
    assert saved == ["bn.running_mean", "bn.weight", "up.bias"]
    assert hopeless == ["vit.cls", "alone"]


def test_grains_of_operands() -> None:
    place = (0, 0, 1)
    assert grain_of(place, place) == 64
    assert grain_of(place, Scaled(place, place, 24, 5, 8)) == 960


def test_experts_that_a_file_keeps_one_by_one_become_stacks(pair: Any, tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    places = [f"layers.0.block_sparse_moe.experts.{i}" for i in range(3)]
    shapes = {"w1": (6, 5), "w2": (5, 6), "w3": (6, 5)}
    base = {
        f"{place}.{layer}.weight": rng.standard_normal(shape).astype(np.float32)
        for place in places
        for layer, shape in shapes.items()
    } | {"layers.0.block_sparse_moe.gate.weight": rng.standard_normal((3, 5)).astype(np.float32)}
    own = {name: x + rng.standard_normal(x.shape).astype(np.float32) for name, x in base.items()}
    report = extract_lora(*pair(base, own), tmp_path / "out", rank=5)
    found = {one.name: one for one in report.matrices}
    experts = "layers.0.mlp.experts"
    assert found.keys() == {
        f"{experts}.gate_up_proj",
        f"{experts}.down_proj",
        "layers.0.mlp.gate.weight",
    }
    assert found[f"{experts}.gate_up_proj"].shape == [3, 12, 5]
    assert report.error < 1e-6 and report.left_out == []
    tensors = read_file(tmp_path / "out" / "adapter_model.safetensors")
    # PEFT wraps a module once for each parameter, the first one innermost.
    inner = f"base_model.model.{experts}.base_layer"
    a, b = (tensors[f"{inner}.lora_{one}.weight"] for one in "AB")
    product = np.einsum("oer,eri->eoi", b.reshape(12, 5, 3).transpose(0, 2, 1), a.reshape(3, 5, 5))
    for i, place in enumerate(places):
        expected = np.concatenate(
            [own[f"{place}.{one}.weight"] - base[f"{place}.{one}.weight"] for one in ("w1", "w3")]
        )
        assert np.allclose(product[i], expected, atol=1e-5)


def test_experts_that_are_not_complete_are_left_out(pair: Any, tmp_path: Path) -> None:
    name = "layers.0.mlp.experts.0.gate_proj.weight"
    base = made() | {name: np.eye(4, dtype=np.float32)}
    own = tuned(base) | {name: np.ones((4, 4), np.float32)}
    report = extract_lora(*pair(base, own), tmp_path / "out", rank=8, save_modules=True)
    assert report.left_out == [name] and report.saved == []
