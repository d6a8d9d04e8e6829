"""The text that packing and unpacking print."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

import tallies
from tallies import Store
from tallies.messages import COLUMNS
from tallies.store.packing.summary import summary
from tests.support.command import tallies as run
from tests.support.stores import CODECS, mask_lambda, packed


@pytest.fixture
def here(models: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory of copies of the models, which the process is in."""
    shutil.copytree(models, models.parent / "here")
    monkeypatch.chdir(models.parent / "here")
    return Path()


@pytest.mark.parametrize("kind", CODECS)
def test_a_number_for_every_task_within_80_columns(here: Path, kind: str) -> None:
    (here / "a/chat_template.jinja").write_text("x" * 2500)
    options = dict(CODECS[kind])
    report = tallies.pack("base", {"a": "a", "b": "b"}, "store", **options)
    lines = str(report).splitlines()
    assert lines[0] == f"{options['codec']} of 2 tasks"
    paths = (str(report.path), "peak memory")
    assert all(len(line) <= COLUMNS for line in lines if not any(path in line for path in paths))
    text = " ".join(str(report).split())
    for task in report.tasks:
        start = text.index(f"task {task.name}: ")
        facts = text[start : text.index(f"from {task.source}", start)]
        assert f"{task.n_bytes} bytes" in facts or f"{task.n_bytes / 1000:.2f} kB" in facts
        assert ("2.50 kB of small files" in facts) == (task.name == "a")
        for share in (
            task.set_fraction.values()
            if options["codec"] not in ("lossless", "tsv_c", "twin")
            else ()
        ):
            assert f"{share:.4%} of the " in facts
    assert "1 that no task changed, 1 of integers or booleans, taken from the base" in text
    narrow = summary(report, 60).splitlines()
    assert all(len(line) <= 60 for line in narrow)
    unpacked = Store.open("store").unpack("a", "out", mask_lambda=mask_lambda(kind))
    text = " ".join(str(unpacked).split())
    assert f"a ({options['codec']}) output {unpacked.path}: " in text
    result = "the expert bit for bit" if kind == "lossless" else "a reconstruction of"
    assert f"result {result}" in text
    assert "files 1 small file of the task, 0 of them as in the base" in text


def test_bit_for_bit_is_said_of_what_is(here: Path) -> None:
    for name in ("base", "a"):
        (here / name / "config.json").write_text(f'{{"name": "{name}"}}')
    packed(here.resolve(), tasks={"a": "a"}, out="store", codec="sparse", density="exact")
    store = Store.open("store")
    own = str(store.unpack("a", "own"))
    assert "result     the expert bit for bit\n" in own
    other = store.unpack("a", "other", files_from="base")
    assert "result     the expert's tensors bit for bit\n" in str(other)
    assert "files      1 small file of base\n" in str(other)
    assert (other.files_from, store.unpack("a", "third").files_from) == ("base", None)


def test_help_names_the_codecs() -> None:
    text = " ".join(run("pack", "--help").out.split())
    assert "tall, emr, magnitude, sparse, lossless, lora, bitdelta, tsv_c or twin." in text
    assert "Repeat the option for each task." in text


def test_weights_that_stay_out_are_named(here: Path) -> None:
    (here / "a/checkpoint-5").mkdir()
    shutil.copy(here / "a/model.safetensors", here / "a/checkpoint-5/model.safetensors")
    report = tallies.pack("base", {"a": "a"}, "store")
    assert [*report.left_out] == ["a"]
    assert any("checkpoint-5" in path for path in report.left_out["a"])
    assert "left out   checkpoint-5" in str(report)
