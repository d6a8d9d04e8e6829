"""Refuses inputs of a packing that its codec cannot keep."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Final

from ...checkpoint.changes import pieces
from ...checkpoint.data import same_bytes, same_tensor
from ...checkpoint.match import Match, Model
from ...checkpoint.tensors import TensorInfo
from ...errors import InputError
from ...messages import either, show
from ...spec.dtypes import refusal
from ..families.family import Family
from ..families.registry import codecs_that_read_decoded
from .inputs import Opened

LORA: Final = "lora"
"""The codec that keeps the adapters of the tasks as they are."""


def refuse_decoded(family: Family, base: TensorInfo, *experts: TensorInfo) -> None:
    """Raise InputError for a tensor with a scale or an adapter, which not all families read."""
    codec = family.codec.name
    if family.reads_decoded:
        return
    for one in (base, *experts):
        if one.scale is not None:
            raise InputError(
                f"{one.path}: tensor {show(one.name)} is {one.dtype} with the scale "
                f"{show(one.scale.tensor.name)}, which codec {codec!r} does not read; pack with "
                f"{either(codecs_that_read_decoded())}, or dequantise the checkpoint to BF16 first"
            )
        for change in one.changes if one is base or not family.reads_adapters else ():
            what = "does not read in a base" if one is base else "cannot keep bit for bit"
            raise InputError(
                f"{pieces(change)[0].path}: is an adapter of tensor {show(one.name)}, which codec "
                f"{codec!r} {what}; pack with "
                f"{either(codecs_that_read_decoded(adapters=True))}, or merge the adapter into its "
                "model first (tallies merge)"
            )


def refuse_other_adapters(
    coded: Sequence[str], matched: Match, models: Sequence[Model], inputs: Opened
) -> None:
    """Raise InputError for a task without the adapters that the base has.

    The codec keeps what the adapters of a task add to the base, so that the base's come first.

    Args:
        coded: The tensors that a task changed.
        matched: The match of the models.
        models: The base and the tasks.
        inputs: The same models, as they were opened.
    """
    base, *tasks = inputs.models.values()
    if not base.adapters:
        return
    first, *names = inputs.models
    replaced = {path for adapter in base.adapters for path in adapter.files}
    for name, model, task in zip(names, models[1:], tasks, strict=True):
        n = len(base.adapters)
        if [one.path for one in task.adapters[:n]] == [one.path for one in base.adapters]:
            continue
        for tensor in coded:
            origin, own = matched.source(models[0], tensor), matched.source(model, tensor)
            is_of_base = bool(origin.changes) or origin.path in replaced
            if is_of_base and not same_tensor(origin, own):
                raise InputError(
                    f"task {show(name)}: {inputs.texts[name]} lacks the adapter of the base "
                    f"{inputs.texts[first]}, which changes tensor {show(tensor)}; codec {LORA!r} "
                    f"keeps what is added to the base: give {base.path} alone as the base, or the "
                    f"base's adapters first in the task ({inputs.texts[first]}+ADAPTER)"
                )


def check_copied(models: Sequence[Model], matched: Match) -> None:
    """Raise InputError where integers or booleans of a task differ from the base's."""
    base, *tasks = models
    for name in matched.copied:
        for task in tasks:
            own = matched.own(task, name)
            if own is not None and not same_bytes(base.tensors[name], own):
                raise InputError(
                    f"{task.label}: tensor {name!r} is {own.dtype} and differs from "
                    f"that of {base.label}; {refusal(own.dtype, 'packed')}: pass --param "
                    "integers=base to take the base's"
                )


def refuse_no_paths(models: Mapping[str, object]) -> None:
    """Raise InputError for the first model that is no path."""
    for label, one in models.items():
        if not isinstance(one, (str, os.PathLike)):
            found = type(one).__name__
            raise InputError(f"{label}: found {found}, expected a path; write the model to disk")
