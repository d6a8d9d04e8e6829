"""A store opens over its own base alone, and gives the tasks that it has."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tallies import Store
from tests.support.checkpoints import (
    assert_holds,
    assert_same_tensors,
    write,
)
from tests.support.stores import BASE, assert_refused, loaded, packed, same_values


def other_base(models: Path, **changes: Any) -> Path:
    """The base with these tensors changed, or without those that are None."""
    changed = {**BASE, **{name.replace("_", "."): array for name, array in changes.items()}}
    return write(models.parent / "other", {name: a for name, a in changed.items() if a is not None})


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"bias": BASE["bias"] + np.eye(1, 9, 8, np.float32)[0]}, "'bias' has other values"),
        ({"frozen": -BASE["frozen"]}, "tensor 'frozen' has other values"),
        ({"ids": np.arange(4) + 1}, "tensor 'ids' has other values"),
        ({"bias": BASE["bias"].astype(np.float64)}, "'bias' is F64 [9], expected F32 [9]"),
        ({"layer_weight": np.zeros((7, 5), np.float16)}, "is F16 [7, 5], expected F16 [5, 7]"),
        ({"frozen": None}, "lacks tensor 'frozen'"),
        ({"more": np.zeros(1)}, "has tensor 'more'"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_another_base(models: Path, changes: dict[str, Any], words: str) -> None:
    path = packed(models)
    other = other_base(models, **changes)
    print_ = json.loads((path / "store.json").read_text())["base"]["fingerprint"]
    line = (other, f"is not the base of {path}", words, f"(fingerprint {print_})")
    assert_refused(lambda: Store.open(path, other), *line)


def test_an_expert_is_not_the_base(models: Path) -> None:
    path = packed(models)
    assert_refused(lambda: Store.open(path, models / "a"), "is not the base of", "'bias' has other")


def test_the_base_moved(models: Path) -> None:
    elsewhere = models.parent / "elsewhere"
    shutil.copytree(models, elsewhere)
    path = packed(elsewhere)
    before = loaded(Store.open(path))
    (elsewhere / "base").rename(models.parent / "moved")
    recorded = f"../elsewhere/base as seen from the store, which is {elsewhere / 'base'}"
    words = (path, f"its base is recorded as {recorded}, where nothing is", "base=, --base")
    assert_refused(lambda: Store.open(path), *words)
    for task, model in before.items():
        assert_same_tensors(Store.open(path, models.parent / "moved").load(task), model)
    shutil.move(path, models.parent / "moved store")
    store = Store.open(models.parent / "moved store", base=models.parent / "moved")
    store.unpack("b", models.parent / "out")
    assert_holds(models.parent / "out", before["b"])


def test_a_base_in_shards_is_the_same_base(models: Path) -> None:
    path = packed(models)
    shards = write(models.parent / "shards", BASE, n_files=3)
    before = loaded(Store.open(path))
    assert_same_tensors(Store.open(path, shards).load("a"), before["a"])


def test_a_task_that_is_not_there(models: Path) -> None:
    store = Store.open(packed(models, tasks={"math": models / "a", "code": models / "b"}))
    words = (store.path, "task 'maths' is not known; did you mean 'math'? (known: math, code)")
    assert_refused(lambda: store.load("maths"), *words)
    assert_refused(lambda: store.tensor("maths", "bias"), *words)
    assert_refused(lambda: store.unpack("maths", models.parent / "out"), *words)
    assert_refused(lambda: store.tensor("math", "bais"), "tensor 'bais' is not known; did you mean")
    assert_refused(lambda: store.load("math", framework="jax"), "framework 'jax' is not known")
    assert not (models.parent / "out").exists()


def test_candidates_are_named(models: Path) -> None:
    store = Store.open(packed(models, "candidates"))
    assert_refused(lambda: store.load("a"), "task 'a' has candidates for lambda 0.2, 0.6; name one")
    assert_refused(lambda: store.load("a", mask_lambda=0.3), "lambda '0.3' is not known")
    assert not same_values(store.load("a", mask_lambda=0.2), store.load("a", mask_lambda=0.6))


def test_the_lambda_of_a_task_that_has_one(models: Path) -> None:
    store = Store.open(packed(models, mask_lambda={"a": 0.3, "b": 0.7}))
    store.load("a", mask_lambda=0.3)
    assert_refused(lambda: store.load("b", mask_lambda=0.3), "task 'b' has lambda 0.7, found 0.3")
