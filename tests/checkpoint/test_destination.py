"""The output directory turns errors of the system into errors of tallies."""

from __future__ import annotations

from pathlib import Path

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
