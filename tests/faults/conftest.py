"""A process whose calls to the system fail at will, and what it is asked for."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.jobs import Faults, Job, small_jobs
from tests.support.compiled import compiled


@pytest.fixture(scope="session")
def faults(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Faults]:
    source = Path(__file__).with_name("calls.c").read_text()
    process = Faults(compiled(tmp_path_factory.mktemp("calls"), source))
    yield process
    process.close()


@pytest.fixture(scope="session")
def jobs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Job]:
    return small_jobs(tmp_path_factory.mktemp("jobs"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder in which a job is done, which need not exist yet."""
    return tmp_path / "place"
