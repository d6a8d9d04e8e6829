"""Matches the models of a merge whose layers are stacked of slices."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from ..checkpoint.checkpoint import Checkpoint
from ..checkpoint.heads import arranged
from ..checkpoint.match import Match
from ..engine.surveys.survey import survey_of
from ..errors import InputError
from ..recipe.config import MergeConfig
from ..recipe.inputs import Inputs
from ..spec.rules import Rule
from .stack import Stack, refuse_widths
from .stacking import stack


def open_stack(config: MergeConfig, inputs: Inputs) -> Stack:
    """Open the models of a request, and find the tensors of its stack.

    Raises:
        InputError: A model cannot be read, or lacks layers that are asked for; or the request has a
            key that whole models alone can have.
    """
    _refuse_keys(config)
    texts = [entry.model for entry in config.models]
    text = config.base_model or texts[0]
    models = [inputs.open(one) for one in texts]
    template, models = arranged(inputs.open(text), models, config.tied)
    made = stack(config, dict(zip(texts, models, strict=True)), template, text)
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
        raise InputError(
            f"slices: {name} in {config.semantics} semantics ranks the entries of every model over "
            "all tensors, and not every model is in every slice; rank each tensor by itself with "
            "'semantics: mergekit' (--semantics mergekit), or give all slices the same models"
        )
    for key in ("layer_scaling", "drop_layers"):
        if getattr(config, key) is not None:
            raise InputError(
                f"{key}: needs every model in every slice, in one order; leave it out, or give all "
                "slices the same models"
            )


def _refuse_keys(config: MergeConfig) -> None:
    for key in ("missing", "extra", "adapter_rank"):
        if getattr(config, key) is not None:
            raise InputError(
                f"{key}: found {getattr(config, key)!r} beside slices, which take the tensors of "
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


def is_stored_as(template: Checkpoint, name: str, dtype: str) -> bool:
    """Tell if a tensor's stored bytes are its values in a dtype."""
    info = template.tensors[name]
    return info.dtype == dtype and not info.is_decoded
