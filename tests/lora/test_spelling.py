"""Adapters of one model in different hosts have their modules as one."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import tallies
from tallies.lora.spelling import Spelling
from tests.support import adapters
from tests.support.adapters import Adapter
from tests.support.lora_results import changes_of, effects

BASE = adapters.model()


def in_host(given: Adapter, prefix: str) -> Adapter:
    """The adapter as a host has it that names the text model by another prefix."""
    whole = "base_model.model."
    tensors = {
        name.replace(f"{whole}model.", f"{whole}{prefix}"): one
        for name, one in given.tensors.items()
    }
    return replace(given, tensors=tensors)


@pytest.mark.parametrize("method", ["task_arithmetic", "linear"])
@pytest.mark.parametrize("prefix", ["", "model.language_model.", "language_model.model."])
def test_modules_of_two_hosts_are_one(tmp_path: Path, prefix: str, method: str) -> None:
    given = [
        adapters.lora(BASE, ("q_proj", "up_proj"), rank=2, seed=1),
        adapters.lora(BASE, ("up_proj", "k_proj"), rank=3, seed=2) | adapters.embedding(BASE),
    ]
    given[1] = in_host(given[1], prefix)
    models = [{"model": str(one.write(tmp_path / f"a{n}"))} for n, one in enumerate(given)]
    request = {"merge_method": method, "models": models, "adapter_rank": "full"}
    report = tallies.merge(request, tmp_path / "out")
    (told,) = [one for one in report.warnings if "another host" in one]
    old, new = re.findall(r"'((?!/)[^']*weight)'", told)
    assert old.removeprefix(prefix) == new.removeprefix("model.") != new
    share = 1.0 if method == "task_arithmetic" else 0.5
    expected: dict[str, np.ndarray] = {}
    for one in given:
        for name, effect in effects(one, BASE).items():
            expected[name] = expected.get(name, 0) + share * effect
    found = changes_of(tmp_path / "out")
    assert found.keys() == expected.keys()
    for name, one in expected.items():
        np.testing.assert_allclose(found[name], one, rtol=0, atol=1e-5)
    # A merge takes what a merge wrote.
    again = {**request, "models": [{"model": str(tmp_path / "out")}] * 2, "adapter_rank": 4}
    assert len(tallies.merge(again, tmp_path / "again").matrices) == len(expected)


@pytest.mark.parametrize(
    ("first", "second", "renamed"),
    [
        (["model.layers.0.q.weight"], ["model.layers.1.q.weight"], {}),
        # No module in both: the neighbours tell, and a head has none.
        (
            ["model.layers.0.q.weight"],
            ["model.language_model.layers.1.q.weight", "lm_head.weight"],
            {"model.language_model.layers.1.q.weight": "model.layers.1.q.weight"},
        ),
        (
            ["layers.0.q.weight"],
            ["model.layers.0.q.weight", "model.embed_tokens.weight"],
            {
                "model.layers.0.q.weight": "layers.0.q.weight",
                "model.embed_tokens.weight": "embed_tokens.weight",
            },
        ),
        (
            ["transformer.h.0.q.weight"],
            ["h.0.q.weight"],
            {"h.0.q.weight": "transformer.h.0.q.weight"},
        ),
        (
            ["model.layers.0.q.weight"],
            ["layers.0.q.weight", "embed_tokens.weight", "lm_head.weight"],
            {
                "layers.0.q.weight": "model.layers.0.q.weight",
                "embed_tokens.weight": "model.embed_tokens.weight",
            },
        ),
        # Different modules of one model.
        (["model.layers.0.q.weight"], ["vision.layers.0.q.weight"], {}),
        (["model.encoder.layers.0.q.weight"], ["model.decoder.layers.0.q.weight"], {}),
        (["model.layers.0.q.weight"], ["layers.0.q.weight", "model.layers.0.q.weight"], {}),
        (["layers.0.q.weight", "model.layers.0.q.weight"], ["layers.1.q.weight"], {}),
    ],
)
def test_names_follow_the_first_adapter(
    first: list[str], second: list[str], renamed: dict[str, str]
) -> None:
    spelling = Spelling()
    assert spelling.renamed(first) == {}
    assert spelling.renamed(second) == renamed
