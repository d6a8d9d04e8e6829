"""Methods that are no sums merge the products as they merge the task vectors of models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tallies
from tallies.errors import InputError
from tests.lora.test_adapter_sums import BASE, merged, trio
from tests.reference import adapter_spaces
from tests.reference.ties import merged_task_vector
from tests.support import adapters
from tests.support.adapters import Adapter
from tests.support.lora_results import changes_of, effects

NAME = "model.layers.1.mlp.down_proj.weight"


def dense(given: list[Adapter], method: str, **options: Any) -> dict[str, np.ndarray]:
    """Return what the method makes of the task vectors as arrays in memory."""
    each = [effects(one, BASE) for one in given]
    names = dict.fromkeys(name for one in each for name in one)
    zeros = {name: np.zeros(BASE[name].shape, "f4") for name in names}
    experts = [zeros | {name: x.astype("f4") for name, x in one.items()} for one in each]
    return tallies.merge_state_dicts(zeros, experts, method=method, **options)


METHODS: list[tuple[str, dict[str, Any]]] = [
    ("ties", {"density": 0.3}),
    ("ties", {"density": 0.3, "scope": "tensor", "scale": 0.5}),
    ("dare_linear", {"density": 0.5}),
    ("dare_ties", {"density": 0.5}),
    ("breadcrumbs", {"density": 0.5, "gamma": 0.1}),
    ("breadcrumbs_ties", {"density": 0.5, "gamma": 0.1}),
    ("della", {"density": 0.5, "epsilon": 0.1}),
    ("della_linear", {"density": 0.5, "epsilon": 0.1}),
    ("sce", {}),
    ("pcb", {}),
    ("consensus_ta", {}),
    ("emr", {}),
    ("metagpt", {}),
    ("tsv_m", {}),
    ("iso_c", {}),
]


@pytest.mark.parametrize(
    ("method", "parameters"), METHODS, ids=[f"{n}{i}" for i, (n, _) in enumerate(METHODS)]
)
def test_products_merge_as_task_vectors_do(
    tmp_path: Path, method: str, parameters: dict[str, Any]
) -> None:
    given = trio()
    report = merged(tmp_path, given, method, parameters=parameters, seed=7, adapter_rank=24)
    expected = dense(given, method, seed=7, **parameters)
    found = changes_of(Path(report.path))
    assert found.keys() == expected.keys()
    for name, one in expected.items():
        # Products of other sums may round otherwise, and singular vectors do.
        np.testing.assert_allclose(found[name], one, 1e-4, 1e-5, err_msg=name)
    assert not report.exact and report.error < 1e-5


def test_lower_ranks_state_the_error(tmp_path: Path) -> None:
    given = trio()
    report = merged(tmp_path, given, "ties", adapter_rank=4)
    exact, found = dense(given, "ties"), changes_of(Path(report.path))
    for one in report.matrices:
        error = np.linalg.norm(found[one.name] - exact[one.name])
        s = np.linalg.svd(exact[one.name].astype("f8"), compute_uv=False)
        assert one.rank == 4
        assert one.norm == pytest.approx(np.linalg.norm(s), 1e-5)
        assert one.error == pytest.approx(error / np.linalg.norm(s), 1e-3)
        # These matrices are small enough to be decomposed exactly or nearly so.
        assert one.error <= 1.02 * np.linalg.norm(s[4:]) / np.linalg.norm(s)


def test_cancelled_votes_take_the_sign_of_all(tmp_path: Path) -> None:
    # The first tensor cancels, and all others are negative: the first guess is wrong.
    one = adapters.lora(BASE, ("q_proj", "v_proj"), rank=2, seed=1)
    two = adapters.lora(BASE, ("q_proj", "v_proj"), rank=2, seed=1)
    for name, tensor in one.tensors.items():
        if "lora_B" in name:
            if "q_proj" in name:
                two.tensors[name][...] = -tensor
            else:
                tensor[...] = -np.abs(tensor)
                two.tensors[name][...] = tensor
        elif "v_proj" in name:
            tensor[...] = np.abs(tensor)
            two.tensors[name][...] = tensor
    folder = tmp_path
    report = merged(folder, [one, two], "ties", adapter_rank=24, parameters={"density": 1.0})
    found = changes_of(Path(report.path))
    for layer in (0, 1):
        stem = f"base_model.model.model.layers.{layer}.self_attn.q_proj.lora"
        effect = one.tensors[f"{stem}_B.weight"] @ one.tensors[f"{stem}_A.weight"] * 3
        np.testing.assert_allclose(
            found[f"model.layers.{layer}.self_attn.q_proj.weight"], -np.abs(effect), 1e-4, 1e-5
        )


def ties_of(parts: Any) -> np.ndarray:
    return merged_task_vector(np.stack(parts).astype("f4"), 0.4).astype("f8")


def pairs(given: list[Adapter]) -> tuple[list[np.ndarray], list[np.ndarray]]:
    stem = f"base_model.model.{NAME.removesuffix('.weight')}.lora"
    return tuple(
        [one.tensors[f"{stem}_{side}.weight"].astype("f8") for one in given] for side in "BA"
    )


@pytest.mark.parametrize("space", ["knots", "core"])
@pytest.mark.parametrize("rank", ["full", 3])
def test_small_spaces_are_those_of_singular_vectors(
    tmp_path: Path, space: str, rank: str | int
) -> None:
    given = [adapters.lora(BASE, ("down_proj",), rank=r, alpha=r, seed=r) for r in (2, 3, 4)]
    report = merged(
        tmp_path,
        given,
        "ties",
        adapter_rank=rank,
        adapter_space=space,
        parameters={"density": 0.4, "scope": "tensor"},
    )
    deltas = [effects(one, BASE)[NAME] for one in given]
    if space == "knots":
        expected = adapter_spaces.knots(deltas, ties_of)
    else:
        expected = adapter_spaces.core(*pairs(given), ties_of)
    found = changes_of(Path(report.path))[NAME]
    if rank == "full":
        assert {one.rank for one in report.matrices} == {9}
    else:
        u, s, v = np.linalg.svd(expected)
        expected = (u[:, :3] * s[:3]) @ v[:3]
    np.testing.assert_allclose(found, expected, 1e-3, 1e-5)


@pytest.mark.parametrize(("method", "space"), [("knots", "knots"), ("core_space", "core")])
def test_spaces_may_be_named_as_methods(tmp_path: Path, method: str, space: str) -> None:
    given = trio()
    one = merged(tmp_path, given, "ties", adapter_rank=4, adapter_space=space)
    two = merged(tmp_path, given, method, adapter_rank=4)
    assert two.recipe["merge_method"] == "ties"
    assert two.recipe["adapter_space"] == space
    assert two.matrices == one.matrices


@pytest.mark.parametrize("space", ["knots", "core"])
def test_sums_are_the_same_in_every_space(tmp_path: Path, space: str) -> None:
    given = trio()
    one = merged(tmp_path, given, "linear")
    two = merged(tmp_path, given, "linear", adapter_space=space)
    expected = changes_of(Path(one.path))
    for name, found in changes_of(Path(two.path)).items():
        np.testing.assert_array_equal(found, expected[name])


def test_singular_vectors_of_tasks_are_the_same_in_core_space(tmp_path: Path) -> None:
    given = [adapters.lora(BASE, rank=4, seed=seed) for seed in (1, 2)]
    full = merged(tmp_path, given, "tsv_m", adapter_rank=8)
    core = merged(tmp_path, given, "tsv_m", adapter_rank=8, adapter_space="core")
    expected = changes_of(Path(full.path))
    for name, found in changes_of(Path(core.path)).items():
        np.testing.assert_allclose(found, expected[name], 1e-3, 1e-4)


def test_threads_change_no_byte(tmp_path: Path) -> None:
    for number, one in enumerate(trio()):
        one.write(tmp_path / f"a{number}")
    for space in ("full", "knots", "core"):
        request = {
            "merge_method": "dare_ties",
            "models": [{"model": str(tmp_path / f"a{n}")} for n in range(3)],
            "adapter_rank": 3,
            "adapter_space": space,
        }
        found = []
        for threads in (1, 3):
            out = tmp_path / f"{space}{threads}"
            tallies.merge(request, out, threads=threads, max_memory="64MiB")
            found.append((out / "adapter_model.safetensors").read_bytes())
        assert found[0] == found[1], space


def test_matrices_beyond_the_memory_are_named(tmp_path: Path) -> None:
    paths = [one.write(tmp_path / f"a{number}") for number, one in enumerate(trio())]
    request = {
        "merge_method": "ties",
        "models": [{"model": str(path)} for path in paths],
        "adapter_rank": 3,
    }
    with pytest.raises(InputError, match=r"merged as a whole.*--max-memory.*adapter_space"):
        tallies.merge(request, tmp_path / "out", max_memory=1000)


@pytest.mark.parametrize("space", ["full", "knots", "core"])
def test_factors_that_are_not_finite_are_named(tmp_path: Path, space: str) -> None:
    given = trio()
    name = "base_model.model.model.layers.1.mlp.up_proj.lora_A.weight"
    given[1].tensors[name][1, 3] = np.inf
    with pytest.raises(InputError, match=r"up_proj\.lora_A.*inf at \[1, 3\]"):
        merged(tmp_path, given, "ties", adapter_rank=4, adapter_space=space)
