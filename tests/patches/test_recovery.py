"""Recovery writes only what is its own, and is met by whatever path leads to the files."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest

import tallies
from tallies import InputError, StorageError, apply_patch, make_patch
from tallies.checkpoint.json_text import object_checksum
from tallies.patches.in_place import InPlace
from tallies.patches.journal import Journal
from tallies.patches.layout import parts_of
from tests.support.checkpoints import Model, assert_holds, write
from tests.support.command import tree
from tests.support.patches import altered, pair


class Killed(BaseException):
    """The end of a run that takes nothing back."""


def interrupt(patch: Path, to: Path, **options: Any) -> None:
    """Apply a patch in place up to the first half of the tensors, as a run that is killed there."""
    write_all = InPlace._write

    def write_half(self: InPlace, works: Any, *arguments: Any, **named: Any) -> None:
        write_all(self, works[: len(works) // 2], *arguments, **named)
        raise Killed

    with (
        mock.patch.object(InPlace, "_write", write_half),
        mock.patch.object(InPlace, "_take_back"),
        pytest.raises(Killed),
    ):
        apply_patch(patch, to, **options)


def pipeline(root: Path, model: Model) -> Path:
    for folder in ("unet", "vae"):
        write(root / folder, model, config={"_class_name": "X"})
        (root / folder / "model.safetensors").rename(
            root / folder / "diffusion_pytorch_model.safetensors"
        )
    index = {"_class_name": "P", "unet": ["diffusers", "A"], "vae": ["diffusers", "B"]}
    (root / "model_index.json").write_text(json.dumps(index))
    return root


@pytest.fixture
def models(tmp_path: Path) -> tuple[Model, Model]:
    """Two models as directories and as pipelines, and the patches between these."""
    old, new = pair(n=20_000)
    for name, model in (("old", old), ("new", new)):
        write(tmp_path / name, model, config={"name": name})
        pipeline(tmp_path / f"{name}-pipe", model)
    make_patch(tmp_path / "old", tmp_path / "new", tmp_path / "patch")
    make_patch(tmp_path / "old-pipe", tmp_path / "new-pipe", tmp_path / "patch-pipe")
    return old, new


def put(place: Path, model: Model) -> None:
    """Put a file of a model into a directory, over the one that is there."""
    made = write(place.with_name("put"), model)
    (made / "model.safetensors").replace(place / "model.safetensors")
    shutil.rmtree(made)


def undo(path: Path) -> None:
    assert apply_patch([], path, undo=True).kind == "restored"


# Models that are others.


def test_another_model_is_left_alone(models: tuple[Model, Model], tmp_path: Path) -> None:
    place = tmp_path / "old"
    interrupt(tmp_path / "patch", place)
    rng = np.random.default_rng(5)
    for other in (
        {name: altered(rng, one, 0.9) for name, one in models[0].items()},
        {**models[0], "same": altered(rng, models[0]["same"], 1.0)},
        {"same": models[0]["same"]},
    ):
        put(place, other)
        before = tree(place)
        with pytest.raises(InputError, match="is not the model whose change was interrupted") as e:
            apply_patch([], place, undo=True)
        assert f"remove {place / '.tallies-apply'} to keep what is there" in str(e.value)
        before.pop(".tallies-apply.lock", None)
        assert tree(place) == before
    put(place, models[1])
    undo(place)
    assert_holds(place, models[0])


def test_another_variant_is_left_alone(models: tuple[Model, Model], tmp_path: Path) -> None:
    place = tmp_path / "old"
    (place / "model.safetensors").rename(place / "model.fp16.safetensors")
    rng = np.random.default_rng(6)
    put(place, {name: altered(rng, one, 0.9) for name, one in models[0].items()})
    before = tree(place)
    interrupt(tmp_path / "patch", place, variant="fp16")
    assert tallies.inspect(place)
    with pytest.raises(InputError, match="being applied to it in place"):
        tallies.inspect(place / "model.fp16.safetensors")
    undo(place)
    assert tree(place) == before


# Paths.


@pytest.mark.parametrize("to", ["old", "old/model.safetensors", "link"])
@pytest.mark.parametrize("by", ["old", "old/model.safetensors", "link", "link/model.safetensors"])
def test_a_directory_and_its_file_are_one(
    models: tuple[Model, Model], tmp_path: Path, to: str, by: str
) -> None:
    (tmp_path / "link").symlink_to("old")
    (tmp_path / "file.safetensors").symlink_to("old/model.safetensors")
    before = tree(tmp_path)
    interrupt(tmp_path / "patch", tmp_path / to)
    for path in (by, "file.safetensors"):
        with pytest.raises(InputError, match="being applied to it in place"):
            tallies.inspect(tmp_path / path)
    undo(tmp_path / by)
    assert tree(tmp_path) == before


@pytest.mark.parametrize("to", ["", "unet"])
@pytest.mark.parametrize("by", ["", "unet", "unet/diffusion_pytorch_model.safetensors"])
def test_a_pipeline_and_its_parts_are_one(
    models: tuple[Model, Model], tmp_path: Path, to: str, by: str
) -> None:
    place = tmp_path / "old-pipe"
    before = tree(tmp_path)
    interrupt(tmp_path / ("patch" if to else "patch-pipe"), place / to)
    for path in ("", by, "unet"):
        with pytest.raises(InputError, match="being applied to it in place"):
            tallies.inspect(place / path)
    if to:
        assert tallies.inspect(place / "vae")
    undo(place / by)
    assert tree(tmp_path) == before


def test_a_part_that_was_moved_away_is_refused(models: tuple[Model, Model], tmp_path: Path) -> None:
    place = tmp_path / "old-pipe"
    before = tree(place)
    interrupt(tmp_path / "patch-pipe", place)
    (place / "unet").rename(tmp_path / "away")
    with pytest.raises(InputError, match="was moved away from a model"):
        tallies.inspect(tmp_path / "away")
    (tmp_path / "away").rename(place / "unet")
    shutil.move(place, tmp_path / "elsewhere")
    undo(tmp_path / "elsewhere")
    assert tree(tmp_path / "elsewhere") == before


@pytest.mark.parametrize("step", ["start", "end"])
def test_notes_of_runs_that_end_early(
    models: tuple[Model, Model], tmp_path: Path, step: str
) -> None:
    place = tmp_path / "old-pipe"
    write_notes = Journal._write_notes

    def note_and_end(self: Journal, record: Any) -> None:
        write_notes(self, record)
        raise Killed

    def nothing(self: Journal) -> None:
        pass

    if step == "end":  # The change was complete, and its journal only not removed.
        with mock.patch.object(Journal, "sweep", nothing):
            apply_patch(tmp_path / "patch-pipe", place)
    else:
        with (
            mock.patch.object(Journal, "_write_notes", note_and_end),
            mock.patch.object(Journal, "sweep", nothing),
            pytest.raises(Killed),
        ):
            apply_patch(tmp_path / "patch-pipe", place)
    assert (place / "unet/.tallies-apply.of").read_text() == ".."
    assert tallies.inspect(place / "unet")
    apply_patch(tmp_path / "patch-pipe", place, undo=step == "end")
    assert not list(place.rglob(".*"))


@pytest.mark.parametrize("held", ["", "unet", "vae"])
@pytest.mark.parametrize("to", ["", "unet", "unet/diffusion_pytorch_model.safetensors"])
def test_parts_lock_each_other(
    models: tuple[Model, Model], tmp_path: Path, held: str, to: str
) -> None:
    place = tmp_path / "old-pipe"
    lock = os.open(place / held / ".tallies-apply.lock", os.O_RDWR | os.O_CREAT)
    fcntl.flock(lock, fcntl.LOCK_EX)
    patch = tmp_path / ("patch" if to else "patch-pipe")
    if not to or held == "unet":
        with pytest.raises(InputError, match="another run is changing it"):
            apply_patch(patch, place / to)
    else:
        apply_patch(patch, place / to)
    os.close(lock)


@pytest.mark.parametrize(
    "change",
    [
        lambda record: record["files"].update({"../new/model.safetensors": ""}),
        lambda record: record["files"].update({"link/model.safetensors": ""}),
        lambda record: record["small_files"].update({"../new/config.json": True}),
        lambda record: record["made"].append(".."),
        lambda record: record.update(n_links=10**9),
    ],
)
def test_a_journal_reaches_nothing_outside(
    models: tuple[Model, Model], tmp_path: Path, change: Callable[[Any], object]
) -> None:
    place = tmp_path / "old"
    interrupt(tmp_path / "patch", place)
    (place / "link").symlink_to(tmp_path / "new")
    path = place / ".tallies-apply/journal.json"
    record = json.loads(path.read_text())
    change(record)
    record.pop("checksum")
    path.write_text(json.dumps({**record, "checksum": object_checksum(record)}))
    before = tree(tmp_path)
    with pytest.raises(InputError, match=r"is damaged; it is part of the journal|is a link"):
        apply_patch([], place, undo=True)
    before.pop("old/.tallies-apply.lock", None)
    assert tree(tmp_path) == before


# Small files.


@pytest.mark.parametrize("links", [True, False])
def test_small_files_need_no_room_to_go_back(
    models: tuple[Model, Model], tmp_path: Path, links: bool
) -> None:
    place = tmp_path / "old"
    (tmp_path / "new/sub").mkdir()
    (tmp_path / "new/sub/added.json").write_text("{}")
    (place / "removed.json").write_text("{}")
    make_patch(place, tmp_path / "new", tmp_path / "patch", overwrite=True)
    before = tree(tmp_path)
    replace, moved = os.replace, []

    def one_only(source: Path, target: Path) -> None:
        if len(moved) == 1 and "/new/" in str(source):
            raise OSError(errno.ENOSPC, "No space left on device", str(target))
        moved.append(target)
        replace(source, target)

    refused = mock.Mock(side_effect=OSError(errno.EPERM, "no links"))
    with (
        mock.patch("os.replace", one_only),
        mock.patch("os.link", os.link if links else refused),
        pytest.raises(StorageError, match="No space left on device"),
    ):
        apply_patch(tmp_path / "patch", place)
    assert moved
    assert tree(tmp_path) == before


def test_small_files_are_checked_before(models: tuple[Model, Model], tmp_path: Path) -> None:
    place = tmp_path / "old"
    (tmp_path / "elsewhere").mkdir()
    for folder in ("new/sub", "old/sub"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "x.json").write_text(folder)
    make_patch(place, tmp_path / "new", tmp_path / "patch", overwrite=True)
    shutil.rmtree(place / "sub")
    before: dict[str, Any] = {}

    def is_refused(words: str) -> None:
        before.update(tree(tmp_path))
        with pytest.raises(InputError, match=words):
            apply_patch(tmp_path / "patch", place)
        assert tree(tmp_path) == before

    (place / "sub").symlink_to(tmp_path / "elsewhere")
    is_refused(r"sub/x\.json: is a link, or in a directory that is one")
    before.clear()
    (place / "sub").unlink()
    (place / "sub").write_text("a file")
    is_refused("sub: stands where a patch has sub/x.json")
    (place / "sub").unlink()
    before.clear()
    (place / "config.json").rename(tmp_path / "elsewhere/config.json")
    (place / "config.json").symlink_to(tmp_path / "elsewhere/config.json")
    is_refused(r"config\.json: is a link")
    (place / "config.json").unlink()
    before.clear()
    with mock.patch("os.access", lambda path, mode: Path(path) != place or mode == os.W_OK):
        is_refused(r"config\.json: cannot be written; name an output")


# Names and shapes.


@pytest.mark.parametrize("coder", ["none", "zstd"])
@pytest.mark.parametrize(
    ("names", "small"),
    [
        (["file:foo"], ["foo::new", "foo"]),
        (["file:foo", "q"], ["foo::0.values", "foo::0.positions.frames", "foo::new::file"]),
    ],
)
def test_names_of_small_files_and_of_tensors_are_apart(
    tmp_path: Path, names: list[str], small: list[str], coder: str
) -> None:
    old: Model = {name: np.zeros(300, np.uint8) for name in names}
    new: Model = {name: np.arange(300 if "q" in names else 20).astype("u1") for name in names}
    write(tmp_path / "old", old)
    write(tmp_path / "new", new)
    for name in small:
        (tmp_path / "new" / name).write_text(name)
    for out in ("patch", "patch.safetensors"):
        make_patch(tmp_path / "old", tmp_path / "new", tmp_path / out, coder=coder)
        made = tmp_path / "made"
        apply_patch(tmp_path / out, tmp_path / "old", made)
        assert_holds(made, new)
        assert [(made / name).read_text() for name in small] == small
        shutil.rmtree(made)


def test_a_lying_shape_is_cheap(models: tuple[Model, Model], tmp_path: Path) -> None:
    def listed(dtype: str, shape: tuple[int, ...]) -> list[tuple[int, int]]:
        assert shape != (2**55,)
        return parts_of(dtype, shape)

    path = tmp_path / "patch/patch.json"
    data = json.loads(path.read_text())
    (one,) = [one for one in data["tensors"] if one["name"] == "wide"]
    one["shape"] = [2**55]
    data.pop("checksum")
    path.write_text(json.dumps({**data, "checksum": object_checksum(data)}))
    with (
        mock.patch("tallies.patches.manifest.parts_of", listed),
        pytest.raises(InputError, match="parts are not those of its dtype and shape"),
    ):
        apply_patch(tmp_path / "patch", tmp_path / "old", tmp_path / "made")
