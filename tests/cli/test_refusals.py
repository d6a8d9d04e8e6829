"""Requests that are refused, on one line, with nothing written."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.support.checkpoints import write
from tests.support.command import tallies, tree
from tests.support.command_line import EXPERTS, refused

REFUSED: list[tuple[str, tuple[str, ...]]] = [
    ("marge", ("'marge'", "did you mean 'merge'?", "tallies --help")),
    ("--verbose", ("--verbose",)),
    ("merge", ("recipe file", "--method")),
    ("merge out", ("out: cannot be read",)),
    ("merge ties.yml", ("the output is missing", "--out")),
    ("merge ties.yml out --out other", ("two outputs", "'out'", "'other'")),
    ("merge ties.yml out more", ("more",)),
    ("merge ties.yml out --density 0.2", ("'--density'", "--param density=VALUE")),
    ("plan ties.yml --lambda=0.2", ("'--lambda'", "--param lambda=VALUE")),
    ("merge ties.yml out --dry", ("'--dry'", "tallies merge --help")),
    ("merge ties.yml out --model nobody:weight=1", ("--model", "'nobody'", "not in the recipe")),
    ("merge ties.yml out --param densty=1", ("did you mean 'density'?",)),
    ("merge ties.yml out --set models.nobody.weight=1", ("--set models", "'nobody'")),
    ("merge ties.yml out --set models.weight=1", ("models.MODEL.KEY=VALUE",)),
    ("merge ties.yml out --set seeed=1", ("did you mean 'seed'?",)),
    ("merge ties.yml out --set density", ("--set", "key=value")),
    ("merge --method linear --weight 1 --model a out", ("--param weight=VALUE",)),
    ("plan --method ties --mask-lambda 1 --model a", ("--param mask_lambda=VALUE",)),
    ("merge ties --base b --model a out", ("'ties' is a method", "--method ties")),
    (
        "merge --method slerp --base b --model a --model c --param t=0.5 out",
        ("found 3", "exactly 2", "the base_model counts as the first"),
    ),
    ("merge absent.yml out", ("absent.yml", "No such file")),
    ("merge --method tie --model a out", ("'tie'", "did you mean 'ties'?")),
    ("merge --method ties --model a out", ("base_model", "--base DIR")),
    ("merge --method linear out", ("models",)),
    ("merge --method linear --model c out", ("c: no such file or directory",)),
    ("merge --method linear --model a --param wieght=1 out", ("did you mean 'weight'?",)),
    ("merge --method linear --model a:wieght=1 out", ("model 'a'", "did you mean 'weight'?")),
    ("merge --method linear --model a --param weight out", ("'weight'", "key=value")),
    ("merge --method linear --model a --param weight=x out", ("weight", "'x'", "number")),
    ("merge ties.yml out --max-memroy 1GiB", ("--max-memroy", "--max-memory")),
    ("merge ties.yml out --threads two", ("--threads", "two")),
    ("merge ties.yml out --device tpu", ("--device", "'cpu', 'cuda'")),
    ("merge ties.yml out --out-dtype float33", ("'float33'", "did you mean 'float32'?")),
    ("merge ties.yml out --seed -1", ("seed: found -1",)),
    ("merge --method emr --base base --model a --semantics peft out", ("emr has only paper",)),
    ("plan", ("recipe file", "--method")),
    ("plan ties.yml --seed x", ("--seed",)),
    ("inspect", ("PATH",)),
    ("inspect c", ("c: no such file or directory",)),
    ("inspect a --threads 0", ("threads: found 0",)),
    ("methods tie", ("'tie'", "did you mean 'ties'?")),
    ("info extra", ("extra",)),
]


@pytest.mark.parametrize(("line", "parts"), REFUSED, ids=[line for line, _ in REFUSED])
def test_wrong_requests(models: Path, line: str, parts: tuple[str, ...]) -> None:
    before = tree(models)
    refused(line.split(), *parts)
    assert tree(models) == before


def test_a_name_that_is_no_text_is_refused(models: Path) -> None:
    odd = os.fsdecode(b"\xff")
    write(models / odd, EXPERTS[0])
    for arguments in (("--model", odd, "out"), ("--model", "a", odd + "2")):
        refused(["merge", "--method", "linear", *arguments], r"\udcff", "not UTF-8")


def test_an_error_of_our_own_is_one_line_too(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("two\nlines")

    monkeypatch.setattr("tallies.cli.merge.merge", broken)
    said = "internal error: RuntimeError: two lines; TALLIES_DEBUG=1 shows where"
    assert tallies("merge", "ties.yml", "out") == (3, "", f"tallies: {said}\n")
