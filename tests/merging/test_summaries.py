"""The text of plans and reports: what it tells, and how wide it is."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tallies import merge, plan
from tallies.merging.explain import costs, explain, in_time
from tallies.merging.facts import of_effect
from tallies.merging.summary import summary
from tallies.spec.choices import Semantics
from tests.support.checkpoints import write
from tests.support.merges import layered, request
from tests.support.methods import PAIRS
from tests.support.recipes import complete


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current directory, with ``base``, ``m0`` and ``m1``."""
    monkeypatch.chdir(tmp_path)
    for seed, name in enumerate(("base", "m0", "m1")):
        write(Path(name), layered(seed))
    return tmp_path


def rows(text: str, label: str) -> list[str]:
    """The texts behind a label, each on one line."""
    found: list[str] = []
    for line in text.splitlines():
        if line[:11].strip():
            found.append("")
            mine = line[:11].strip() == label
        if mine:
            found[-1] = f"{found[-1]} {line[11:].strip()}".strip()
    return [one for one in found if one]


# Their models have no parameters, and share each element in another way.
WITHOUT_SHARES = ("nearswap", "passthrough")


@pytest.mark.parametrize(("name", "semantics"), PAIRS)
def test_every_method_has_a_number_for_every_model(
    models: Path, name: str, semantics: Semantics
) -> None:
    recipe = complete(name, semantics)
    made, report = plan(recipe), merge(recipe, "out")
    for text in (str(made), str(report)):
        assert max(map(len, text.replace(f"{models}/", "").splitlines())) <= 80
        for parameter in of_effect(made, made.config.constants()):
            assert parameter in " ".join(rows(text, "parameters"))
    known = rows(str(report), "model")
    assert len(known) == len(recipe["models"])
    for line, entry in zip(known, recipe["models"], strict=True):
        path, _, facts = line.partition(": ")
        assert path.endswith(entry["model"])
        assert any(letter.isdigit() for letter in facts) or name in WITHOUT_SHARES
    for number, expert in enumerate(report.experts):
        tensor = made.to_json_dict()["tensors"]["model.norm.weight"]
        for parameter, value in expert.parameters.items():
            assert tensor[parameter][number] == value


GRADED = {"density": [0.5, 0.1], "scope": "tensor"}


def test_what_varies_is_shown_by_layer(models: Path) -> None:
    recipe = complete("ties", "paper", parameters=GRADED, post_scale=[1, 2])
    recipe["models"][0]["parameters"] = {"weight": {"filter": "mlp", "value": 0.25}}
    made = plan(recipe)
    text = str(made)
    assert rows(text, "layers") == ["5 of model.layers"]
    assert rows(text, "model")[0].endswith("m0: density 0.1 to 0.5, weight 0.25 to 1")
    density = "model.layers 0=0.5, 1=0.4, 2=0.3, 3=0.2, 4=0.1"
    by_layer = rows(text, "by layer")
    assert [density in line for line in by_layer] == [True, True, False, False]
    assert by_layer[2].startswith("weight of")
    assert "outside the layers: 1 model.layers 0-4=0.25 to 1" in by_layer[2]
    assert "0=1, 1=1.25, 2=1.5, 3=1.75, 4=2" in by_layer[3]
    said = made.to_json_dict()
    assert said["layers"] == [f"model.layers.{i}" for i in range(5)]
    assert said["tensors"]["model.layers.4.mlp.weight"]["factor"] == 2
    assert said["models"][0]["parameters"]["weight"] == [0.25, 1]
    report = merge(recipe, "out")
    for told in (text, str(report)):
        assert "post_scale [1.0, 2.0]" in told
    assert report.experts[1].parameters == {"density": [0.1, 0.5], "weight": 1}


def test_names_without_numbers_have_no_layers(tmp_path: Path) -> None:
    models = [write(tmp_path / name, {"w": np.float32([1, 2])}) for name in ("a", "b")]
    recipe = request("linear", models)
    assert rows(str(plan(recipe)), "layers") == ["none found in the names"]


def test_long_words_stay_whole_but_on_a_terminal(tmp_path: Path) -> None:
    long = tmp_path / ("x" * 120)
    models = [write(long / name, {"w": np.float32([1, 2])}) for name in ("a", "b")]
    recipe = request("linear", models)
    made = plan(recipe)
    report = merge(recipe, tmp_path / "out")
    for path in models:
        assert str(path) in str(made)
        assert str(path) in str(report)
    for columns in (80, 60, 120):
        for text in (explain(made, screen=columns), summary(report, columns)):
            assert max(map(len, text.splitlines())) <= columns
            assert "..." in text


def test_a_warning_is_one_line_for_programs_and_wraps_for_people(models: Path) -> None:
    report = merge(complete("task_arithmetic", "paper") | {"models": [{"model": "m0"}] * 2}, "out")
    (warning,) = report.warnings
    assert f"warning    {warning}" in str(report).splitlines()
    wrapped = summary(report, 60)
    assert max(map(len, wrapped.splitlines())) <= 60


def test_a_plan_tells_memory_time_and_files(models: Path) -> None:
    made = plan(complete("iso_c", "paper", max_shard_size=600))
    text = explain(made, max_bytes=200_000_000, threads=3, out="there")
    (memory,) = rows(text, "memory")
    matrix = made.to_json_dict()["largest_matrix_bytes"]
    said = costs(made, 200_000_000, 3)
    assert said["memory_bytes"] == 290_000_000 + min(3 * matrix, 200_000_000)
    assert memory.startswith(f"about {said['memory_bytes'] / 1e6:.2f} MB in 3 threads, buffers up")
    assert f"the largest matrix {matrix / 1e6:.2f} MB" in memory
    assert rows(text, "writes")[0].endswith(
        "to there: model-00001-of-00006.safetensors, ..., model-00006-of-00006.safetensors"
    )
    (time,) = rows(text, "time")
    assert time.startswith(in_time(made.bytes_moved / 1e9))


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.5, "below 1 s"), (59.6, "60 s"), (7261, "2 h 1 min"), (180, "3 min")]
)
def test_times(seconds: float, text: str) -> None:
    assert in_time(seconds) == text


def test_votes_that_were_combined_again_are_told(models: Path) -> None:
    report = merge(complete("dare_ties", "paper"), "out")
    assert report.reads is None and rows(str(report), "reads") == []
    again = replace(report, combined_again=report.parameters // 4)
    assert rows(str(again), "reads") == ["25% again, for votes"]
