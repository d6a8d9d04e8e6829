"""Merges of tensors in other rows equal merges of files that have those rows."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tallies import merge
from tallies.checkpoint.checkpoint import Checkpoint
from tallies.checkpoint.row_maps import RowMap, mapped
from tallies.merging import preparing
from tests.reference import row_maps
from tests.support.checkpoints import Model, assert_same_tensors, read, write
from tests.support.merges import BF16, assert_fingerprints, request

EMBEDDING, HEAD, NORM = "model.embed_tokens.weight", "lm_head.weight", "model.norm.weight"
SIZES = (30, 33, 28, 30)
N_ROWS, COLUMNS = 34, 70
MEANS = {31: ((1, 31), (3, 2)), 32: ((0, 1), (1, 32), (2, 27)), 33: ((1, 4),)}
ALL = [
    *("linear", "ties", "task_arithmetic", "breadcrumbs", "breadcrumbs_ties", "della", "dare_ties"),
    *("dare_linear", "model_stock", "sce", "ram", "pcb", "iso_c", "emr", "consensus_ta", "karcher"),
]


def model(number: int, dtype: Any) -> Model:
    rng = np.random.default_rng(number)
    rows = SIZES[number]
    shapes = {EMBEDDING: (rows, COLUMNS), HEAD: (rows, COLUMNS), NORM: (COLUMNS,)}
    return {
        name: rng.standard_normal(shape).astype(np.float32).astype(dtype)
        for name, shape in shapes.items()
    }


def own(number: int) -> list[int]:
    """The rows of a model's own in the order of the result, shuffled, and -1 for some."""
    rng = np.random.default_rng(number + 10)
    rows = rng.permutation(SIZES[number]).tolist()
    return [*(rows + [-1] * N_ROWS)[:31], -1, -1, -1]


def maps(means: bool) -> list[RowMap]:
    return [RowMap(array("q", own(i)), MEANS if means else {}, 6 if means else 0) for i in range(4)]


@pytest.fixture
def with_rows(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Maps the tensors of the models of all later plans, the template and the base alike."""

    def begin(rows: Sequence[RowMap]) -> None:
        def place(*given: Any) -> tuple[None, Any]:
            models: Sequence[Checkpoint] = given[2]
            by_path = {one.path: one for one in models}
            every = [by_path[path] for path in sorted(by_path)]
            changed = {}
            for number, one in enumerate(every):
                tensors = dict(one.tensors)
                for name in (EMBEDDING, HEAD):
                    others = [each.tensors[name] for each in every]
                    tensors[name] = mapped(one.tensors[name], rows[number], others)
                changed[one.path] = replace(one, tensors=tensors)
            return None, [changed[one.path] for one in models]

        monkeypatch.setattr(preparing, "with_vocabulary", place)

    return begin


def expected(models: Sequence[Model], rows: Sequence[RowMap]) -> list[Model]:
    made = []
    for one, its in zip(models, rows, strict=True):
        dense = {
            name: row_maps.mapped(
                one[name], its.own, its.means, its.n_padding, [each[name] for each in models]
            ).astype(one[name].dtype)
            for name in (EMBEDDING, HEAD)
        }
        made.append({**one, **dense})
    return made


@pytest.mark.parametrize("method", ALL)
@pytest.mark.parametrize(("dtype", "means"), [(np.float32, True), (BF16, False)])
def test_a_merge_is_that_of_the_rows(
    tmp_path: Path, with_rows: Any, method: str, dtype: Any, means: bool
) -> None:
    models = [model(number, dtype) for number in range(4)]
    dense = [write(tmp_path / f"dense{i}", m) for i, m in enumerate(expected(models, maps(means)))]
    paths = [write(tmp_path / f"{i}", one, n_files=1 + i % 2) for i, one in enumerate(models)]
    recipe = request(method, dense[1:], base=dense[0])
    merge(recipe, tmp_path / "expected")
    with_rows(maps(means))
    recipe = request(method, paths[1:], base=paths[0])
    for number, (threads, memory) in enumerate([(1, "1MiB"), (3, "256MiB")]):
        out = tmp_path / f"out{number}"
        memory = "256MiB" if method == "iso_c" else memory
        report = merge(recipe, out, threads=threads, max_memory=memory)
        assert_same_tensors(read(out), read(tmp_path / "expected"))
        with_base = report.base is not None and report.base.fingerprint is not None
        assert_fingerprints(report, paths[0] if with_base else None, paths[1:])
