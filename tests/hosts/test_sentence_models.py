"""Merges of models of sentence-transformers: in memory, on disk, and through their own method."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from sentence_transformers import SentenceTransformer

import tallies
from tallies.integrations import sentence_transformers as ours
from tests.support.pipelines import save_sentence_transformer


@pytest.fixture(scope="module")
def directories(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    root = tmp_path_factory.mktemp("embedders")
    paths = [root / name for name in ("base", "a", "b")]
    for seed, path in enumerate(paths):
        save_sentence_transformer(path, seed)
    return paths


def load(path: Path) -> SentenceTransformer:
    return SentenceTransformer(str(path), device="cpu")


def equal(one: Any, other: Any) -> None:
    states = [model.state_dict() for model in (one, other)]
    assert states[0].keys() == states[1].keys()
    for name, value in states[0].items():
        assert torch.equal(value, states[1][name]), name


CASES: list[tuple[str, dict[str, Any], bool]] = [
    ("linear", {"weight": [0.6, 0.4]}, False),
    ("linear", {}, False),
    ("slerp", {"t": 0.3}, False),
    ("task_arithmetic", {"weight": [0.6, 0.4]}, True),
    ("ties", {"density": 0.5}, True),
]


@pytest.mark.parametrize(("method", "parameters", "has_base"), CASES)
def test_memory_disk_and_the_library_agree(
    tmp_path: Path,
    directories: list[Path],
    method: str,
    parameters: dict[str, Any],
    has_base: bool,
) -> None:
    base, *models = directories
    keywords = {"parameters": parameters}
    on_disk = ours.merge(
        models, method, base_model=base if has_base else None, out=tmp_path / "out", **keywords
    )
    assert on_disk == tmp_path / "out"
    objects = [load(path) for path in models]
    in_memory = ours.merge(objects, method, base_model=load(base) if has_base else None, **keywords)
    equal(load(on_disk), in_memory)
    host = SentenceTransformer.merge(
        [str(path) for path in models],
        method,
        base_model=str(base) if has_base else None,
        **keywords,
    )
    for name, value in host.state_dict().items():
        # mergekit's float32 sums have another order for some methods.
        torch.testing.assert_close(in_memory.state_dict()[name], value, rtol=1e-5, atol=1e-6)
    text = ["a b c", "d"]
    assert in_memory.encode(text).shape == (2, 8)
    torch.testing.assert_close(
        torch.from_numpy(in_memory.encode(text)), torch.from_numpy(load(on_disk).encode(text))
    )


def test_inputs_stay_and_modules_come_along(directories: list[Path], tmp_path: Path) -> None:
    objects = [load(path) for path in directories[1:]]
    before = [value.clone() for value in objects[0].state_dict().values()]
    out = ours.merge(objects, out=tmp_path / "saved")
    assert all(
        torch.equal(a, b) for a, b in zip(before, objects[0].state_dict().values(), strict=True)
    )
    assert [type(module).__name__ for module in load(out)] == ["Transformer", "Pooling", "Dense"]


def test_a_base_among_the_models_counts_once(directories: list[Path]) -> None:
    base, a, b = [load(path) for path in directories]
    parameters = {"weight": [9.0, 0.6, 0.4]}
    with_it = ours.merge([base, a, b], "task_arithmetic", base_model=base, parameters=parameters)
    without = ours.merge(
        [a, b], "task_arithmetic", base_model=base, parameters={"weight": [0.6, 0.4]}
    )
    equal(with_it, without)


def test_their_own_method_runs_on_ours(directories: list[Path]) -> None:
    paths = [str(path) for path in directories[1:]]
    host = SentenceTransformer.merge(paths, parameters={"weight": [0.6, 0.4]})
    with ours.installed():
        exact = SentenceTransformer.merge(paths, parameters={"weight": [0.6, 0.4]})
        assert ours.calls() == {"ours": 1}
    equal(exact, host)
    with ours.installed(exact=False):
        close = SentenceTransformer.merge(paths, parameters={"weight": {0: 0.6, 1: 0.4}})
        assert ours.calls() == {"ours": 1}
    equal(close, host)
    equal(SentenceTransformer.merge(paths, parameters={"weight": [0.6, 0.4]}), host)


def test_models_that_do_not_fit_are_refused(directories: list[Path]) -> None:
    one, other = [load(path) for path in directories[1:]]
    other[1].pooling_mode = "cls"
    with pytest.raises(tallies.InputError, match=r"model 1: module '1': .*pooling"):
        ours.merge([one, other])


def test_wrong_requests_are_refused(directories: list[Path], tmp_path: Path) -> None:
    paths = directories[1:]
    with pytest.raises(tallies.InputError, match=r"models: found .*expected a list"):
        ours.merge(str(paths[0]))
    with pytest.raises(tallies.InputError, match=r"weight: found .*one value for each of the 2"):
        ours.merge(paths, parameters={"weight": [1.0]}, out=tmp_path / "out")
    with pytest.raises(tallies.InputError, match="dtype: found 'float13'"):
        ours.merge(paths, dtype="float13")
    (tmp_path / "there").mkdir()
    with pytest.raises(tallies.InputError, match="exists, expected a directory to create"):
        ours.merge([load(path) for path in paths], out=tmp_path / "there")
    with pytest.raises(tallies.InputError, match=r"nope: no such file or directory"):
        ours.merge([paths[0], "nope"])


def test_calls_that_are_not_ours_go_to_the_library(directories: list[Path]) -> None:
    with ours.installed(exact=False), pytest.raises(ValueError, match="At least two models"):
        SentenceTransformer.merge([str(directories[1])])
    assert ours.calls() == {"ours": 0, "arguments": 1}
