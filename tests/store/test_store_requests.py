"""Requests to pack that are refused, and odd values that are not."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tallies import InputError, Store, pack
from tests.support.checkpoints import (
    assert_same_tensors,
    write,
)
from tests.support.stores import (
    BASE,
    CHANGED,
    CODECS,
    expert,
    loaded,
    mask_lambda,
    packed,
    refused,
    same_values,
)

LONG = "é" * 65


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("", "is empty"),
        (" a", "begins or ends with a space"),
        ("a ", "begins or ends with a space"),
        (".", "dot"),
        ("..", "dot"),
        (".hidden", "dot"),
        ("a.", "dot"),
        ("a/b", "names of files lack"),
        ("../a", "begins or ends with a dot"),
        ("a\\b", "names of files lack"),
        ("c:", "names of files lack"),
        ("a*", "names of files lack"),
        ("a\nb", "names of files lack"),
        ("a\0", "names of files lack"),
        ("a\udc80", "names of files lack"),
        (LONG, "is too long"),
        (7, "is not text"),
        (None, "is not text"),
    ],
    ids=repr,
)
def test_names_that_no_file_has(models: Path, name: Any, words: str) -> None:
    refused(models, "task ", words, tasks={"ok": models / "b", name: models / "a"})


def test_names_that_are_fine(models: Path) -> None:
    names = ["a b", "naïve 名", "x" * 128, "v1.2", "-", "store.json", "shared", "tasks"]
    store = Store.open(packed(models, tasks={name: models / "a" for name in names}))
    assert store.tasks == tuple(names)
    first, *others = loaded(store).values()
    assert all(same_values(first, other) for other in others)


def test_names_that_differ_in_case(models: Path) -> None:
    tasks = {"Math": models / "a", "math": models / "b"}
    refused(models, "task 'math': differs from 'Math' in case", tasks=tasks)
    # One letter in lower case, two in upper.
    refused(models, "in case", tasks={"straße": models / "a", "STRASSE": models / "b"})


def test_no_task(models: Path) -> None:
    refused(models, "tasks: found none, expected at least one", tasks={})


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (-0.1, "found -0.1, expected a finite number from 0 up"),
        (float("nan"), "found nan, expected a finite number"),
        (float("inf"), "found inf, expected a finite number"),
        (True, "found True, expected a finite number"),
        (None, "found None, expected a finite number"),
        ("much", "found 'much', expected a finite number"),
        ("0.2,", "found '', expected a finite number"),
        ([0.4, -1], "found -1, expected a finite number"),
        ([0.2, 0.4, 0.2], "found [0.2, 0.4, 0.2], expected different numbers"),
        ("0.2,0.20", "expected different numbers"),
        ([], "found [], expected different numbers"),
        ({"a": 0.4}, "has none for task 'b'; give one for each"),
        ({"a": 0.4, "b": 0.4, "c": 0.4}, "task 'c' is not known"),
        ({"a": 0.4, "b": [0.2, 0.4]}, "found [0.2, 0.4], expected a finite number"),
        ({"a": 0.4, "b": -1}, "found -1, expected a finite number"),
    ],
    ids=repr,
)
def test_lambdas_that_are_none(models: Path, value: Any, words: str) -> None:
    refused(models, "lambda: ", words, **{"lambda": value})
    refused(models, "lambda: ", words, mask_lambda=value)


def test_lambda_given_twice(models: Path) -> None:
    refused(models, "lambda: is given twice", mask_lambda=0.3, **{"lambda": 0.3})


def test_lambda_0_is_one(models: Path) -> None:
    store = Store.open(packed(models, mask_lambda=0))
    assert store.manifest.tasks["a"].mask_lambda == 0


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"codec": "tal"}, "codec 'tal' is not known; did you mean 'tall'?"),
        ({"codec": "magnitud"}, "did you mean 'magnitude'? (known: tall, emr, magnitude"),
        ({"codec": ""}, "codec '' is not known"),
        ({"codec": "magnitude", "desnity": 0.2}, "did you mean 'density'?"),
        ({"codec": "emr", "density": 0.2}, "'density'"),
        ({"codec": "emr", "lambda": 0.2}, "'lambda'"),
        ({"codec": "emr", "re-scale": "code"}, "did you mean 'rescale'?"),
        ({"codec": "emr", "rescale": "cod"}, "rescale"),
        ({"codec": "magnitude", "density": 1.5}, "density"),
        ({"codec": "magnitude", "density": float("nan")}, "density"),
        ({"codec": "tall", "shared": "tie"}, "shared"),
        ({"codec": "tall", "lambada": 0.2}, "did you mean 'lambda'?"),
        ({"shared_dtyp": "F32"}, "did you mean 'shared_dtype'?"),
        ({"shared_dtype": "F64"}, "'F64' is not known (known: base, F32, BF16, F16)"),
        ({"shared_dtype": "bfloat16"}, "'bfloat16' is not known"),
        ({"codec": "bitdelta", "shared_dtype": "F32"}, "'shared_dtype' is not known"),
        ({"nonfinite": "ignore"}, "nonfinite: found 'ignore', expected 'error' or 'propagate'"),
        ({"integers": "merge"}, "integers: found 'merge', expected 'equal' or 'base'"),
        ({"max_memory": "much"}, "size 'much': expected such as '5GB'"),
        ({"threads": 0}, "threads"),
    ],
    ids=str,
)
def test_wrong_options(models: Path, options: dict[str, Any], words: str) -> None:
    refused(models, words, **options)


@pytest.mark.parametrize("odd", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("tensor", CHANGED)
@pytest.mark.parametrize("kind", [kind for kind in CODECS if kind != "lossless"])
def test_values_that_are_not_finite(models: Path, kind: str, tensor: str, odd: float) -> None:
    own = expert(3)
    own[tensor].ravel()[[2, 5]] = odd
    path = write(models.parent / "odd", own)
    tasks = {"odd": path, "b": models / "b"}
    words = (f"tensor {tensor!r} has 2 NaN or infinite values, the first at element 2",)
    refused(models, path, *words, "propagate", kind=kind, tasks=tasks)
    store = Store.open(packed(models, kind, tasks=tasks, nonfinite="propagate"))
    loaded(store, kind)


def test_odd_values_that_nobody_changed(models: Path) -> None:
    odd = {**BASE, "frozen": np.array([np.nan, np.inf, 1], np.float32)}
    root = models.parent / "odd"
    for name, model in {"base": odd, "a": {**expert(1), "frozen": odd["frozen"]}}.items():
        write(root / name, model)
    pack(root / "base", {"a": root / "a"}, root / "store")
    found = Store.open(root / "store").tensor("a", "frozen")
    assert found.tobytes() == odd["frozen"].tobytes()


def test_a_shared_vector_that_overflows(models: Path) -> None:
    own = {**expert(1), "bias": BASE["bias"] + np.float32(40_000)}
    path = write(models.parent / "far", own)
    tasks = {"x": path, "y": path}
    words = ("tensor 'bias'", "the shared vector overflows F16", "shared_dtype=F32")
    refused(models, *words, tasks=tasks, shared_dtype="F16")
    packed(models, tasks=tasks)


def test_a_shared_vector_that_overflows_the_widest_dtype(models: Path) -> None:
    own = {**expert(1), "bias": BASE["bias"] + np.float32(3e38)}
    path = write(models.parent / "farthest", own)
    tasks = {"x": path, "y": path}
    with pytest.raises(InputError, match="overflows F32; pass --nonfinite propagate"):
        packed(models, tasks=tasks)


def test_integers_that_differ(models: Path) -> None:
    own = write(models.parent / "own", {**expert(1), "ids": np.arange(4)[::-1].copy()})
    tasks = {"own": own, "b": models / "b"}
    refused(models, own, "tensor 'ids' is I64 and differs", "integers=base", tasks=tasks)
    store = Store.open(packed(models, tasks=tasks, integers="base"))
    assert np.array_equal(store.tensor("own", "ids"), BASE["ids"])


@pytest.mark.parametrize("kind", ["tall", "candidates", "emr", "magnitude"])
def test_an_expert_that_is_the_base(models: Path, kind: str) -> None:
    shutil.copytree(models / "base", models.parent / "same")
    tasks = {"same": models.parent / "same", "b": models / "b"}
    request: dict[str, Any] = dict(CODECS[kind])
    report = pack(models / "base", tasks, models.parent / "store", **request)
    warning = f"task 'same': {models.parent / 'same'} equals the base bit for bit"
    assert report.warnings == [warning]
    assert warning in str(report)
    same, other = report.tasks
    if kind != "magnitude":
        # Its threshold is 0, which every magnitude reaches.
        assert set(same.set_fraction.values()) == {0.0}
        lam = mask_lambda(kind)
        store = Store.open(models.parent / "store")
        assert_same_tensors(store.load("same", mask_lambda=lam), BASE)
        unpacked = store.unpack("same", models.parent / "out", mask_lambda=lam)
        assert unpacked.exact
    assert min(other.set_fraction.values()) > 0
    assert other.fingerprint != same.fingerprint == report.base_fingerprint


def test_experts_that_are_all_the_base(models: Path) -> None:
    for kind in ("tall", "emr", "magnitude", "bitdelta"):
        tasks = {"a": models / "base", "b": models / "base"}
        store = Store.open(packed(models, kind, tasks=tasks, overwrite=True))
        assert_same_tensors(store.load("b"), BASE)
        assert [file for file, tensors in store.files.items() if tensors] == []
