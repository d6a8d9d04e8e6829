"""``tallies diff``: what it prints, its exit status, and the page that it writes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from tests.support.command import tallies
from tests.support.command_line import printed, refused


def test_equal_models_end_with_0(models: Path) -> None:
    text = printed("diff", "base", "base")
    assert "The models are equal bit for bit in 2 tensors." in text


def test_different_models_end_with_1(models: Path) -> None:
    ended = tallies("diff", "base", "a")
    assert (ended.status, ended.err) == (1, "")
    assert "2 of 2 tensors differ, in 4 of 5 elements (80 %)." in ended.out
    head, *rows = ended.out.splitlines()[2:6]
    assert head.startswith("layer  tensors  changed")
    assert [row.split()[0] for row in rows] == ["v", "w", "all"]


def test_json(models: Path) -> None:
    ended = tallies("diff", "base", "a", "--json")
    found = json.loads(ended.out)
    assert ended.status == 1
    assert found["tensors"]["w"]["n_different"] == 3
    assert (found["n_tensors"], found["n_changed"], found["equal"]) == (2, 2, False)
    assert json.loads(printed("diff", "a", "a", "--json"))["total"]["cosine"] == 1.0


def test_the_page(models: Path) -> None:
    assert tallies("diff", "base", "a", "--html", "page.html").status == 1
    page = (models / "page.html").read_text()
    assert page.count("<table>") == 2
    assert len(page) < 10_000


def test_a_page_replaces_nothing_but_a_page(models: Path) -> None:
    refused(["diff", "base", "a", "--html", "absent/page.html"], "absent/page.html: its directory")
    weights = models / "a" / "model.safetensors"
    before = weights.read_bytes()
    (models / "notes.html").write_text("<!doctype html>\n<p>mine</p>\n")
    for place, flags in (("a/model.safetensors", ["--overwrite"]), ("notes.html", ["--overwrite"])):
        refused(["diff", "base", "a", "--html", place], f"{place}: exists")
        refused(["diff", "base", "a", "--html", place, *flags], f"{place}: is no page that tallies")
    refused(["diff", "base", "a", "--html", "a", "--overwrite"], "a: is a directory")
    assert weights.read_bytes() == before
    assert tallies("diff", "base", "a", "--html", "page.html").status == 1
    refused(["diff", "base", "base", "--html", "page.html"], "page.html: exists")
    assert tallies("diff", "base", "base", "--html", "page.html", "--overwrite").status == 0
    assert "equal bit for bit" in (models / "page.html").read_text()


def test_models_of_other_shapes(models: Path) -> None:
    for number in range(5):
        for name, size in (("narrow", 2), ("wide", 3)):
            (models / name).mkdir(exist_ok=True)
            save_file(
                {f"t{i}": np.zeros((size,), np.float32) for i in range(number + 1)},
                models / name / "model.safetensors",
            )
    ended = tallies("diff", "narrow", "wide")
    assert ended.status == 1
    assert "No tensor of one model can be compared with one of the other." in ended.out
    assert "5 tensors: 't0' is F32 [2] and F32 [3], 't1' is" in " ".join(ended.out.split())
    assert "and 2 more" in ended.out


def test_bad_input_ends_with_2(models: Path) -> None:
    refused(["diff", "base", "absent"], "absent")
    (models / "a" / "model.safetensors").write_bytes(b"no header")
    refused(["diff", "base", "a"], "model.safetensors")
    refused(["diff", "base"], "'B'")


@pytest.mark.parametrize("columns", [60, 120])
def test_on_a_terminal(models: Path, monkeypatch: pytest.MonkeyPatch, columns: int) -> None:
    monkeypatch.setattr("tallies.cli.diff.screen", lambda: columns)
    ended = tallies("diff", "base", "a")
    assert ended.status == 1
    assert max(map(len, ended.out.splitlines())) <= columns
    assert "80 %" in ended.out
