"""Matches the models of a merge whose layers are stacked of slices."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

from ..checkpoint.checkpoint import Checkpoint
from ..checkpoint.match import Match
from ..engine.surveys.survey import survey_of
from ..errors import InputError
from ..messages import show
from ..recipe.config import MergeConfig
from ..spec.choices import MERGEKIT
from ..spec.rules import Rule
from .stack import Stack, refuse_widths
from .stacking import stack


def stack_of(
    config: MergeConfig, texts: Sequence[str], models: Sequence[Checkpoint], template: Checkpoint
) -> Stack:
    """Find the tensors of the stack that a request asks for.

    Args:
        config: The request.
        texts: The texts of its models.
        models: The models, with the heads and rows that the result is to have.
        template: The base, or the first model, in the same way.

    Raises:
        InputError: A model lacks layers that are asked for; or the request has a key that whole
            models alone can have.
    """
    _refuse_keys(config)
    opened = dict(zip(texts, models, strict=True))
    made = stack(config, opened, template, config.base_model or texts[0])
    refuse_widths(made)
    return made


def refuse_whole_model(made: Stack, rule: Rule, config: MergeConfig) -> None:
    """Refuse what needs all models in every tensor, where some take part in some.

    Raises:
        InputError: The method ranks entries, or a change of task vectors ranks layers, over the
            whole model.
    """
    if made.is_whole:
        return
    name = config.method.name
    if rule.survey is not None and survey_of(rule.survey).of_model:
        ways = ["give all slices the same models in one order"]
        if config.semantics is not MERGEKIT and MERGEKIT in config.method.semantics:
            ways.insert(0, "'semantics: mergekit' (--semantics mergekit) goes by tensor")
        elif "scope" in config.method.parameters(config.semantics):
            ways.insert(0, "'scope: tensor' goes by tensor")
        raise InputError(
            f"slices: {name} in {config.semantics} semantics takes every model as a whole, and not "
            f"every model is in every slice; {', or '.join(ways)}"
        )
    for key in ("layer_scaling", "drop_layers"):
        if getattr(config, key) is not None:
            raise InputError(
                f"{key}: needs every model in every slice, in one order; leave it out, or give all "
                "slices the same models"
            )


def _refuse_keys(config: MergeConfig) -> None:
    for key in ("missing", "extra"):
        if getattr(config, key) not in (None, "error"):
            raise InputError(
                f"{key}: found {show(getattr(config, key))} beside slices, which take tensors of "
                "layers as they are; leave it out, or list whole models under 'models'"
            )


def without_models(found: Match, made: Stack) -> Match:
    """Return a match in which tensors of slices that have the base alone are the base's."""
    return with_copies(found, {name for name in found.merged if not made.taking(name)})


def with_copies(found: Match, copied: Collection[str]) -> Match:
    """Return a match in which some of the merged tensors are the template's after all."""
    aliases = {alias for alias, name in found.tied.items() if name in copied}
    return replace(
        found,
        merged=tuple(name for name in found.merged if name not in copied),
        copied=tuple(sorted({*found.copied, *copied, *aliases}, key=str.encode)),
        tied={alias: name for alias, name in found.tied.items() if alias not in aliases},
    )


def alone(
    parameters: Mapping[str, Mapping[str, Any]],
    template: Checkpoint,
    dtype_of: Callable[[str], str],
) -> set[str]:
    """Return the tensors of one model each whose stored bytes are those of the result.

    Args:
        parameters: The parameters of each merged tensor.
        template: The model that has them.
        dtype_of: Returns the dtype of a tensor of the result.
    """
    found = {name: template.tensors[name] for name in parameters}
    return {
        name
        for name, info in found.items()
        if parameters[name]["scale"] == (1.0,)
        and info.dtype == dtype_of(name)
        and not info.is_decoded
    }
