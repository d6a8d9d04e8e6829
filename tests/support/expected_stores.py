"""The files of a store and the restored tasks, by the reference."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
import torch

from tallies import Store
from tests.reference import bitdelta, emr, magnitude, tall
from tests.reference.dtype import narrow
from tests.reference.masks import unpack_bits
from tests.support import strategies
from tests.support.checkpoints import (
    DTYPES,
    Array,
    Model,
    assert_same_tensors,
    data_bytes,
    read_file,
)
from tests.support.everywhere import assert_same_bits

BF16 = np.dtype(ml_dtypes.bfloat16)

NAMES = ("math", "code", "chat", "ψ 4")

SHARED = "shared.safetensors"

HEAD, EMBEDDING = "lm_head.weight", "model.embed_tokens.weight"

TIED = {"tie_word_embeddings": True}

F32, F16, F64 = (np.dtype(kind) for kind in (np.float32, np.float16, np.float64))

KINDS = (F32, BF16, F16, F64) * 2 + strategies.DTYPES[4:]
"""Formats in the shares in which they are drawn: a fifth is float8."""


class Expected(NamedTuple):
    """Files by name; the models by task and, where there are several, lambda."""

    files: dict[str, Model]
    models: dict[tuple[str, float | None], Model]
    scales: list[float]


def without_alias(model: Model) -> Model:
    return {name: array for name, array in model.items() if name != HEAD}


def expect(
    base: Model,
    tasks: Mapping[str, Model],
    codec: str,
    parameters: Mapping[str, Any],
    *,
    tied: bool = False,
) -> Expected:
    """The store of these experts; with ``tied`` the output head is the embedding."""
    given_base, experts = base, list(tasks.values())
    if tied:
        base, experts = without_alias(base), [without_alias(one) for one in experts]
    if codec == "bitdelta":
        found = _expect_bitdelta(base, dict(zip(tasks, experts, strict=True)), parameters)
    else:
        found = _expect_masks(base, dict(zip(tasks, experts, strict=True)), codec, parameters)
    if tied:
        for model in found.models.values():
            model[HEAD] = model[EMBEDDING]
    assert all(model.keys() == given_base.keys() for model in found.models.values())
    return found


def _expect_masks(
    base: Model, tasks: Mapping[str, Model], codec: str, parameters: Mapping[str, Any]
) -> Expected:
    experts = list(tasks.values())
    xs = tall.vectors(base, experts, tall.trained_names(base, experts))
    scales = [1.0] * len(tasks)
    masks: dict[float | None, list[tall.Masks]]
    if codec == "tall":
        shared = tall.shared_vector(xs, *shared_options(parameters))
        lam = parameters.get("lambda", 0.4)
        if isinstance(lam, Mapping):
            masks = {None: tall.masks(xs, shared, [lam[task] for task in tasks])}
        elif isinstance(lam, Sequence):
            masks = {one: tall.masks(xs, shared, one) for one in lam}
        else:
            masks = {None: tall.masks(xs, shared, lam)}
    elif codec == "emr":
        shared = emr.unified_vector(xs)
        masks = {None: emr.masks(xs, shared)}
        # A tensor without elements has no mean, and adds nothing.
        full = [{name: x for name, x in vector.items() if x.size} for vector in xs]
        elected = {name: u for name, u in shared.items() if u.size}
        scales = emr.scales(full, elected, parameters.get("rescale", "code"))
    else:
        shared = tall.shared_vector(xs)
        masks = {None: magnitude.masks(xs, parameters.get("density", 0.1))}
    kind = parameters.get("shared_dtype")
    stored = tall.stored(shared, base, kind and DTYPES[kind])
    files: dict[str, Model] = {SHARED: stored}
    models = {}
    for lam, by_task in masks.items():
        for task, bits, scale in zip(tasks, by_task, scales, strict=True):
            place = f"tasks/{task}" if lam is None else f"candidates/{task}/{lam:g}"
            files[f"{place}.safetensors"] = dict(bits)
            models[task, lam] = tall.unpack(base, stored, bits, scale)
    return Expected(files, models, scales)


def shared_options(parameters: Mapping[str, Any]) -> tuple[str, float]:
    return parameters.get("shared", "ta"), parameters.get("density", 0.2)


def _expect_bitdelta(
    base: Model, tasks: Mapping[str, Model], parameters: Mapping[str, Any]
) -> Expected:
    dense = parameters.get("dense", ",".join(bitdelta.DENSE)).split(",")
    files: dict[str, Model] = {}
    models: dict[tuple[str, float | None], Model] = {}
    # The mean over no elements is 0.
    empty = {
        name: bitdelta.SignBits(np.zeros(0, np.uint8), np.float32(0))
        for name in tall.trained_names(base, list(tasks.values()))
        if not base[name].size and bitdelta.is_binary(name, base[name], dense)
    }
    full = [{n: a for n, a in model.items() if n not in empty} for model in (base, *tasks.values())]
    packed = bitdelta.pack(full[0], full[1:], dense)
    for task, filled in zip(tasks, packed, strict=True):
        parts = {**filled, **empty}
        file: Model = {}
        for name, part in parts.items():
            if isinstance(part, bitdelta.SignBits):
                file[name], file[f"{name}::scale"] = part.bits, narrow(part.scale, np.float32)
            else:
                file[name] = part
        files[f"tasks/{task}.safetensors"] = file
        models[task, None] = bitdelta.unpack(base, parts)
    return Expected(files, models, [1.0] * len(tasks))


def assert_files(store: Path, expected: Expected) -> None:
    """The stock library reads these tensors from the store's files, and there are no others."""
    found = {path for path in data_bytes(store) if path != "store.json"}
    assert found == expected.files.keys()
    for file, tensors in expected.files.items():
        assert_same_tensors(read_file(store / file), tensors)


def assert_restores(store: Store, expected: Expected) -> None:
    """In memory, whole and tensor by tensor, NumPy's and torch's, each task is as it should be."""
    for (task, lam), model in expected.models.items():
        assert_same_tensors(store.load(task, mask_lambda=lam), model)
        tensors = store.load(task, mask_lambda=lam, framework="torch")
        assert tensors.keys() == model.keys()
        for name, array in model.items():
            assert_same_bits(store.tensor(task, name, mask_lambda=lam), array)
            assert_torch(tensors[name], array)


def assert_torch(tensor: torch.Tensor, array: Array) -> None:
    assert str(tensor.dtype) == f"torch.{array.dtype}"
    assert tuple(tensor.shape) == array.shape
    assert tensor.reshape(-1).view(torch.uint8).numpy().tobytes() == array.tobytes()


def n_set(masks: Model, models: Model) -> int:
    """Bits set; those after the last element must be clear."""
    total = 0
    for name, packed in masks.items():
        bits = unpack_bits(packed, 8 * packed.size)
        assert not bits[models[name].size :].any()
        total += int(bits.sum())
    return total


def same(a: Model, b: Model) -> bool:
    return all(tall.same_bytes(a[name], b[name]) for name in a)
