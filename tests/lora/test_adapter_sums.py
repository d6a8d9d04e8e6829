"""Sums of adapters are exact side by side, or the best of a rank, of the products."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tallies
from tallies.errors import InputError
from tallies.lora.adapter_report import AdapterReport
from tests.support import adapters
from tests.support.adapters import Adapter
from tests.support.lora_results import changes_of, effects

BASE = adapters.model()


def trio(**more: Any) -> list[Adapter]:
    """Adapters of mixed ranks, alphas and targets."""
    return [
        adapters.lora(BASE, rank=2, alpha=3, seed=1, **more),
        adapters.lora(BASE, rank=3, alpha=6, rslora=True, seed=2, **more),
        adapters.lora(BASE, ("q_proj", "down_proj"), rank=4, alpha=2, seed=3, **more)
        | adapters.embedding(BASE, alpha=2, rank=4),
    ]


def merged(
    folder: Path, given: list[Adapter], method: str = "task_arithmetic", **recipe: Any
) -> AdapterReport:
    models = []
    for number, one in enumerate(given):
        path = folder / f"a{number}"
        if not path.exists():
            one.write(path)
        models.append({"model": str(path), "parameters": recipe.pop(f"own{number}", {})})
    out = folder / f"out{len(list(folder.iterdir()))}"
    request = {"merge_method": method, "models": models, "adapter_rank": "full", **recipe}
    report = tallies.merge(request, out)
    assert isinstance(report, AdapterReport)
    return report


def weighted(given: list[Adapter], weights: list[float]) -> dict[str, np.ndarray]:
    total: dict[str, np.ndarray] = {}
    for one, weight in zip(given, weights, strict=True):
        for name, effect in effects(one, BASE).items():
            total[name] = total.get(name, 0) + weight * effect
    return total


def assert_close(found: dict[str, np.ndarray], expected: dict[str, np.ndarray], share=1e-6) -> None:
    assert found.keys() == expected.keys()
    for name, one in expected.items():
        assert np.linalg.norm(found[name] - one) <= share * np.linalg.norm(one), name


def test_full_rank_is_the_weighted_sum_of_the_products(tmp_path: Path) -> None:
    given = trio()
    report = merged(tmp_path, given, own0={"weight": 0.5}, own2={"weight": -2.0})
    assert_close(changes_of(Path(report.path)), weighted(given, [0.5, 1.0, -2.0]))
    assert report.exact and report.error < 1e-6
    ranks = {one.name: one.rank for one in report.matrices}
    assert ranks["model.layers.0.self_attn.q_proj.weight"] == 9
    assert ranks["model.layers.0.self_attn.k_proj.weight"] == 5
    assert ranks["model.embed_tokens.weight"] == 4


def test_linear_is_the_mean_of_the_products(tmp_path: Path) -> None:
    given = trio()
    report = merged(tmp_path, given, "linear")
    assert_close(changes_of(Path(report.path)), weighted(given, [1 / 3] * 3))


def test_scales_and_weights_by_tensor_count(tmp_path: Path) -> None:
    given = trio()[:2]
    report = merged(
        tmp_path,
        given,
        parameters={"lambda": [{"filter": "mlp", "value": 3.0}, {"value": 0.5}]},
        post_scale=2.0,
    )
    expected = weighted(given, [1.0, 1.0])
    expected = {name: one * (6.0 if "mlp" in name else 1.0) for name, one in expected.items()}
    assert_close(changes_of(Path(report.path)), expected)


@pytest.mark.parametrize("rank", [1, 3, 6])
def test_a_lower_rank_is_the_best_of_that_rank(tmp_path: Path, rank: int) -> None:
    given = trio()
    report = merged(tmp_path, given, adapter_rank=rank)
    found, exact = changes_of(Path(report.path)), weighted(given, [1.0] * 3)
    for one in report.matrices:
        u, s, v = np.linalg.svd(exact[one.name])
        k = one.rank
        assert k == min(rank, (s > 1e-5 * s[0]).sum())
        best = (u[:, :k] * s[:k]) @ v[:k]
        assert np.linalg.norm(found[one.name] - best) < 1e-5 * s[0]
        error = np.linalg.norm(found[one.name] - exact[one.name]) / np.linalg.norm(s)
        assert one.error == pytest.approx(error, 1e-3, 1e-6)
        assert one.norm == pytest.approx(np.linalg.norm(s), 1e-6)


@settings(max_examples=20)
@given(
    st.lists(
        st.tuples(st.integers(1, 6), st.sampled_from([0.5, 3.0, 16.0])), min_size=1, max_size=4
    ),
    st.sampled_from(["full", 1, 2, 5, 100]),
    st.sampled_from(["F32", "BF16", "F16"]),
)
def test_products_hold_for_any_ranks(
    tmp_path_factory: pytest.TempPathFactory,
    ranks: list[tuple[int, float]],
    asked: int | str,
    dtype: str,
) -> None:
    folder = tmp_path_factory.mktemp("ranks")
    given = [
        adapters.lora(
            BASE, ("k_proj",), rank=rank, alpha=alpha, seed=seed, dtype=getattr(adapters, dtype)
        )
        for seed, (rank, alpha) in enumerate(ranks)
    ]
    report = merged(folder, given, adapter_rank=asked)
    exact = weighted(given, [1.0] * len(given))
    found = changes_of(Path(report.path))
    for one in report.matrices:
        s = np.linalg.svd(exact[one.name], compute_uv=False)
        least = np.linalg.norm(s[one.rank :]) / np.linalg.norm(s)
        error = np.linalg.norm(found[one.name] - exact[one.name]) / np.linalg.norm(s)
        assert error <= least + 1e-6
        assert one.error == pytest.approx(error, 1e-3, 1e-6)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_the_error_has_the_rounding_of_the_factors(tmp_path: Path, dtype: str) -> None:
    given = trio()[:2]
    report = merged(tmp_path, given, out_dtype=dtype)
    exact, found = weighted(given, [1.0, 1.0]), changes_of(Path(report.path))
    for one in report.matrices:
        error = np.linalg.norm(found[one.name] - exact[one.name]) / np.linalg.norm(exact[one.name])
        assert 1e-5 < one.error == pytest.approx(error, 1e-3)


def test_a_rank_above_the_matrix_is_said_and_lowered(tmp_path: Path) -> None:
    given = trio()[:1]
    report = merged(tmp_path, given, adapter_rank=12)
    assert {one.rank for one in report.matrices} == {2}
    (told,) = report.warnings
    assert "adapter_rank 12" in told and "lowered" in told and "k_proj" in told


def test_the_full_rank_of_a_matrix_is_no_lowered_rank(tmp_path: Path) -> None:
    given = [adapters.lora(BASE, ("k_proj",), rank=6, seed=seed) for seed in (1, 2)]
    report = merged(tmp_path, given)
    assert {one.rank for one in report.matrices} == {8} and not report.warnings
    assert_close(changes_of(Path(report.path)), weighted(given, [1, 1]), 2e-6)


def test_an_adapter_minus_itself_is_zero(tmp_path: Path) -> None:
    given = trio()[:1] * 2
    report = merged(tmp_path, given, own1={"weight": -1.0}, adapter_rank=2)
    assert all(np.abs(one).max() < 1e-6 for one in changes_of(Path(report.path)).values())


def test_threads_change_no_byte(tmp_path: Path) -> None:
    for number, one in enumerate(trio()):
        one.write(tmp_path / f"a{number}")
    request = {
        "merge_method": "linear",
        "models": [{"model": str(tmp_path / f"a{n}")} for n in range(3)],
        "adapter_rank": 3,
    }
    for threads in (1, 3):
        tallies.merge(request, tmp_path / f"out{threads}", threads=threads)
    for name in ("adapter_model.safetensors", "adapter_config.json", "README.md"):
        first, second = ((tmp_path / f"out{n}" / name).read_bytes() for n in (1, 3))
        assert first.replace(b"out1", b"") == second.replace(b"out3", b"")


def test_the_report_repeats_the_merge(tmp_path: Path) -> None:
    report = merged(tmp_path, trio(), "linear", adapter_rank=2)
    for name in ("tallies.json", "mergekit_config.yml"):
        again = tallies.merge(Path(report.path) / name, tmp_path / f"again-{name}")
        assert again.files == report.files
        for file in report.files:
            first, second = (Path(one.path) / file for one in (report, again))
            assert first.read_bytes() == second.read_bytes()


def test_saved_modules_are_averaged(tmp_path: Path) -> None:
    given = trio(save=("model.norm",))[:2]
    report = merged(tmp_path, given, "linear", own0={"weight": 3.0})
    assert report.saved == ["model.norm.weight"]
    config = json.loads((Path(report.path) / "adapter_config.json").read_text())
    assert config["modules_to_save"] == ["model.norm"]
    tensors = adapters.checkpoints.read(Path(report.path) / "adapter_model.safetensors")
    one, two = (each.replaced["model.norm.weight"].astype("f8") for each in given)
    np.testing.assert_allclose(
        tensors["base_model.model.model.norm.weight"], 0.75 * one + 0.25 * two, 1e-6
    )


@pytest.mark.parametrize("method", ["task_arithmetic", "ties"])
def test_copies_of_the_model_s_own_weights_are_left_out(tmp_path: Path, method: str) -> None:
    given = [adapters.embedding(BASE, seed=seed) for seed in (1, 2)]
    plain = merged(tmp_path / "plain", given, method)
    for one in given:
        copy = BASE["model.embed_tokens.weight"]
        one.tensors["base_model.model.model.embed_tokens.base_layer.weight"] = copy
    report = merged(tmp_path / "copies", given, method)
    assert report.saved == []
    assert report.files == plain.files
    first, second = (Path(one.path) / "adapter_model.safetensors" for one in (plain, report))
    assert first.read_bytes() == second.read_bytes()


@pytest.mark.parametrize("order", [1, -1])
def test_weights_that_one_adapter_has_as_parameters_are_parameters(
    tmp_path: Path, order: int
) -> None:
    given = [
        adapters.lora(BASE, ("up_proj",), target_parameters=["mlp.up_proj.weight"], rank=3),
        adapters.lora(BASE, ("up_proj", "k_proj"), seed=2),
    ][::order]
    report = merged(tmp_path, given)
    config = json.loads((Path(report.path) / "adapter_config.json").read_text())
    modules = [f"model.layers.{n}.mlp.up_proj.weight" for n in (0, 1)]
    assert config["target_parameters"] == modules
    assert config["target_modules"] == [f"model.layers.{n}.self_attn.k_proj" for n in (0, 1)]
    tensors = adapters.checkpoints.read(Path(report.path) / "adapter_model.safetensors")
    expected = weighted(given, [1, 1])
    for name in modules:
        stem = f"base_model.model.{name.removesuffix('.weight')}"
        rank, key = config["r"], f"^{name}".replace(".", "\\.")
        scale = config["alpha_pattern"].get(key, config["lora_alpha"])
        scale /= config["rank_pattern"].get(key, rank)
        product = tensors[f"{stem}.lora_B.weight"] @ tensors[f"{stem}.lora_A.weight"] * scale
        np.testing.assert_allclose(product, expected[name], rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("given", "recipe", "message"),
    [
        (trio(save=("model.norm",)), {}, r"model\.norm\.weight.*mean.*BASE\+ADAPTER"),
        (
            [*trio()[:1], *trio(save=("model.norm",))[1:2]],
            {},
            r"modules_to_save\), and model '[^\"]*' as in the base",
        ),
        ([adapters.lora(BASE, dora=True)], {}, r"lora_magnitude_vector.*DoRA.*merge_and_unload"),
        ([adapters.tokens(BASE, [1]) | adapters.lora(BASE)], {}, r"trainable_tokens.*rows"),
        (
            [
                adapters.lora(BASE, base_model_name_or_path="org/one"),
                adapters.lora(BASE, seed=2, base_model_name_or_path="org/two"),
            ],
            {},
            r"different bases.*'org/one'.*'org/two'.*--base",
        ),
        (
            [adapters.lora(BASE), adapters.lora(adapters.model(size=20))],
            {},
            "different models",
        ),
        (trio(), {"adapter_rank": 0}, "adapter_rank: found 0, expected a rank"),
        (trio(), {"adapter_rank": "most"}, "adapter_rank: found 'most', expected a rank"),
        (trio(), {"out_dtype": "float64"}, "out_dtype: found F64"),
        (trio(), {"drop_layers": {"score": "size", "ratio": 0.5}}, "drop_layers"),
        (trio(), {"missing": "base"}, "missing: .*leave it out"),
        (trio(), {"extra": "drop"}, "extra: .*leave it out"),
        (trio(), {"architecture": "any"}, "architecture: .*leave it out"),
        (trio(), {"tied": "untie"}, "tied: .*leave it out"),
        (trio(), {"embeddings": "base-rows"}, "embeddings: .*leave it out"),
        (trio(), {"files_from": "a0"}, "files_from: .*leave it out"),
        (trio(), {"max_shard_size": "1GB"}, "max_shard_size: .*one file"),
    ],
)
def test_refusals_name_the_cause_and_a_way_out(
    tmp_path: Path, given: list[Adapter], recipe: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        merged(tmp_path, given, **recipe)
    assert not any("out" in path.name for path in tmp_path.iterdir())


def test_factors_that_are_not_finite_are_named(tmp_path: Path) -> None:
    bad = adapters.lora(BASE)
    name = "base_model.model.model.layers.1.mlp.up_proj.lora_B.weight"
    bad.tensors[name][3, 1] = np.nan
    with pytest.raises(InputError, match=r"up_proj\.lora_B.*nan at \[3, 1\].*nonfinite"):
        merged(tmp_path, [bad])


@pytest.mark.parametrize("method", ["linear", "ties"])
@pytest.mark.parametrize("asked", ["full", 2])
def test_values_that_are_not_finite_are_warned_of(
    tmp_path: Path, method: str, asked: int | str
) -> None:
    bad = adapters.lora(BASE, ("up_proj", "down_proj"))
    bad.tensors["base_model.model.model.layers.1.mlp.up_proj.lora_A.weight"][0, 0] = np.nan
    report = merged(tmp_path, [bad], method, adapter_rank=asked, nonfinite="warn")
    assert any("1 tensor" in told and "layers.1.mlp.up_proj" in told for told in report.warnings)
    found = changes_of(Path(report.path))
    for name, one in found.items():
        assert np.isfinite(one).all() == (name != "model.layers.1.mlp.up_proj.weight")
    matrices = json.loads((Path(report.path) / "tallies.json").read_text())["matrices"]
    assert [one["error"] is None for one in matrices].count(True) == 1


def test_models_are_no_adapters(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    adapters.checkpoints.write(tmp_path / "model" / "model.safetensors", BASE)
    request = {
        "merge_method": "linear",
        "models": [{"model": str(tmp_path / "model")}],
        "adapter_rank": 4,
    }
    with pytest.raises(InputError, match=r"is no adapter.*extract-lora"):
        tallies.merge(request, tmp_path / "out")


def test_files_of_other_tools_are_refused(tmp_path: Path) -> None:
    path = adapters.kohya(BASE).write(tmp_path / "kohya")
    request = {"merge_method": "linear", "models": [{"model": str(path)}], "adapter_rank": 4}
    with pytest.raises(InputError, match=r"another tool than PEFT.*BASE\+ADAPTER"):
        tallies.merge(request, tmp_path / "out")


def test_plans_state_ranks_and_ways(tmp_path: Path) -> None:
    paths = [one.write(tmp_path / f"a{number}") for number, one in enumerate(trio())]
    request = {"merge_method": "linear", "models": [{"model": str(path)} for path in paths]}
    made = tallies.plan({**request, "adapter_rank": "full"})
    data = made.to_json_dict()
    assert data["exact"] is True
    assert data["ranks"]["model.layers.0.self_attn.q_proj.weight"] == 9
    assert "side by side" in str(made)
    lower = tallies.plan({**request, "adapter_rank": 4})
    assert {*lower.to_json_dict()["ranks"].values()} == {4}
    report = tallies.merge({**request, "adapter_rank": 4}, tmp_path / "out")
    assert sum(report.files.values()) > 0
    written = (tmp_path / "out" / "adapter_model.safetensors").stat().st_size
    assert written <= lower.most_bytes_written + 2**16
