"""``tallies patch`` and ``tallies apply``."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.checkpoints import Model, assert_holds
from tests.support.command import assert_failed, tallies


def test_there_and_back(models: tuple[Model, Model], tmp_path: Path) -> None:
    ended = tallies("patch", "old", "new", "--out", "patch")
    assert ended.status == 0
    assert ended.out.startswith("patch (xor, coder none)\n")
    ended = tallies("apply", "patch", "--to", "old", "--out", "made")
    assert ended.out.startswith("1 patch applied\n")
    assert_holds(tmp_path / "made", models[1])
    assert tallies("apply", "patch", "--to", "old", "--in-place", "--quiet").out == ""
    assert_holds(tmp_path / "old", models[1])
    ended = tallies("apply", "patch", "--to", "old", "--in-place", "--undo", "--json")
    assert json.loads(ended.out)["kind"] == "undone"
    assert_holds(tmp_path / "old", models[0])


@pytest.mark.parametrize("out", ["patch", "patch.safetensors"])
def test_verify(models: tuple[Model, Model], tmp_path: Path, out: str) -> None:
    tallies("patch", "old", "new", "--out", out)
    assert f"{out}: patch is whole: 10 tensors in 1 file" in tallies("verify", out).out
    file = tmp_path / out / "changes-00001.safetensors" if out == "patch" else tmp_path / out
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    assert "is damaged: its checksum is" in assert_failed(tallies("verify", out), 2)


def test_less_memory_than_buffers_take(models: tuple[Model, Model]) -> None:
    little = ("--max-memory=1KiB", "--threads=1")
    words = "max_memory: 1.02 kB is less than the 524.29 kB of buffers"
    for arguments in (
        ("patch", "old", "new", "--out", "patch"),
        ("apply", "patch", "--to", "old", "--out", "made"),
        ("apply", "patch", "--to", "old", "--in-place"),
    ):
        assert words in " ".join(tallies(*arguments, *little).out.split())


def test_json(models: tuple[Model, Model]) -> None:
    ended = tallies(
        "patch", "old", "new", "--out", "p.safetensors", "--values", "new", "--json", "--threads=1"
    )
    report = json.loads(ended.out)
    assert "data" not in report
    assert report["values"] == "new"
    assert report["n_bytes"] == Path("p.safetensors").stat().st_size
    assert list(report["files"]) == ["p.safetensors"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["apply", "patch", "--to", "old"], "neither --out nor --in-place"),
        (["apply", "p", "--to", "old", "--out", "x", "--in-place"], "both --out and --in-place"),
        (["apply", "--to", "old", "--in-place"], "expected a PATCH"),
        (["patch", "old", "gone", "--out", "x"], "gone"),
        (["patch", "old", "new", "--out", "new"], "is or contains the input"),
        (["patch", "old", "new", "--out", "x.bin"], "results are safetensors"),
        (["patch", "old", "new", "--out", "-"], "output '-': results are files, and no stream"),
        (["apply", "p", "--to", "old", "--out", "-"], "p: is no patch"),
        (["diff", "old", "new", "--html", "-"], "-: a page is a file, and no stream"),
    ],
)
def test_wrong_requests(models: tuple[Model, Model], arguments: list[str], words: str) -> None:
    assert words in assert_failed(tallies(*arguments), 2)
