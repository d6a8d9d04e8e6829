"""``tallies.inspect`` and ``tallies.verify``."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import tallies
from tests.support.checkpoints import write
from tests.support.command_line import BASE, EXPERTS, printed


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name, model in zip(("base", "a", "b"), (BASE, *EXPERTS), strict=True):
        write(tmp_path / name, model)
    tallies.pack(tmp_path / "base", {"a": tmp_path / "a", "b": tmp_path / "b"}, tmp_path / "store")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("path", ["base", "store"])
def test_the_same_as_on_the_command_line(models: Path, path: str) -> None:
    assert tallies.inspect(path) == json.loads(printed("inspect", path, "--json"))
    assert tallies.verify(path) == json.loads(printed("verify", path, "--json"))


def test_a_checkpoint(models: Path) -> None:
    found = tallies.inspect(models / "base", fingerprints=False)
    assert (found["kind"], found["n_tensors"], found["n_elements"]) == ("checkpoint", 2, 5)
    assert found["tensors"]["w"]["shape"] == [2, 2]
    assert found["fingerprint"] is None
    checked = tallies.verify(models / "base")
    assert (checked["kind"], checked["tensors"], checked["nonfinite"]) == ("checkpoint", 2, {})


def test_a_store(models: Path) -> None:
    found = tallies.inspect(models / "store")
    assert (found["kind"], found["codec"], [*found["tasks"]]) == ("store", "tall", ["a", "b"])
    assert tallies.verify(models / "store")["kind"] == "store"


def test_faults_are_input_errors(models: Path) -> None:
    write(models / "bad", BASE | {"v": np.array([np.nan], np.float32)})
    with pytest.raises(tallies.InputError, match="'v'"):
        tallies.verify(models / "bad")
    listed = tallies.verify(models / "bad", nonfinite="warn")["nonfinite"]
    assert listed == {"v": {"count": 1, "first": 0}}
    for look in (tallies.inspect, tallies.verify):
        with pytest.raises(tallies.InputError, match="absent"):
            look(models / "absent")
