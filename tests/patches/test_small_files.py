"""Small files of any name that can be printed are carried, and others are named in a warning."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from tallies import InputError, apply_patch, make_patch
from tests.patches.test_coded_whole import signed
from tests.support.checkpoints import write

ODD = "vocab\\back slash.txt"
UNPRINTABLE = "vocab\nline.txt"


@pytest.fixture
def models(tmp_path: Path) -> tuple[Path, Path]:
    sides = (tmp_path / "old", tmp_path / "new")
    for n, side in enumerate(sides):
        write(side, {"a": np.arange(8, dtype=np.float32) + n})
        for name in (ODD, UNPRINTABLE, "added\\too.json"):
            (side / name).write_text(f"{name} {n}")
    (sides[0] / "added\\too.json").unlink()
    return sides


@pytest.mark.parametrize("kind", ["directory", "file", "bytes"])
@pytest.mark.parametrize("in_place", [False, True])
def test_a_backslash_is_a_letter(
    models: tuple[Path, Path], tmp_path: Path, kind: str, in_place: bool
) -> None:
    old, new = models
    place = {"directory": tmp_path / "p", "file": tmp_path / "p.safetensors"}.get(kind)
    made = make_patch(old, new, place)
    assert made.small_files == {"added\\too.json": "added", ODD: "changed"}
    out = None if in_place else tmp_path / "made"
    patch = place or made.data
    assert patch is not None
    apply_patch(patch, old, out)
    result = out or old
    assert (result / ODD).read_text() == f"{ODD} 1"
    assert (result / "added\\too.json").read_text() == "added\\too.json 1"
    apply_patch(patch, result, None if in_place else tmp_path / "back", undo=True)
    result = result if in_place else tmp_path / "back"
    assert (result / ODD).read_text() == f"{ODD} 0"
    assert not (result / "added\\too.json").exists()


def test_names_that_cannot_be_printed_are_in_a_warning(models: tuple[Path, Path]) -> None:
    (warning,) = make_patch(*models).warnings
    assert warning.startswith(r"file 'vocab\nline.txt' differs, and the patch is without it")
    for side in models:
        (side / UNPRINTABLE).write_text("the same")
    assert make_patch(*models).warnings == []


def test_names_with_a_backslash_need_version_2(models: tuple[Path, Path], tmp_path: Path) -> None:
    make_patch(*models, tmp_path / "patch")
    place = tmp_path / "patch/patch.json"
    manifest = json.loads(place.read_text())
    assert manifest["version"] == 2
    place.write_text(signed(manifest | {"version": 1}))
    with pytest.raises(InputError, match="names with a backslash, which version 1 lacks"):
        apply_patch(tmp_path / "patch", models[0], tmp_path / "made")
