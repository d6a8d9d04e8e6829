"""The output directory turns errors of the system into errors of tallies."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from tallies import InputError, StorageError
from tallies.checkpoint.destination import Destination


@pytest.mark.parametrize("resume", [False, True])
def test_an_error_of_the_system_names_the_file(tmp_path: Path, resume: bool) -> None:
    destination = Destination(tmp_path / "out", [], overwrite=False)
    with (
        pytest.raises(StorageError, match=r"lost\.bin: No such file or directory") as caught,
        destination.writing(resume) as directory,
    ):
        (directory / "lost.bin").read_bytes()
    assert isinstance(caught.value.__cause__, FileNotFoundError)
    assert not destination.path.exists()
    assert destination.workspace.exists() == resume


def test_an_error_of_the_system_without_a_file_names_the_output(tmp_path: Path) -> None:
    destination = Destination(tmp_path / "out", [], overwrite=False)
    with (
        pytest.raises(StorageError, match=f"{tmp_path}/out: Interrupted"),
        destination.writing(resume=False),
    ):
        raise OSError(4, "Interrupted")


def test_errors_of_tallies_pass_as_they_are(tmp_path: Path) -> None:
    for error in (InputError("wrong"), StorageError("lost")):
        destination = Destination(tmp_path / "out", [], overwrite=False)
        with pytest.raises(type(error)) as caught, destination.writing(resume=False):
            raise error
        assert caught.value is error
        assert not destination.workspace.exists()


@pytest.mark.parametrize("out", ["/proc/model", "/proc/deep/model", "/proc/model.safetensors"])
def test_a_place_where_nothing_can_be_made(out: str) -> None:
    if not os.access("/proc", os.W_OK):
        pytest.skip("only the superuser gets as far as that")
    destination = Destination(out, [], overwrite=False, of_weights=True)
    with (
        pytest.raises(StorageError, match=r"cannot be set up: No such file or directory"),
        destination.writing(resume=False),
    ):
        pass


def test_parents_that_another_run_removes(tmp_path: Path) -> None:
    """A run that ends removes the parents that it made, just when another one begins."""
    destination = Destination(tmp_path / "deep/out", [], overwrite=False)
    make = Path.mkdir

    def after_removal(path: Path, *args: Any, **kwargs: Any) -> None:
        with mock.patch.object(Path, "mkdir", make):
            if path == destination.workspace and path.parent.exists():
                path.parent.rmdir()
            make(path, *args, **kwargs)

    with mock.patch.object(Path, "mkdir", after_removal), destination.writing(resume=False) as one:
        (one / "file").touch()
    assert (tmp_path / "deep/out/file").exists()
