"""Methods of factors: CoPA, and the gathering of disjoint entries."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tallies
from tallies.errors import InputError
from tests.lora.test_adapter_sums import BASE, merged
from tests.reference.copa import copa
from tests.support import adapters
from tests.support.lora_results import changes_of, effects


@pytest.mark.parametrize(
    "parameters", [{}, {"density": 0.5, "top": 0.5, "fuse": 1.0}, {"density": 1.0, "top": 0.0}]
)
@pytest.mark.parametrize("asked", ["full", 2])
def test_factors_are_those_of_the_paper(
    tmp_path: Path, parameters: dict[str, Any], asked: int | str
) -> None:
    given = [adapters.lora(BASE, rank=5, alpha=alpha, seed=alpha) for alpha in (3, 10, 5)]
    report = merged(tmp_path, given, "copa", adapter_rank=asked, parameters=parameters)
    settings = {"density": 0.2, "top": 0.2, "fuse": 2.0} | parameters
    for name, found in changes_of(Path(report.path)).items():
        stem = f"base_model.model.{name.removesuffix('.weight')}.lora"
        pairs = [
            (
                one.tensors[f"{stem}_A.weight"].astype("f8"),
                one.tensors[f"{stem}_B.weight"].astype("f8") * (one.config["lora_alpha"] / 5),
            )
            for one in given
        ]
        a, b = copa(pairs, **settings)
        u, s, v = np.linalg.svd(b @ a)
        rank = 5 if asked == "full" else 2
        np.testing.assert_allclose(found, (u[:, :rank] * s[:rank]) @ v[:rank], 1e-4, 1e-5)


def test_embeddings_have_their_factors_swapped(tmp_path: Path) -> None:
    given = [adapters.embedding(BASE, rank=4, alpha=4, seed=seed) for seed in (1, 2)]
    report = merged(tmp_path, given, "copa")
    stem = "base_model.model.model.embed_tokens.lora_embedding"
    pairs = [tuple(one.tensors[f"{stem}_{x}"].astype("f8") for x in "AB") for one in given]
    a, b = copa(pairs, 0.2, 0.2, 2.0)
    found = changes_of(Path(report.path))["model.embed_tokens.weight"]
    np.testing.assert_allclose(found, (b @ a).T, 1e-5, 1e-6)


def test_ranks_must_agree(tmp_path: Path) -> None:
    given = [adapters.lora(BASE, rank=rank) for rank in (2, 3)]
    with pytest.raises(InputError, match="copa merges factors of one rank, found 2 and 3"):
        merged(tmp_path, given, "copa")


def test_models_are_not_merged_by_factors() -> None:
    request = {"merge_method": "copa", "models": [{"model": "a"}, {"model": "b"}]}
    with pytest.raises(InputError, match=r"copa merges adapters to an adapter.*adapter_rank"):
        tallies.plan(request)


def test_disjoint_entries_are_gathered(tmp_path: Path) -> None:
    whole = adapters.lora(BASE, ("q_proj",), rank=4, alpha=4)
    rng = np.random.default_rng(0)
    parts = [adapters.lora(BASE, ("q_proj",), rank=4, alpha=4) for _ in range(3)]
    for name, tensor in whole.tensors.items():
        owner = rng.integers(0, 3, tensor.shape)
        for number, one in enumerate(parts):
            # The first factor is shared, as in the released code.
            one.tensors[name] = tensor if "lora_A" in name else tensor * (owner == number)
    report = merged(tmp_path, parts, "disjoint")
    found, expected = changes_of(Path(report.path)), effects(whole, BASE)
    for name, one in expected.items():
        np.testing.assert_allclose(found[name], one, 1e-5, 1e-6)


def test_entries_that_overlap_are_refused(tmp_path: Path) -> None:
    given = [adapters.lora(BASE, ("q_proj",), seed=seed) for seed in (1, 2)]
    with pytest.raises(InputError, match=r"q_proj.*do not overlap.*\[0, 0\] of B"):
        merged(tmp_path, given, "disjoint")


@pytest.mark.parametrize("method", ["knots", "core_space"])
def test_models_are_not_merged_in_spaces_of_adapters(method: str) -> None:
    request = {"merge_method": method, "base_model": "b", "models": [{"model": "a"}]}
    with pytest.raises(InputError, match=r"adapter_space.*adapter_rank: full"):
        tallies.plan(request)
