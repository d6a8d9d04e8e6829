"""The command mergekit-yaml."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tallies.cli import mergekit_yaml
from tests.support.checkpoints import data_bytes
from tests.support.command import tallies, tree
from tests.support.command_line import printed, refused

RECIPE = """
merge_method: ties
base_model: base
models:
- {model: a, parameters: {weight: 1, density: 0.5}}
- {model: b, parameters: {weight: 0.5, density: 0.5, t: 1}}
parameters: {int8_mask: true}
"""


@pytest.fixture(autouse=True)
def recipe(models: Path) -> Path:
    (models / "kit.yml").write_text(RECIPE)
    (models / "base/tokenizer_config.json").write_text("{}")
    return models / "kit.yml"


def test_the_file_is_read_in_mergekits_semantics(models: Path) -> None:
    text = printed("mergekit-yaml", "kit.yml", "out")
    assert "ties (mergekit semantics) of 2 models" in text
    printed("merge", "kit.yml", "apart", "--semantics", "mergekit")
    assert data_bytes(models / "out") == data_bytes(models / "apart")
    assert (models / "out/tokenizer_config.json").read_text() == "{}"


def test_options_that_mean_something_do_it(models: Path) -> None:
    printed(
        *("mergekit-yaml", "kit.yml", "out", "--no-copy-tokenizer", "--no-write-model-card"),
        *("--random-seed", 7, "--out-shard-size", 12, "-j", 1, "--device", "cpu", "--quiet"),
        *("--allow-crimes", "--transformers-cache", "cache"),
    )
    report = json.loads((models / "out/tallies.json").read_text())
    assert report["recipe"]["seed"] == 7
    assert report["recipe"]["architecture"] == "any"
    assert report["recipe"]["copy_tokenizer"] is False
    assert report["threads"] == 1
    assert len(report["output"]["files"]) == 2
    assert {path.name for path in (models / "out").glob("*.*")} == {
        "config.json",
        "tallies.json",
        "model.safetensors.index.json",
        *report["output"]["files"],
    }


def test_a_result_without_a_tokenizer_repeats_itself(models: Path) -> None:
    printed("mergekit-yaml", "kit.yml", "out", "--no-copy-tokenizer", "--quiet")
    printed("merge", "out/tallies.json", "again", "--quiet")
    assert not (models / "again/tokenizer_config.json").exists()


@pytest.mark.parametrize(
    ("size", "n_bytes"),
    [("5B", 5 * 10**9), ("20k", 20_000), ("3M", 3 * 10**6), ("7", 7), ("5GB", "5GB")],
)
def test_sizes_are_those_of_mergekit(models: Path, size: str, n_bytes: int | str) -> None:
    printed("mergekit-yaml", "kit.yml", "out", "--out-shard-size", size, "--quiet")
    report = json.loads((models / "out/tallies.json").read_text())
    assert report["recipe"]["max_shard_size"] == str(n_bytes)


def test_no_bound_for_shards(models: Path) -> None:
    printed("mergekit-yaml", "kit.yml", "out", "--out-shard-size", "0", "--quiet")
    assert (models / "out/model.safetensors").exists()


def test_options_that_ask_for_nothing_say_so_once(models: Path) -> None:
    idle = ["--lazy-unpickle", "--lora-merge-cache", "x", "--write-threads", 2, "-vv"]
    idle += ["--lora-merge-dtype", "bfloat16"]
    ended = tallies("mergekit-yaml", "kit.yml", "out", *idle)
    assert ended.status == 0
    (line,) = ended.err.splitlines()
    assert line.startswith("tallies: nothing to do for --lora-merge-cache (adapters are added")
    for one in ("--lazy-unpickle (files", "--write-threads (threads", "-v (there is"):
        assert one in line
    assert "--multi-gpu" not in line
    assert printed("mergekit-yaml", "kit.yml", "out", "--overwrite", "--no-async-write")


def test_stages(models: Path) -> None:
    (models / "two.yml").write_text(
        f"name: mid\nmerge_method: linear\nmodels: [{{model: a, parameters: {{weight: 1}}}}]\n---"
        f"{RECIPE.replace('model: a', 'model: mid')}"
    )
    printed("mergekit-yaml", "two.yml", "out")
    printed("mergekit-yaml", "kit.yml", "apart")
    assert data_bytes(models / "out") == data_bytes(models / "apart")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--no-safe-serialization"], "results are safetensors"),
        (["--device", "xpu"], "--device xpu: is not done"),
        (["--device", "cuda:1"], "--device cuda:1: is not done"),
        (["--out-shard-size", "5 quarts"], "size '5 quarts'"),
        (["--random-seed", "-1"], "seed"),
        (["--lora-merge-dtype", "bogus"], "--lora-merge-dtype: 'bogus' is not known"),
        (["--write-threads", "x"], "'x' is not a valid integer"),
        (["--gate"], "No such option"),
    ],
)
def test_refusals(models: Path, arguments: list[str], words: str) -> None:
    before = tree(models)
    refused(["mergekit-yaml", "kit.yml", "out", *arguments], words)
    assert tree(models) == before


def test_a_file_in_other_semantics_is_mergekits_all_the_same(models: Path) -> None:
    (models / "kit.yml").write_text(RECIPE + "semantics: paper\n")
    assert "mergekit semantics" in printed("mergekit-yaml", "kit.yml", "out")


def test_auto_is_a_device_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    from tallies import cuda

    monkeypatch.setattr(cuda, "devices", lambda: [])
    assert mergekit_yaml._device("auto", None, False) == "cpu"
    monkeypatch.setattr(cuda, "devices", lambda: ["one"])
    assert mergekit_yaml._device("auto", None, False) == "cuda"
    assert mergekit_yaml._device(None, None, True) == "cuda"
    assert mergekit_yaml._device(None, True, False) == "cuda"
