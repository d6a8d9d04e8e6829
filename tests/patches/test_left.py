"""Recovery knows the model that its journal is of, even where every element was to change."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import numpy as np
import pytest

import tallies
from tallies import InputError, apply_patch, make_patch
from tests.support.checkpoints import Model, assert_holds, write
from tests.support.command import tree
from tests.support.patches import altered, pair

from .test_recovery import interrupt, put, undo


@pytest.fixture
def dense(tmp_path: Path) -> tuple[Model, Model]:
    """The model ``dense``, and the patch ``dense-patch`` that changes every element of it."""
    rng = np.random.default_rng(7)
    old = pair(n=20_000)[0]
    new = {name: altered(rng, one, 1.0) for name, one in old.items()}
    assert all(old[name].tobytes() != new[name].tobytes() for name in old if old[name].size)
    write(tmp_path / "dense", old)
    write(tmp_path / "dense-new", new)
    make_patch(tmp_path / "dense", tmp_path / "dense-new", tmp_path / "dense-patch")
    return old, new


@pytest.mark.parametrize("name", ["wide", "t4.U8", "scalar"])
def test_another_model_is_left_alone_where_every_element_is_in_the_journal(
    dense: tuple[Model, Model], tmp_path: Path, name: str
) -> None:
    place = tmp_path / "dense"
    interrupt(tmp_path / "dense-patch", place)
    halfway = tree(place)
    rng = np.random.default_rng(8)
    put(place, {**dense[0], name: altered(rng, dense[0][name], 1.0)})
    before = tree(place)
    words = f"model.safetensors: is not the model .* tensor '{name}' has values that are neither"
    with pytest.raises(InputError, match=words):
        apply_patch(tmp_path / "dense-patch", place)
    assert tree(place) == before
    for model in (*dense, None):
        if model is None:
            (place / "model.safetensors").write_bytes(halfway["model.safetensors"])
        else:
            put(place, model)
        shutil.copytree(place, tmp_path / "copy")
        undo(tmp_path / "copy")
        assert_holds(tmp_path / "copy", dense[0])
        shutil.rmtree(tmp_path / "copy")


def test_a_write_that_ended_within_an_element_is_taken_back(
    dense: tuple[Model, Model], tmp_path: Path
) -> None:
    place = tmp_path / "dense"
    file = place / "model.safetensors"
    old = file.read_bytes()
    new = (tmp_path / "dense-new/model.safetensors").read_bytes()
    interrupt(tmp_path / "dense-patch", place)
    shutil.copytree(place, tmp_path / "start")
    for end in (len(old) - 10_001, len(old) - 5, len(old) // 2 | 1):
        shutil.rmtree(place)
        shutil.copytree(tmp_path / "start", place)
        file.write_bytes(new[:end] + old[end:])
        undo(place)
        assert file.read_bytes() == old


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("0000.safetensors", lambda data: data[:-1] + bytes([data[-1] ^ 1])),
        ("0000.safetensors", lambda data: data[: len(data) // 2]),
        ("0000.safetensors", lambda data: data[:50]),
        ("0000.safetensors", None),
        ("0000.new", lambda data: bytes([data[0] ^ 1]) + data[1:]),
        ("0000.new", lambda data: data[: len(data) // 2]),
        ("0000.new", None),
        ("journal.json", lambda data: b"{}"),
        ("journal.json", None),
    ],
)
def test_a_damaged_journal_is_told_of_as_one(
    dense: tuple[Model, Model],
    tmp_path: Path,
    name: str,
    damage: Callable[[bytes], bytes] | None,
) -> None:
    place = tmp_path / "dense"
    interrupt(tmp_path / "dense-patch", place)
    file = place / ".tallies-apply" / name
    if damage is None:
        file.unlink()
    else:
        file.write_bytes(damage(file.read_bytes()))
    before = tree(place)
    with pytest.raises(InputError, match="being applied to it in place"):
        tallies.inspect(place)
    with pytest.raises(InputError, match="part of the journal of a change in place") as raised:
        apply_patch([], place, undo=True)
    said = str(raised.value)
    assert str(file) in said
    assert "copy or make" not in said
    assert said.endswith(f"in its place, old or new, and remove {place / '.tallies-apply'}")
    before.pop(".tallies-apply.lock", None)
    assert tree(place) == before
    put(place, dense[1])
    shutil.rmtree(place / ".tallies-apply")
    apply_patch(tmp_path / "dense-patch", place, undo=True)
    assert_holds(place, dense[0])


def interrupted_with_small_files(tmp_path: Path, *, links: bool) -> dict[str, bytes | str | None]:
    """Interrupt a change of ``dense`` and of small files of it; return the files from before."""
    place, new = tmp_path / "dense", tmp_path / "dense-new"
    for name, texts in (("config.json", ("old", "new")), ("empty", ("", "more"))):
        for folder, text in zip((place, new), texts, strict=True):
            (folder / name).write_text(text)
    before = tree(place)
    make_patch(place, new, tmp_path / "with-small")
    refused = mock.Mock(side_effect=PermissionError)
    with mock.patch("os.link", os.link if links else refused):
        interrupt(tmp_path / "with-small", place)
    return before


def test_a_record_with_a_bit_that_is_another_restores_nothing(
    dense: tuple[Model, Model], tmp_path: Path
) -> None:
    place = tmp_path / "dense"
    before = interrupted_with_small_files(tmp_path, links=True)
    record = place / ".tallies-apply/journal.json"
    text = record.read_bytes()
    halfway = tree(place)
    for at in range(0, len(text), 3):
        damaged = bytearray(text)
        damaged[at] ^= 1 << at % 8
        if damaged.split() == text.split():
            continue
        record.write_bytes(damaged)
        with pytest.raises(InputError, match="being applied to it in place"):
            tallies.inspect(place)
        with pytest.raises(InputError, match="part of the journal of a change in place"):
            apply_patch([], place, undo=True)
        left = {name: data for name, data in tree(place).items() if not name.endswith(".lock")}
        assert left == {**halfway, ".tallies-apply/journal.json": bytes(damaged)}
    record.write_bytes(text)
    undo(place)
    assert tree(place) == before


@pytest.mark.parametrize("name", ["config.json", "empty"])
@pytest.mark.parametrize("damage", [b"another", None])
def test_an_old_small_file_that_is_damaged_is_told_of(
    dense: tuple[Model, Model], tmp_path: Path, name: str, damage: bytes | None
) -> None:
    place = tmp_path / "dense"
    before = interrupted_with_small_files(tmp_path, links=False)
    (place / name).write_bytes((tmp_path / "dense-new" / name).read_bytes())
    kept = place / ".tallies-apply/old" / name
    old = kept.read_bytes()
    kept.unlink() if damage is None else kept.write_bytes(damage)
    halfway = tree(place)
    what = "missing" if damage is None else "damaged"
    with pytest.raises(InputError, match=f"old/{name}: is {what}; it is part of the journal"):
        apply_patch([], place, undo=True)
    assert {n: data for n, data in tree(place).items() if not n.endswith(".lock")} == halfway
    kept.unlink(missing_ok=True)
    (place / name).write_bytes(old)  # as a run leaves it that is killed after putting it back
    undo(place)
    assert tree(place) == before
