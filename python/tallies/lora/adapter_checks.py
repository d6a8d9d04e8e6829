"""Refuses what cannot be merged to an adapter, and tells what a user has to hear."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from ..checkpoint.adapters.recognising import is_adapter
from ..errors import InputError
from ..hub.names import named
from ..messages import counted, show, some
from ..recipe.config import MergeConfig
from ..spec.rules import MEANS
from .operands import Operand
from .targets import Kind, Target

if TYPE_CHECKING:
    from .adapter_plan import AdapterPlan


def refuse_model(text: str, path: str) -> None:
    """Refuse a model that is no adapter of PEFT."""
    if os.path.isfile(os.path.join(path, "adapter_config.json")):
        return
    if is_adapter(path):
        raise InputError(
            f"model {text!r}: is an adapter of another tool than PEFT, whose names tell no tensors "
            "without their model; merge the models instead, each as BASE+ADAPTER, without "
            "adapter_rank"
        )
    raise InputError(
        f"model {text!r}: is no adapter, and adapter_rank merges adapters to an adapter; leave "
        "adapter_rank out to merge models, or make an adapter of the model with 'tallies "
        "extract-lora'"
    )


def refuse_other(first: Target, other: Target, one: str, two: str) -> None:
    """Refuse a target of another shape or kind than that of an earlier adapter."""
    kinds = {first.kind, other.kind}
    if first.shape != other.shape or (len(kinds) > 1 and kinds != {Kind.LINEAR, Kind.PARAMETER}):
        raise InputError(
            f"tensor {show(first.name)}: {one} changes a {first.kind} weight {list(first.shape)}, "
            f"{two} a {other.kind} weight {list(other.shape)}; they are adapters of different "
            "models: merge adapters of one"
        )


_OF_MODELS: Final = {
    "embeddings": "embeddings and heads are not resized",
    "missing": "a tensor that an adapter does not change counts as a change of zero",
    "extra": "a tensor that one adapter alone changes is one of the result's",
    "architecture": "adapters have none",
    "tied": "heads are neither tied nor untied",
    "files_from": "an adapter has no configuration or tokenizer of a model",
    "tokenizer": "embeddings of adapters are not aligned",
    "chat_template": "an adapter has no tokenizer",
    "max_shard_size": "an adapter is one file",
}
"""Keys about models that adapters have no use for, and the reasons."""


def refuse_keys(config: MergeConfig) -> None:
    """Refuse the keys of a request that change nothing about adapters."""
    for key, reason in _OF_MODELS.items():
        # A request that repeats a merge has the error, their default, written out.
        if getattr(config, key) not in (type(config).model_fields[key].default, "error"):
            raise InputError(
                f"{key}: {reason} where adapters are merged to an adapter; leave it out, or merge "
                "the models, each as BASE+ADAPTER, without adapter_rank"
            )


def refuse_modifiers(config: MergeConfig) -> None:
    """Refuse the changes of task vectors that need passes over models."""
    if config.drop_layers is not None:
        raise InputError(
            "drop_layers: layers of adapters are not dropped; leave it out, or give the adapters "
            "weights by layer"
        )
    if config.modifiers().needs_norms:
        raise InputError("layer_scaling: alpha 'auto' is not found for adapters; give a number")


def refuse_partly_saved(made: AdapterPlan) -> None:
    """Refuse tensors that not all adapters hold whole: the others' value is the base's."""
    for name in made.saved:
        lacking = [one.label for one in made.operands if name not in one.whole]
        holder = next(one for one in made.operands if name in one.whole)
        if name in made.targets:
            raise InputError(
                f"tensor {show(name)}: {holder.label} holds it whole, and another adapter changes "
                "it by factors; merge the models instead, each as BASE+ADAPTER, without "
                "adapter_rank"
            )
        if lacking:
            raise InputError(
                f"tensor {show(name)}: {holder.label} holds it whole (modules_to_save), and "
                f"{labels(lacking)} as in the base, whose values no adapter has; merge the models "
                "instead, each as BASE+ADAPTER, without adapter_rank"
            )
        if not (made.is_sum or made.of_factors) or made.rule.blend not in MEANS:
            raise InputError(
                f"tensor {show(name)}: the adapters hold it whole (modules_to_save), and only a "
                f"mean of such tensors needs no base; merge by linear with normalize, or the "
                "models instead, each as BASE+ADAPTER, without adapter_rank"
            )


def common_base(config: MergeConfig, operands: list[Operand]) -> str | None:
    """Return the base that the result names; InputError for adapters of different bases."""
    if config.base_model is not None:
        return config.base_model
    stated = {one.adapter.base: one.label for one in operands if one.adapter.base}
    if len(stated) > 1:
        told = " and ".join(f"{label} of {show(base)}" for base, label in list(stated.items())[:2])
        raise InputError(
            f"models: found adapters of different bases, {told}; merge adapters of one, or name "
            "the base if these are the same model: 'base_model: MODEL' (--base MODEL)"
        )
    return next(iter(stated), None)


def base_text(made: AdapterPlan, out: Path) -> tuple[str | None, dict[str, Any]]:
    """Return the base as adapter_config.json names it, and the revision of a model of the hub."""
    places = made.config.places
    if made.config.base_model is None:
        return made.base, {}
    if places.hub_model(made.config.base_model) is None:
        return places.for_peft(out, made.config.base_model), {}
    model = named(made.config.base_model)
    return (model.repo, {"revision": model.revision}) if model else (made.base, {})


def factor_dtype(config: MergeConfig) -> str:
    """Return the dtype of the factors: float32 unless the request has another."""
    dtype = config.output_dtype or "F32"
    if dtype not in ("F32", "BF16", "F16"):
        raise InputError(f"out_dtype: found {dtype}, expected float32, bfloat16 or float16 factors")
    return dtype


def labels(given: Sequence[str]) -> str:
    """Return the first three labels of a list, which quote the models already."""
    return ", ".join(given[:3]) + (", ..." if len(given) > 3 else "")


def spelled(label: str, renamed: Mapping[str, str]) -> Iterator[str]:
    """Yield a warning about an adapter whose names are another host's than an earlier one's."""
    for old, new in [*renamed.items()][:1]:
        more = f", and {len(renamed) - 1} more" if len(renamed) > 1 else ""
        yield (
            f"{label}: names {show(old)} as another host does; the result has it as earlier "
            f"adapters do, {show(new)}{more}"
        )


def lowered(made: AdapterPlan) -> Iterator[str]:
    """Yield a warning about ranks that the matrices do not have."""
    found = [name for name in made.targets if _is_above(made, name)]
    if found:
        yield (
            f"adapter_rank {made.config.adapter_rank}: {counted(len(found), 'tensor')} of a "
            f"smaller side than the rank, which is lowered to that side: {some(found)}"
        )


def _is_above(made: AdapterPlan, name: str) -> bool:
    asked = made.config.adapter_rank
    return isinstance(asked, int) and asked > made.targets[name].most_rank
