"""Patches make the new model elsewhere, alone and in chains."""

from __future__ import annotations

import itertools
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import tallies
from tallies import InputError, apply_patch, make_patch
from tests.support.checkpoints import INDEX, Model, assert_holds, write
from tests.support.command import tree
from tests.support.patches import altered, pair, reshaped

VALUES = ("xor", "difference", "new")


@pytest.fixture
def models(tmp_path: Path) -> tuple[Model, Model]:
    """An old model in two files, and a new one, with their patch."""
    old, new = pair()
    write(tmp_path / "old", old, n_files=2, config={"name": "old"})
    write(tmp_path / "new", new, config={"name": "new"})
    return old, new


@pytest.mark.parametrize("values", VALUES)
@pytest.mark.parametrize("out", ["made", "made.safetensors"])
@pytest.mark.parametrize("kind", ["directory", "file", "bytes"])
def test_makes_the_new_model(
    models: tuple[Model, Model], tmp_path: Path, values: str, out: str, kind: str
) -> None:
    place = {"directory": tmp_path / "p", "file": tmp_path / "p.safetensors"}.get(kind)
    made = make_patch(tmp_path / "old", tmp_path / "new", place, values=values)
    before = tree(tmp_path / "old")
    report = apply_patch(made.data or place, tmp_path / "old", tmp_path / out)  # type: ignore[arg-type]
    assert_holds(tmp_path / out, models[1])
    assert tree(tmp_path / "old") == before
    assert report.new_fingerprint == made.new_fingerprint
    assert report.new_fingerprint == tallies.inspect(tmp_path / out)["fingerprint"]
    if out == "made":
        assert json.loads((tmp_path / "made/config.json").read_text()) == {"name": "new"}


def test_files_and_headers_are_the_old_ones(models: tuple[Model, Model], tmp_path: Path) -> None:
    patch = make_patch(tmp_path / "old", tmp_path / "new").data
    assert patch is not None
    apply_patch(patch, tmp_path / "old", tmp_path / "made")
    names = {"tallies.json", *os.listdir(tmp_path / "old")}
    assert set(os.listdir(tmp_path / "made")) == names
    for file in (tmp_path / "old").glob("*.safetensors"):
        old, made = file.read_bytes(), (tmp_path / "made" / file.name).read_bytes()
        end = 8 + int.from_bytes(old[:8], "little")
        assert (old[:end], len(old)) == (made[:end], len(made))
    # In place makes the same files.
    apply_patch(patch, tmp_path / "old")
    for file in (tmp_path / "old").glob("*.safetensors"):
        assert file.read_bytes() == (tmp_path / "made" / file.name).read_bytes()


def test_tensors_come_and_go(tmp_path: Path) -> None:
    old, new = pair()
    new = reshaped(new)
    write(tmp_path / "old", old, n_files=3)
    make_patch(old, new, tmp_path / "patch")
    apply_patch(tmp_path / "patch", tmp_path / "old", tmp_path / "made")
    assert_holds(tmp_path / "made", new)
    assert (tmp_path / "made" / INDEX).exists()
    with pytest.raises(InputError, match="tensor 'added' is added, and in place only"):
        apply_patch(tmp_path / "patch", tmp_path / "old")
    with pytest.raises(InputError, match="tensor 'added' is added, and only changes of elements"):
        apply_patch(tmp_path / "patch", tmp_path / "made", tmp_path / "back", undo=True)
    assert_holds(tmp_path / "old", old)


def test_torch_files_become_safetensors(tmp_path: Path) -> None:
    old = {"a": torch.arange(12.0).reshape(3, 4).T, "b": torch.ones(5, dtype=torch.bfloat16)}
    torch.save(old, tmp_path / "pytorch_model.bin")
    new = {"a": old["a"] + 1, "b": old["b"]}
    make_patch(tmp_path / "pytorch_model.bin", new, tmp_path / "patch")
    apply_patch(tmp_path / "patch", tmp_path / "pytorch_model.bin", tmp_path / "made")
    expected = {"a": new["a"].contiguous().numpy(), "b": np.float32(new["b"].float().numpy())}
    found = tallies.inspect(tmp_path / "made")
    assert found["n_tensors"] == 2
    again = make_patch(tmp_path / "made", new)
    assert again.n_changed == 0
    assert expected["a"].shape == (4, 3)
    with pytest.raises(InputError, match="no safetensors file"):
        apply_patch(tmp_path / "patch", tmp_path / "pytorch_model.bin")


@pytest.mark.parametrize("values", VALUES)
@pytest.mark.parametrize("kind", ["directory", "file", "bytes"])
def test_coded(models: tuple[Model, Model], tmp_path: Path, values: str, kind: str) -> None:
    pytest.importorskip("zstandard", reason="the extra zstd is not installed")
    place = {"directory": tmp_path / "p", "file": tmp_path / "p.safetensors"}.get(kind)
    found = set()
    for threads in (1, 3):
        made = make_patch(
            *(tmp_path / name for name in ("old", "new")),
            place,
            values=values,
            coder="zstd",
            threads=threads,
            overwrite=True,
        )
        found.add(made.data or json.dumps(sorted(tree(tmp_path / "p")) if place is None else 0))
    assert len(found) == 1
    for threads in (1, 3):
        out = tmp_path / f"made{threads}"
        apply_patch(made.data or place, tmp_path / "old", out, threads=threads)  # type: ignore[arg-type]
        assert_holds(out, models[1])
    apply_patch(made.data or place, tmp_path / "old")  # type: ignore[arg-type]
    assert_holds(tmp_path / "old", models[1])


@pytest.mark.parametrize("values", VALUES)
@pytest.mark.parametrize("in_place", [False, True])
def test_a_chain_is_as_its_links_one_by_one(tmp_path: Path, values: str, in_place: bool) -> None:
    rng = np.random.default_rng(5)
    states = [pair()[0]]
    for share in (0.01, 0.3, 0.002, 1.0, 0.05):
        last = states[-1]
        some = set(rng.choice(sorted(last), 7, replace=False))
        states.append({n: altered(rng, x, share) if n in some else x for n, x in last.items()})
    write(tmp_path / "old", states[0], n_files=2)
    patches: list[Any] = []
    for i, (a, b) in enumerate(itertools.pairwise(states)):
        made = make_patch(a, b, None if i % 2 else tmp_path / f"p{i}", values=values)
        patches.append(made.data or made.path)
    if in_place:
        apply_patch(patches, tmp_path / "old")
        assert_holds(tmp_path / "old", states[-1])
        if values != "new":
            apply_patch(patches, tmp_path / "old", undo=True)
            assert_holds(tmp_path / "old", states[0])
    else:
        report = apply_patch(patches, tmp_path / "old", tmp_path / "made", max_memory="64KiB")
        assert_holds(tmp_path / "made", states[-1])
        assert len(report.patches) == 5
        assert report.patches[1] == "patch 2 (bytes)"


def test_a_chain_with_tensors_that_come_change_and_go(tmp_path: Path) -> None:
    rng = np.random.default_rng(6)
    a, _ = pair()
    b = reshaped(a)
    c = {**b, "added": altered(rng, b["added"], 1.0), "same": altered(rng, b["same"], 0.2)}
    d = {name: one for name, one in c.items() if name not in ("wide", "added")}
    e = {**d, "wide": altered(rng, a["wide"], 0.5)}
    states = [a, b, c, d, e]
    write(tmp_path / "old", a)
    chain = [make_patch(*two).data for two in itertools.pairwise(states)]
    for n in (2, 3, 4):
        apply_patch(chain[:n], tmp_path / "old", tmp_path / f"made{n}")  # type: ignore[arg-type]
        assert_holds(tmp_path / f"made{n}", states[n])


def test_results_replace_their_like_alone(models: tuple[Model, Model], tmp_path: Path) -> None:
    patch = make_patch(tmp_path / "old", tmp_path / "new").data
    assert patch is not None
    for out in ("made", "made.safetensors"):
        apply_patch(patch, tmp_path / "old", tmp_path / out)
        with pytest.raises(InputError, match="--overwrite"):
            apply_patch(patch, tmp_path / "old", tmp_path / out)
        apply_patch(patch, tmp_path / "old", tmp_path / out, overwrite=True)
    with pytest.raises(InputError, match="contains the input"):
        apply_patch(patch, tmp_path / "old", tmp_path / "old", overwrite=True)


def test_small_files_of_the_patch_win_with_a_word(
    models: tuple[Model, Model], tmp_path: Path
) -> None:
    make_patch(tmp_path / "old", tmp_path / "new", tmp_path / "patch")
    (tmp_path / "old/config.json").write_text('{"name": "mine"}')
    (tmp_path / "old/notes.txt").write_text("mine")
    report = apply_patch(tmp_path / "patch", tmp_path / "old", tmp_path / "made")
    assert json.loads((tmp_path / "made/config.json").read_text()) == {"name": "new"}
    assert (tmp_path / "made/notes.txt").read_text() == "mine"
    (warning,) = report.warnings
    assert warning.startswith("config.json: was not the file that ")


def test_taken_back_elsewhere(models: tuple[Model, Model], tmp_path: Path) -> None:
    for values in ("xor", "difference"):
        patch = make_patch(tmp_path / "old", tmp_path / "new", values=values).data
        assert patch is not None
        report = apply_patch(patch, tmp_path / "new", tmp_path / values, undo=True)
        assert_holds(tmp_path / values, models[0])
        assert report.kind == "undone"
        assert json.loads((tmp_path / values / "config.json").read_text()) == {"name": "old"}
    patch = make_patch(tmp_path / "old", tmp_path / "new", values="new").data
    with pytest.raises(InputError, match="its values are 'new' ones, which lead one way"):
        apply_patch(patch, tmp_path / "new", tmp_path / "x", undo=True)  # type: ignore[arg-type]


def test_progress_ends_at_the_whole(models: tuple[Model, Model], tmp_path: Path) -> None:
    for act in (
        lambda progress: make_patch(
            tmp_path / "old", tmp_path / "new", tmp_path / "p", progress=progress
        ),
        lambda progress: apply_patch(
            tmp_path / "p", tmp_path / "old", tmp_path / "made", progress=progress
        ),
        lambda progress: apply_patch(tmp_path / "p", tmp_path / "old", progress=progress),
    ):
        moved: list[tuple[int, int]] = []
        act(lambda done, whole, moved=moved: moved.append((done, whole)))
        assert moved[-1][0] == moved[-1][1]
