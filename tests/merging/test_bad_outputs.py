"""Places that no output can have are refused in one line."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytest

from tallies import InputError, merge
from tallies.engine.passes import Passes
from tests.support.checkpoints import FILE, TOLD, write
from tests.support.command import assert_failed, tallies, ties
from tests.support.outputs import record
from tests.support.refusals import assert_names, changed, refused

pytestmark = pytest.mark.usefixtures("here")


# Outputs that must not be.


def test_output_that_is_not_empty(here: Path) -> None:
    Path("full").mkdir()
    Path("full/.hidden").write_text("mine")
    for out in ("full", "full/", f"{here}/full", "base/../full", "./full/."):
        assert_names(refused(*ties("a", "b", out=out)), repr(out), "is not empty; pass --overwrite")
    assert_names(refused(*ties("a", "b", out="full", more="--overwrite")), "holds '.hidden'")
    record(Path("full"))
    assert tallies(*ties("a", "b", out="full", more="--overwrite")).status == 0
    assert sorted(os.listdir("full")) == sorted(["config.json", FILE, *TOLD])


def test_output_that_is_or_is_below_a_file() -> None:
    Path("note").write_text("mine")
    Path("link").symlink_to("note")
    for out in ("note", "note/", "link"):
        for more in ("", "--overwrite", "--resume"):
            line = refused(*ties("a", "b", out=out, more=more))
            assert_names(line, repr(out), "is a file, expected a directory")
    for out in ("note/out", "note/one/two"):
        line = refused(*ties("a", "b", out=out))
        assert_names(line, repr(out), "note is not a directory that can be written")


@pytest.mark.parametrize("more", ["", "--overwrite", "--resume"])
def test_output_that_overlaps_an_input(here: Path, more: str) -> None:
    write(Path("models/x"), changed())
    write(Path("models/y.safetensors"), changed())
    Path("link").symlink_to("base")
    Path("chain").symlink_to("link")
    cases = {
        "is or contains the input": [
            "base",
            "base/",
            "./a",
            "models",
            "link",
            "chain/",
            "a/../b",
            f"{here}/models/x",
            "models/x/../../models/../base",
        ],
        "lies inside the input": ["base/out", "a/deep/er", "link/out", "models/x/.", "chain/new"],
    }
    cases["lies inside the input"].remove("models/x/.")
    for message, outs in cases.items():
        for out in outs:
            line = refused(*ties("a", "b", "models/x", "models/y.safetensors", out=out, more=more))
            assert_names(line, f"output {out!r}: {message}", "choose another")


def test_output_among_files_that_an_input_links_to(here: Path) -> None:
    # As in a hub's cache, where a model is a directory of links.
    blobs = Path("blobs")
    blobs.mkdir()
    Path("a", FILE).rename(blobs / "0123")
    Path("a", FILE).symlink_to("../blobs/0123")
    line = refused(*ties("a", "b", out="blobs", more="--overwrite"))
    assert_names(line, "'blobs': is or contains the input", here / "a" / FILE)


def test_output_that_is_the_current_directory(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("work/deep").mkdir(parents=True)
    request = [Path.cwd() / model for model in ("a", "b")]
    base = Path.cwd() / "base"
    monkeypatch.chdir("work/deep")
    for out in (".", "..", os.getcwd()):
        line = refused(*ties(*request, base=base, out=out, more="--overwrite"))
        assert_names(line, repr(out), "is or contains the current directory; name one inside it")


def test_output_that_is_the_root_of_a_file_system() -> None:
    for out in ("/", "//", "/..", "/proc"):
        assert_names(refused(*ties("a", "b", out=out)), f"output {out!r}: is the root of a file")


def test_output_without_a_name() -> None:
    with pytest.raises(InputError, match=r"^output '': expected a directory to create$"):
        merge({"merge_method": "linear", "models": [{"model": "a"}]}, "")
    with pytest.raises(InputError, match="expected a path"):
        merge({"merge_method": "linear", "models": [{"model": "a"}]}, "o\0ut")


@contextmanager
def unprivileged(*directories: Path) -> Iterator[None]:
    """Nobody's rights, if this is root, to whom no directory is closed."""
    if os.geteuid() != 0:
        yield
        return
    for directory in directories:
        directory.chmod(directory.stat().st_mode | 0o755)
    for file in directories[0].rglob("*.safetensors"):
        file.chmod(0o644)
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.mark.parametrize("mode", [0o500, 0o555, 0o666, 0])
def test_output_in_a_directory_that_cannot_be_written(here: Path, mode: int) -> None:
    closed = here / "closed"
    closed.mkdir()
    assert tallies(*ties("a", "b", out="warm")).status == 0  # nothing is left to import
    closed.chmod(mode)
    before = os.listdir(here)
    try:
        with unprivileged(here, *here.parents[:3]):
            for out in ("closed/out", "closed/one/two"):
                line = assert_failed(tallies(*ties("a", "b", out=out)), 2)
                assert_names(line, repr(out), "closed is not a directory that can be written")
    finally:
        closed.chmod(0o700)
    assert os.listdir(here) == before
    assert os.listdir(closed) == []


# Disks that are too small.


def disk_with(free: int) -> mock._patch[Any]:
    status = SimpleNamespace(f_bavail=free // 512, f_frsize=512)
    return mock.patch("os.statvfs", return_value=status)


def test_disk_that_is_too_small_is_known_before_anything_is_read(here: Path) -> None:
    Path("base/tokenizer.json").write_bytes(bytes(100_000))
    with mock.patch.object(Passes, "__init__", side_effect=AssertionError), disk_with(1024):
        line = refused(*ties("a", "b", out="one/two"))
    assert_names(line, here / "one/two: needs", "has only 1024 free; make room, or choose")
    needed = int(line.split("needs ")[1].split()[0])
    with disk_with((needed - 1) // 512 * 512):
        refused(*ties("a", "b"))
    with disk_with((needed + 511) // 512 * 512):
        assert tallies(*ties("a", "b")).status == 0
    written = sum(path.stat().st_size for path in Path("out").iterdir())
    assert 100_000 < written < needed < written + 2_000_000
