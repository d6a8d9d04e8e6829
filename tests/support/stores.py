"""Small stores of two experts, and checks of what they hold or refuse."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tallies import InputError, Store, pack
from tests.support.checkpoints import (
    Model,
)
from tests.support.command import tree

RNG = np.random.default_rng(4)

BASE: Model = {
    "bias": RNG.standard_normal(9).astype(np.float32),
    "embed.weight": RNG.standard_normal((6, 4)).astype(np.float32),
    "frozen": RNG.standard_normal(3).astype(np.float32),
    "ids": np.arange(4),
    "layer.weight": RNG.standard_normal((5, 7)).astype(np.float16),
}
"""Masks of ``layer.weight`` have 5 bytes, and the last one 5 bits that stand for nothing."""

CHANGED = ("bias", "embed.weight", "layer.weight")


def expert(seed: int) -> Model:
    """The base with other values in what is not frozen."""
    rng = np.random.default_rng(seed)
    return {
        name: array + (0.1 * rng.standard_normal(array.shape)).astype(array.dtype)
        if name in CHANGED
        else array
        for name, array in BASE.items()
    }


CODECS: dict[str, dict[str, Any]] = {
    "tall": {"codec": "tall"},
    "candidates": {"codec": "tall", "lambda": [0.2, 0.6]},
    "emr": {"codec": "emr"},
    "magnitude": {"codec": "magnitude", "density": 0.3},
    "lossless": {"codec": "lossless"},
    "bitdelta": {"codec": "bitdelta"},
    "tsv_c": {"codec": "tsv_c", "fraction": 0.5},
    "twin": {"codec": "twin", "fraction": 0.5},
}


def packed(models: Path, kind: str = "tall", **options: Any) -> Path:
    """A store of the two experts, beside the models unless ``out`` says where."""
    request = {"out": models.parent / "store", **CODECS[kind], **options}
    tasks = {"a": models / "a", "b": models / "b"}
    pack(models / "base", request.pop("tasks", tasks), **request)
    return Path(request["out"])


def mask_lambda(kind: str) -> float | None:
    return 0.2 if kind == "candidates" else None


def loaded(store: Store, kind: str = "tall") -> dict[str, Model]:
    """All models of a store."""
    return {task: store.load(task, mask_lambda=mask_lambda(kind)) for task in store.tasks}


def flip(path: Path, tensor: str, byte: int, bit: int) -> None:
    """Turn over one bit of a tensor."""
    content = bytearray(path.read_bytes())
    n_header = int.from_bytes(content[:8], "little")
    begin, end = json.loads(content[8 : 8 + n_header])[tensor]["data_offsets"]
    content[8 + n_header + range(begin, end)[byte]] ^= 1 << bit
    path.write_bytes(content)


def assert_refused(read: Callable[[], object], *parts: object, kind: Any = InputError) -> None:
    """One line with these parts."""
    with pytest.raises(kind) as raised:
        read()
    line = str(raised.value)
    assert len(line.splitlines()) == 1
    for part in parts:
        assert str(part) in line, line


def assert_all_refuse(store: Store, name: str, lam: float | None, *parts: object) -> None:
    """Task ``a`` is not to be had in memory, nor on disk, nor is this one tensor of it."""
    out = store.path.parent / "out"
    for framework in ("numpy", "torch"):
        options: dict[str, Any] = {"framework": framework, "mask_lambda": lam}
        assert_refused(lambda: store.load("a", **options), *parts)  # noqa: B023
        assert_refused(lambda: store.tensor("a", name, **options), *parts)  # noqa: B023
    assert_refused(lambda: store.unpack("a", out, mask_lambda=lam), *parts)
    assert not out.exists()


def edit(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change what ``store.json`` says, with a checksum that is right."""
    data = json.loads((path / "store.json").read_text())
    change(data)
    del data["checksum"]
    text = json.dumps(data, sort_keys=True).encode()
    data["checksum"] = hashlib.blake2b(text, digest_size=8).hexdigest()
    (path / "store.json").write_text(json.dumps(data))


def same_values(a: Model, b: Model) -> bool:
    return all(a[name].tobytes() == b[name].tobytes() for name in a)


def refused(models: Path, *parts: object, **options: Any) -> None:
    """Packing is refused with one line, and nothing is written."""
    before = tree(models.parent)
    assert_refused(lambda: packed(models, **options), *parts)
    assert tree(models.parent) == before


def fail(error: BaseException) -> Callable[..., Any]:
    def call(*_: Any, **__: Any) -> Any:
        raise error

    return call
