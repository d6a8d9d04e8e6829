"""Mixtures of experts made of dense models."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import yaml

from tallies import InputError
from tallies.moe.building import build_moe
from tallies.moe.gates import of_chance
from tests.support.checkpoints import Model, data_bytes, read, write
from tests.support.command import tree
from tests.support.command_line import printed, refused

HIDDEN, INNER, LAYERS = 4, 6, 2
SHAPES = {"gate_proj": (INNER, HIDDEN), "up_proj": (INNER, HIDDEN), "down_proj": (HIDDEN, INNER)}
CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": HIDDEN,
    "intermediate_size": INNER,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "vocab_size": 8,
    "torch_dtype": "float32",
}


def dense(seed: int, dtype: Any = np.float32) -> Model:
    rng = np.random.default_rng(seed)
    shapes: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (8, HIDDEN),
        "model.norm.weight": (HIDDEN,),
    }
    for layer in range(LAYERS):
        prefix = f"model.layers.{layer}"
        shapes |= {f"{prefix}.mlp.{key}.weight": shape for key, shape in SHAPES.items()}
        shapes |= {
            f"{prefix}.self_attn.{key}_proj.weight": (HIDDEN if key == "q" else 2, HIDDEN)
            for key in "qkv"
        }
        shapes[f"{prefix}.self_attn.rotary_emb.inv_freq"] = (2,)
    return {name: rng.standard_normal(shape).astype(dtype) for name, shape in shapes.items()}


BASE, FIRST, SECOND = dense(0), dense(1), dense(2)


def request(**more: Any) -> dict[str, Any]:
    experts = [{"source_model": "first"}, {"source_model": "second"}]
    return {"base_model": "base", "gate_mode": "random", "experts": experts, **more}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name, model in (("base", BASE), ("first", FIRST), ("second", SECOND)):
        write(tmp_path / name, model, config=CONFIG)
    (tmp_path / "base/tokenizer.json").write_text("{}")
    return tmp_path


def expected_of(layer: int, key: str) -> list[np.ndarray[Any, Any]]:
    return [one[f"model.layers.{layer}.mlp.{key}.weight"] for one in (FIRST, SECOND)]


@pytest.mark.parametrize("threads", [1, 3])
def test_mixtral(here: Path, threads: int) -> None:
    report = build_moe(request(), here / "out", threads=threads)
    found = read(here / "out")
    dense_names = {name for name in BASE if ".mlp." not in name and "inv_freq" not in name}
    for name in dense_names:
        np.testing.assert_array_equal(found.pop(name), BASE[name])
    for layer in range(LAYERS):
        prefix = f"model.layers.{layer}.mlp"
        gates, ups = expected_of(layer, "gate_proj"), expected_of(layer, "up_proj")
        both = np.stack([np.concatenate(pair) for pair in zip(gates, ups, strict=True)])
        np.testing.assert_array_equal(found.pop(f"{prefix}.experts.gate_up_proj"), both)
        downs = np.stack(expected_of(layer, "down_proj"))
        np.testing.assert_array_equal(found.pop(f"{prefix}.experts.down_proj"), downs)
        gate = of_chance(0, layer, 2, HIDDEN, uniform=False)
        np.testing.assert_array_equal(found.pop(f"{prefix}.gate.weight"), gate)
    assert not found
    config = json.loads((here / "out/config.json").read_text())
    assert config["model_type"] == "mixtral" and config["num_local_experts"] == 2
    assert config["rms_norm_eps"] == 1e-6 and config["rope_theta"] == 10000
    assert config["max_position_embeddings"] == 2048 and config["num_key_value_heads"] == 1
    assert config["torch_dtype"] == "float32"
    assert (here / "out/tokenizer.json").read_text() == "{}"
    assert report.layout == "mixtral" and report.dtypes == {"F32": len(dense_names) + 3 * LAYERS}


def test_deepseek_with_a_shared_expert(here: Path) -> None:
    shared = [{"source_model": "base"}]
    build_moe(request(shared_experts=shared), here / "out")
    found = read(here / "out")
    for layer in range(LAYERS):
        prefix = f"model.layers.{layer}.mlp"
        for key in SHAPES:
            for number, one in enumerate(expected_of(layer, key)):
                name = f"{prefix}.experts.{number}.{key}.weight"
                np.testing.assert_array_equal(found[name], one)
            np.testing.assert_array_equal(
                found[f"{prefix}.shared_experts.{key}.weight"], BASE[f"{prefix}.{key}.weight"]
            )
        assert f"{prefix}.shared_expert_gate.weight" not in found
    config = json.loads((here / "out/config.json").read_text())
    assert config["n_routed_experts"] == 2 and config["n_shared_experts"] == 1


def test_qwen_with_zero_biases_and_two_gates(here: Path) -> None:
    shared = [{"source_model": "base"}]
    build_moe(request(shared_experts=shared, architecture="Qwen"), here / "out")
    found = read(here / "out")
    for layer in range(LAYERS):
        rows = of_chance(0, layer, 3, HIDDEN, uniform=False)
        prefix = f"model.layers.{layer}"
        np.testing.assert_array_equal(found[f"{prefix}.mlp.gate.weight"], rows[:2])
        np.testing.assert_array_equal(found[f"{prefix}.mlp.shared_expert_gate.weight"], rows[2:])
        for key, size in (("q", 4), ("k", 2), ("v", 2)):
            bias = found[f"{prefix}.self_attn.{key}_proj.bias"]
            assert bias.shape == (size,) and not bias.any()


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_another_dtype_is_rounded_once(here: Path, dtype: str) -> None:
    build_moe(request(dtype=dtype), here / "out")
    kind = getattr(ml_dtypes, dtype, dtype)
    found = read(here / "out")
    down = np.stack(expected_of(1, "down_proj")).astype(kind)
    assert found["model.layers.1.mlp.experts.down_proj"].tobytes() == down.tobytes()
    gate = of_chance(0, 1, 2, HIDDEN, uniform=False).astype(kind)
    assert found["model.layers.1.mlp.gate.weight"].tobytes() == gate.tobytes()
    assert json.loads((here / "out/config.json").read_text())["torch_dtype"] == dtype


def test_a_residual_scale_is_a_factor_on_the_way_down(here: Path) -> None:
    experts = [{"source_model": "first", "residual_scale": 0.3}, {"source_model": "second"}]
    build_moe(request(experts=experts), here / "out")
    down = expected_of(0, "down_proj")
    expected = np.stack([down[0] * np.float32(0.3), down[1]])
    name = "model.layers.0.mlp.experts.down_proj"
    np.testing.assert_array_equal(read(here / "out")[name], expected)


def test_random_gates_follow_from_the_seed() -> None:
    rows = of_chance(7, 3, 8, 4096, uniform=False)
    np.testing.assert_array_equal(rows, of_chance(7, 3, 8, 4096, uniform=False))
    assert not np.array_equal(rows, of_chance(8, 3, 8, 4096, uniform=False))
    assert not np.array_equal(rows, of_chance(7, 4, 8, 4096, uniform=False))
    assert abs(rows.mean()) < 0.02 and abs(rows.std() - 1) < 0.02
    uniform = of_chance(7, 3, 8, 4096, uniform=True)
    bound = math.sqrt(1 / 4096)
    assert abs(uniform).max() <= bound and uniform.std() == pytest.approx(
        bound / math.sqrt(3), rel=0.02
    )


def statistics(path: Path, experts: int = 2, **more: Any) -> Model:
    rng = np.random.default_rng(9)
    found = {
        f"layers.{layer}.experts.{e}": rng.standard_normal(HIDDEN).astype(np.float32)
        for layer in range(LAYERS)
        for e in range(experts)
    }
    write(path, {**found, **more})
    return found


def test_gates_of_statistics_are_directions(here: Path) -> None:
    found = statistics(here / "gates.safetensors")
    build_moe(request(gate_mode="statistics", statistics="gates.safetensors"), here / "out")
    for layer in range(LAYERS):
        rows = np.stack([found[f"layers.{layer}.experts.{e}"] for e in range(2)]).astype(float)
        expected = rows / np.linalg.norm(rows, axis=1, keepdims=True)
        gate = read(here / "out")[f"model.layers.{layer}.mlp.gate.weight"]
        np.testing.assert_array_max_ulp(gate, expected.astype(np.float32), 1)


def test_a_shared_expert_has_statistics_of_its_own(here: Path) -> None:
    shared = {f"layers.{i}.shared.0": np.full(HIDDEN, 2, np.float32) for i in range(LAYERS)}
    statistics(here / "gates.safetensors", **shared)
    build_moe(
        request(
            statistics="gates.safetensors",
            gate_mode=None,
            architecture="qwen2",
            shared_experts=[{"source_model": "base"}],
        ),
        here / "out",
    )
    gate = read(here / "out")["model.layers.0.mlp.shared_expert_gate.weight"]
    np.testing.assert_array_equal(gate, np.full((1, HIDDEN), 0.5, np.float32))


def test_a_result_repeats_itself_wherever_it_runs(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build_moe(request(), here / "out", seed=3, max_shard_size=200)
    assert len(data_bytes(here / "out")) > 2
    monkeypatch.chdir("/")
    for file in ("tallies.json", "mergekit_moe_config.yml"):
        build_moe(here / "out" / file, here / file[:7], max_shard_size=200)
        assert data_bytes(here / file[:7]) == data_bytes(here / "out")
    assert str(here) not in (here / "out/tallies.json").read_text()


def test_the_command(here: Path) -> None:
    (here / "moe.yml").write_text(yaml.safe_dump(request()))
    text = printed("moe", "moe.yml", "out")
    assert "mixture of 2 experts (mixtral layout)" in text
    assert "warning    the gates are random" in text
    refused(["moe", "moe.yml", "out"], "is not empty; pass --overwrite")
    report = json.loads(printed("moe", "moe.yml", "out", "--overwrite", "--json", "--seed", 5))
    assert report["recipe"]["seed"] == 5
    assert "path" not in report


def expert(**more: Any) -> list[dict[str, Any]]:
    return [{"source_model": "first", **more}, {"source_model": "second"}]


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"gate_mode": "hidden"}, "hidden runs the model on prompts.*'statistics: FILE'"),
        ({"gate_mode": None}, "hidden runs the model on prompts"),
        ({"gate_mode": "cheap_embed"}, "cheap_embed runs the model on prompts"),
        ({"gate_mode": "randon"}, "'randon' is not known; did you mean 'random'"),
        ({"gate_mode": "statistics"}, "'statistics: FILE' belong together"),
        ({"statistics": "x.safetensors"}, "belong together"),
        ({"expert_per_token": 1}, "key 'expert_per_token' is not known; did you mean"),
        ({"experts_per_token": 3}, "found 2, expected at least experts_per_token, which is 3"),
        ({"experts_per_token": 0}, "experts_per_token: found 0, expected 1 or more"),
        ({"seed": -1}, "seed: found -1, expected 0 or more"),
        ({"experts": ["la", "lb"]}, r"experts\[0\]: found 'la', expected {source_model: DIR}"),
        ({"experts": expert(residual_scale=math.nan)}, "residual_scale: found nan, expected a fin"),
        ({"experts": expert(residual_scale=1e39)}, r"residual_scale: found 1e\+39, expected a fin"),
        ({"experts": expert(noise_scale=0.1)}, "noise_scale: noise is not added"),
        ({"experts": expert(source="x")}, "experts.*source"),
        ({"architecture": "mixtrall"}, "'mixtrall' is not known; did you mean 'mixtral'"),
        ({"architecture": "qwen3"}, "Qwen3 MoE takes qwen3 models, found llama"),
        ({"shared_experts": expert()}, "no layout .* fits: Mixtral has 0 shared experts, found 2"),
        ({"dtype": "float33"}, "dtype: 'float33' is not known"),
        ({"base_model": "gone"}, "gone: no such"),
    ],
)
def test_refusals_of_requests(here: Path, more: dict[str, Any], words: str) -> None:
    before = tree(here)
    with pytest.raises(InputError, match=words):
        build_moe(request(**more), here / "out")
    assert tree(here) == before


@pytest.mark.parametrize(
    ("change", "config", "words"),
    [
        ({"model.layers.1.mlp.up_proj.weight": None}, {}, "up_proj.weight' is missing"),
        (
            {"model.layers.1.mlp.up_proj.weight": np.ones((5, 4), np.float32)},
            {},
            r"has shape \[5, 4\], expected \[6, 4\]",
        ),
        (
            {"model.layers.0.mlp.up_proj.bias": np.ones(6, np.float32)},
            {},
            "up_proj.bias' has no place in the experts of Mixtral",
        ),
        ({}, {"model_type": "gpt2"}, "takes models of one type, found 'gpt2', 'llama'"),
        ({}, {"model_type": None}, "no config.json with a model_type"),
    ],
)
def test_refusals_of_models(
    here: Path, change: dict[str, Any], config: dict[str, Any], words: str
) -> None:
    model = {name: value for name, value in {**SECOND, **change}.items() if value is not None}
    write(here / "odd", model, config={**CONFIG, **config})
    experts = [{"source_model": one} for one in ("first", "odd")]
    with pytest.raises(InputError, match=words):
        build_moe(request(experts=experts), here / "out")
    assert not (here / "out").exists()


def test_a_base_without_layers(here: Path) -> None:
    write(here / "flat", {"w": np.ones(3, np.float32)}, config=CONFIG)
    with pytest.raises(InputError, match=r"flat: has no tensors such as"):
        build_moe(request(base_model="flat"), here / "out")
    write(here / "short", BASE, config={**CONFIG, "num_hidden_layers": 3})
    with pytest.raises(InputError, match="states 3 layers, and the tensors are those of 2 layers"):
        build_moe(request(base_model="short"), here / "out")


@pytest.mark.parametrize(
    ("experts", "more", "words"),
    [
        (1, {}, r"'layers.0.experts.1' is missing \(2 of 4 are\)"),
        (2, {"layers.5.experts.0": np.ones(4, np.float32)}, "'layers.5.experts.0': no such layer"),
        (2, {"layers.0.experts.0": np.ones(5, np.float32)}, r"is F32 \[5\], expected .* \[4\]"),
        (2, {"layers.0.experts.0": np.ones(4, np.int32)}, r"is I32 \[4\]"),
        (2, {"layers.0.experts.0": np.full(4, np.nan, np.float32)}, "has NaN or infinite values"),
        (2, {"layers.1.experts.0": np.full(4, 1e300)}, "'layers.1.experts.0' has NaN or inf"),
        (2, {"layers.1.experts.1": np.zeros(4, np.float32)}, "'layers.1.experts.1' is zero"),
    ],
)
def test_refusals_of_statistics(here: Path, experts: int, more: dict[str, Any], words: str) -> None:
    statistics(here / "gates.safetensors", experts, **more)
    with pytest.raises(InputError, match=words):
        build_moe(request(gate_mode="statistics", statistics="gates.safetensors"), here / "out")
    assert not (here / "out").exists()


def test_tiny_statistics_have_a_direction(here: Path) -> None:
    tiny = np.array([3e-30, 0, -4e-30, 0], np.float32)
    statistics(here / "gates.safetensors", **{"layers.0.experts.1": tiny})
    build_moe(request(gate_mode="statistics", statistics="gates.safetensors"), here / "out")
    gate = read(here / "out")["model.layers.0.mlp.gate.weight"]
    np.testing.assert_allclose(gate[1], [0.6, 0, -0.8, 0], rtol=1e-6)


@pytest.mark.parametrize("factor", [1e6, -1e6])
def test_values_beyond_the_dtype_are_refused(here: Path, factor: float) -> None:
    experts = expert(residual_scale=factor)
    with pytest.raises(InputError) as error:
        build_moe(request(experts=experts, dtype="float16"), here / "out")
    for words in (
        r"down_proj': ",
        "NaN or infinite in float16",
        "first/model.safetensors times residual_scale",
        "lower residual_scale, or set a wider dtype such as bfloat16",
    ):
        assert words in str(error.value)
    assert not (here / "out").exists()
    build_moe(request(experts=experts, dtype="bfloat16"), here / "out")
    assert all(np.isfinite(one.astype(np.float32)).all() for one in read(here / "out").values())


def test_weights_of_a_model_beyond_the_dtype_are_refused(here: Path) -> None:
    name = "model.layers.1.self_attn.q_proj.weight"
    large = {**BASE, name: np.full_like(BASE[name], 1e5)}
    write(here / "large", large, config=CONFIG)
    with pytest.raises(InputError, match=f"'{name}': 16 values are .* set a wider dtype"):
        build_moe(request(base_model="large", dtype="float16"), here / "out")
    assert not (here / "out").exists()


def test_computed_values_of_a_model_with_nan_are_refused_and_copies_stay(here: Path) -> None:
    name = "model.layers.0.mlp.down_proj.weight"
    odd = {**FIRST, name: np.where(np.arange(INNER) == 2, np.float32(np.nan), FIRST[name])}
    write(here / "odd", odd, config=CONFIG)
    scaled = [{"source_model": "odd", "residual_scale": 0.5}, {"source_model": "second"}]
    with pytest.raises(InputError, match=f"odd.*tensor '{name}' has 4 NaN .*; repair the model"):
        build_moe(request(experts=scaled), here / "out")
    scaled[0].pop("residual_scale")
    build_moe(request(experts=scaled), here / "out")
    found = read(here / "out")["model.layers.0.mlp.experts.down_proj"][0]
    np.testing.assert_array_equal(found, odd[name])


def test_several_documents_are_no_request(here: Path) -> None:
    text = yaml.safe_dump(request())
    (here / "moe.yml").write_text(f"{text}---\nname: a\nmodels: [base]\n")
    refused(["moe", "moe.yml", "out"], "moe.yml: holds several documents, expected one")


def test_warnings(here: Path) -> None:
    experts = [{"source_model": "first", "positive_prompts": ["code"]}] * 3
    report = build_moe(request(experts=experts), here / "out")
    for words in ("3 experts are no power of two", "prompts are not read", "the same model"):
        assert any(words in warning for warning in report.warnings), words
