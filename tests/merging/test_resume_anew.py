"""Runs that must not go on from where another stopped."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest

from tallies import InputError, StorageError, merge
from tallies.engine.passes import Passes
from tallies.merging import journal
from tests.support import adapters, stages
from tests.support.checkpoints import FILE, data_bytes, write
from tests.support.command import tree
from tests.support.resuming import FILES, Recipe, Run, crash, what_it_says, workspace
from tests.support.stages import OPTIONS

# Files that a resumed run must not take over.


def refused(recipe: Recipe, out: Path, *parts: str, **options: Any) -> None:
    """Assert that no run goes on there, and that the one that stopped stays as it was."""
    before = tree(workspace(out))
    with pytest.raises(InputError) as error:
        merge(recipe, out, resume=True, **{**OPTIONS, **options})
    for part in (*parts, "leave out --resume"):
        assert part in str(error.value)
    assert tree(workspace(out)) == before


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"parameters": {"density": 0.5}}, "parameters.density was 0.6 and is 0.5"),
        ({"parameters": {"density": 0.6, "scale": 0.5}}, "parameters.scale was 1.0 and is 0.5"),
        ({"semantics": "mergekit"}, "semantics was 'paper' and is 'mergekit'"),
        (
            {"merge_method": "task_arithmetic", "parameters": {}},
            "merge_method was 'ties' and is 'task_arithmetic', ",
        ),
        ({"out_dtype": "float32"}, "out_dtype was not there and is 'F32'"),
        ({"nonfinite": "warn"}, "nonfinite was 'error' and is 'warn'"),
    ],
    ids=str,
)
def test_another_recipe_is_refused_and_starts_anew_without_resume(
    recipe: Recipe, out: Path, change: Recipe, words: str
) -> None:
    crash(recipe, out, 3)
    other = {**recipe, **change}
    refused(other, out, "the recipe changed: ", words, "repeat the earlier recipe to go on")
    report = merge(other, out, **OPTIONS)
    whole = merge(other, out.parent / "whole", **OPTIONS)
    assert what_it_says(report) == what_it_says(whole)
    assert data_bytes(out) == data_bytes(out.parent / "whole")


def test_the_run_that_stopped_goes_on_after_a_refusal(recipe: Recipe, out: Path) -> None:
    crash(recipe, out, 3)
    refused({**recipe, "semantics": "mergekit"}, out, "semantics")
    assert Run(recipe, out).combined == FILES[3:]


def test_a_run_that_finished_no_file_is_begun_anew(recipe: Recipe, out: Path) -> None:
    crash(recipe, out, 0)
    assert Run({**recipe, "semantics": "mergekit"}, out).report is not None


def test_fewer_files_than_the_last_time(recipe: Recipe, out: Path) -> None:
    crash(recipe, out, 3)
    refused(recipe, out, "max_shard_size was ", " and is '5GB'", max_shard_size="5GB")
    merge(recipe, out, max_shard_size="5GB")
    assert sorted(os.listdir(out)) == [
        *("README.md", "config.json", "journal", "mergekit_config.yml"),
        *(FILE, "tallies.json", "tokenizer"),
    ]


def touch(path: Path) -> None:
    when = path.stat().st_mtime + 1
    os.utime(path, (when, when))


@pytest.mark.parametrize("model", ["base", "y"])
def test_a_changed_input_is_refused_and_starts_anew_without_resume(
    tmp_path: Path, out: Path, model: str
) -> None:
    recipe = stages.models(tmp_path / "models")
    crash(recipe, out, 3)
    file = next((tmp_path / "models" / model).glob("*00001*"))
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    touch(file)
    refused(recipe, out, f"an input changed: {file} was written again", "restore it to go on")
    file.write_bytes(content + b" ")
    with pytest.raises(InputError):
        merge(recipe, out, resume=True, **OPTIONS)  # the header does not fit the file
    file.write_bytes(content)
    merge(recipe, out, **OPTIONS)
    merge(recipe, out.parent / "whole", **OPTIONS)
    assert data_bytes(out) == data_bytes(out.parent / "whole")


def test_an_input_that_changes_meanwhile_is_told_the_next_time(tmp_path: Path, out: Path) -> None:
    recipe = stages.models(tmp_path / "models")
    file = next((tmp_path / "models/z").glob("*00001*"))
    settle = Passes.settle_majority

    def touching(passes: Passes) -> None:
        settle(passes)
        touch(file)

    with (
        mock.patch.object(Passes, "settle_majority", touching),
        pytest.raises(StorageError, match="changed while it was being read"),
    ):
        merge(recipe, out, resume=True, **OPTIONS)
    refused(recipe, out, f"an input changed: {file} was written again")


def test_another_version_is_refused(recipe: Recipe, out: Path) -> None:
    with mock.patch.object(journal, "__version__", "0.0.0"):
        crash(recipe, out, 3)
    refused(recipe, out, "tallies changed: version was '0.0.0' and is ")


def test_without_resume_nothing_is_taken_over(
    recipe: Recipe, result: dict[str, bytes], out: Path
) -> None:
    crash(recipe, out, 3)
    for file in (workspace(out) / "new").iterdir():
        file.write_bytes(b"?" * file.stat().st_size)
    (workspace(out) / "new/more").mkdir()
    (workspace(out) / "new/more/junk").touch()
    merge(recipe, out, **OPTIONS)
    assert data_bytes(out) == result
    assert os.listdir(out.parent) == ["out"]


@pytest.mark.parametrize("file", ["adapter_config.json", "adapter_model.safetensors"])
def test_an_adapter_that_changed_in_secret_is_refused(tmp_path: Path, out: Path, file: str) -> None:
    model = adapters.model(np.dtype(np.float32))
    base = write(tmp_path / "models/base", model, config={})
    lora = adapters.lora(model, lora_alpha=99).write(tmp_path / "models/lora")
    recipe = {"merge_method": "linear", "models": [f"{base}+{lora}"], "parameters": {"weight": 1}}
    crash(recipe, out, 2, max_shard_size=3000)
    place = lora / file
    before, content = place.stat(), place.read_bytes()
    changed = content.replace(b'"lora_alpha": 99', b'"lora_alpha": 11')
    if file.endswith(".safetensors"):
        changed = content[:-1] + bytes([content[-1] ^ 1])
    assert changed != content
    place.write_bytes(changed)
    os.utime(place, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert place.stat().st_size == before.st_size
    refused(recipe, out, f"an input changed: {place} was written again", max_shard_size=3000)
    place.write_bytes(content)
    os.utime(place, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert Run(recipe, out, max_shard_size=3000).report is not None
