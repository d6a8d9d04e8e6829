"""Refuses inputs by their data: tensors that must be equal and are not."""

from __future__ import annotations

from collections.abc import Iterator

from ..checkpoint.data import same_bytes
from ..checkpoint.match import Model
from ..checkpoint.tensors import TensorInfo
from ..errors import InputError
from ..spec.choices import Tied
from ..spec.dtypes import refusal
from .plan import MergePlan


def check_inputs(made: MergePlan) -> None:
    """Read the copied and tied tensors of all models and compare them.

    Raises:
        InputError: Tensors that must be equal differ.
        StorageError: Reading fails.
    """
    for model in unique_models(made):
        for alias, canonical in model.tied.items():
            # In joined rows, a head may have rows of another model's own head.
            if not same_bytes(_stored(model.tensors[alias]), _stored(model.tensors[canonical])):
                why, way_out = (
                    ("'tied: tie' asks for one of both", "leave that out")
                    if made.config.tied is Tied.TIE
                    else (
                        "config.json ties them (tie_word_embeddings)",
                        "set that to false, make them equal, or merge heads apart with "
                        "'tied: untie' (--tied untie)",
                    )
                )
                raise InputError(
                    f"{model.label}: tensors {alias!r} and {canonical!r} differ, but {why}; "
                    f"{way_out}"
                )
    accept = made.config.constants()["integers"] == "base"
    for name in made.match.copied:
        first = made.template.tensors[name]
        for model in unique_models(made):
            other = made.match.own(model, name)
            if other is None or accept:
                continue
            if not same_bytes(first, other):
                raise InputError(
                    f"{model.label}: tensor {name!r} is {other.dtype} and differs from that of "
                    f"{made.template.path}; {refusal(other.dtype, 'merged')}: pass "
                    "--param integers=base to take the base's"
                )


def _stored(tensor: TensorInfo) -> TensorInfo:
    """Return the tensor from which another one takes its rows, or the tensor itself."""
    return tensor if tensor.gathered is None else tensor.gathered.source


def unique_models(made: MergePlan) -> Iterator[Model]:
    """Yield the models of a merge, each once."""
    seen = set()
    for model in made.models:
        if model.label not in seen:
            seen.add(model.label)
            yield model
