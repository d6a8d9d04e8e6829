"""Models that cannot be merged are refused in one line, before anything is written."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tallies.checkpoint.json_text import MAX_HEADER_BYTES
from tests.support import broken_directories, broken_files
from tests.support.checkpoints import Model, write
from tests.support.command import assert_failed, tallies, ties
from tests.support.refusals import BASE, assert_names, changed, refused

pytestmark = pytest.mark.usefixtures("here")


def test_the_models_of_these_tests_merge() -> None:
    assert tallies(*ties("a", "b")).status == 0


# Tensors that do not match.


@pytest.mark.parametrize(
    ("expert", "parts"),
    [
        (
            changed(layer_weight=None),
            ["lacks tensor 'layer.weight', which", "base has; merge models of one architecture"],
        ),
        (
            changed(head_weight=np.zeros((4, 6), np.float32), extra=np.zeros(1, np.float32)),
            ["has tensor 'extra' and 1 more, which", "base lacks", "remove it from the file"],
        ),
        (
            changed(layer_weight=np.zeros((4, 5), np.float32)),
            ["tensor 'layer.weight' has shape [4, 5],", "base has [4, 4]"],
        ),
        (
            changed(layer_weight=np.zeros(16, np.float32)),
            ["tensor 'layer.weight' has shape [16],", "base has [4, 4]"],
        ),
        (
            changed(embed_tokens_weight=np.zeros((8, 4), np.float32)),
            [
                "tensor 'embed_tokens.weight' has shape [8, 4],",
                "base has [6, 4]: rows 6 to 7 are only in the former (vocabularies of 8 and 6",
                "tokenizer: {source: base}",
            ],
        ),
        (
            changed(embed_tokens_weight=np.zeros((5, 4), np.float32)),
            ["[5, 4]", "[6, 4]: rows 5 to 5 are only in the latter"],
        ),
        (
            changed(layer_weight=np.zeros((4, 4), np.int32)),
            ["tensor 'layer.weight' is I32,", "base has F32; convert"],
        ),
        (
            changed(position_ids=np.arange(3, dtype=np.int32)),
            ["tensor 'position_ids' is I32,", "base has I64; convert"],
        ),
        (
            changed(position_ids=np.arange(1, 4)),
            ["tensor 'position_ids' is I64 and differs from that of", "pass --param integers=base"],
        ),
    ],
    ids=[
        "missing",
        "extra",
        "columns",
        "rank",
        "more rows",
        "fewer rows",
        "integers",
        "integer type",
        "integer values",
    ],
)
def test_tensors_that_do_not_match(here: Path, expert: Model, parts: list[str]) -> None:
    write(Path("bad"), expert)
    for models in (["a", "bad"], ["bad", "a"]):
        assert_names(refused(*ties(*models)), here / "bad: ", *parts)


def test_heads_that_a_configuration_ties_must_be_equal(here: Path) -> None:
    embedding = BASE["embed_tokens.weight"]
    head = embedding.copy()
    head[5, 3] += 1
    tied = {"tie_word_embeddings": True}
    write(Path("whole"), {**BASE, "lm_head.weight": embedding}, config=tied)
    write(Path("torn"), {**BASE, "lm_head.weight": head}, config=tied)
    line = refused(*ties("torn", base="whole"))
    assert_names(
        line,
        here / "torn: tensors 'lm_head.weight' and 'embed_tokens.weight' differ",
        "set that to",
    )


# Files and directories that are damaged.


@pytest.mark.parametrize("case", broken_files.FILES.values(), ids=broken_files.FILES)
def test_damaged_file(here: Path, case: broken_files.BrokenFile) -> None:
    Path("bad.safetensors").write_bytes(case.content)
    line = refused(*ties("a", "bad.safetensors"))
    assert_names(line, here / "bad.safetensors", case.message)
    assert refused(*ties("a", base="bad.safetensors")) == line


@pytest.mark.parametrize(
    "case", broken_directories.DIRECTORIES.values(), ids=broken_directories.DIRECTORIES
)
def test_damaged_directory(here: Path, case: tuple[Callable[[Path], None], str]) -> None:
    make, message = case
    bad = here / "models" / "bad"
    bad.mkdir()
    make(bad)
    assert_names(refused(*ties("a", "models/bad")), bad, message)


@pytest.mark.parametrize("n_bytes", [1, 4, 100])
def test_file_cut_short(here: Path, n_bytes: int) -> None:
    bad = write(Path("bad.safetensors"), changed())
    size = bad.stat().st_size
    os.truncate(bad, size - n_bytes)
    line = refused(*ties("a", "bad.safetensors"))
    assert_names(
        line, here / f"bad.safetensors: truncated: has {size - n_bytes} bytes", "download it again"
    )


@pytest.mark.parametrize(
    ("n_header", "message"),
    [
        (MAX_HEADER_BYTES, "header: not valid JSON"),
        (MAX_HEADER_BYTES + 1, "header of 100000001 bytes, expected at most 100000000"),
    ],
)
def test_header_of_100_megabytes(here: Path, n_header: int, message: str) -> None:
    bad = Path("bad.safetensors")
    bad.write_bytes(n_header.to_bytes(8, "little"))
    os.truncate(bad, 8 + n_header)
    line = assert_failed(tallies(*ties("a", bad)), 2)
    assert_names(line, here / "bad.safetensors", message)
    assert not Path("out").exists()


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("nowhere", "no such file or directory"),
        ("nowhere/model.safetensors", "expected"),
        ("base/config.json", "expected"),
        ("", "expected"),
    ],
)
def test_model_that_is_none(path: str, words: str) -> None:
    assert_names(refused(*ties("a", path)), path, words)
    assert_names(refused(*ties("a", base=path or " ")), path, words if path else "no such file")
