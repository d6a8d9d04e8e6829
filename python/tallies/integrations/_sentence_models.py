"""Merges models of sentence-transformers that are in memory."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from ..errors import InputError
from ..merging.state_dicts import merge_state_dicts
from ..messages import show

if TYPE_CHECKING:
    import torch

_FREE: Final = frozenset({"architectures", "dtype", "torch_dtype", "transformers_version"})
"""Keys of transformers' configurations in which models that can be merged differ."""


def merge_in_memory(
    models: Sequence[Any],
    base: Any | None,
    method: str,
    semantics: str,
    parameters: Mapping[str, Any],
    dtype: torch.dtype | None,
) -> Any:
    """Return a model with the merged weights, and all else of the first model.

    Args:
        models: Models in memory, all of one class; the base is none of them.
        base: The base, or None.
        method: The method's name.
        semantics: The author whose variant of the method is meant.
        parameters: The method's parameters; a sequence has one value for each of ``models``.
        dtype: The dtype of the floating-point tensors of the result; None for those of the first.

    Raises:
        InputError: The models differ in modules, settings or vocabularies, or cannot be merged.
    """
    every = [*models, *([base] if base is not None else [])]
    for number, model in enumerate(every[1:], 1):
        _check(model, every[0], "base" if number == len(models) else f"model {number}")
    states = [_state(model, dtype) for model in every]
    merged = merge_state_dicts(
        states[-1] if base is not None else None,
        states[: len(models)],
        method=method,
        semantics=semantics,
        **parameters,
    )
    made = _with_weights(models[0], merged)
    # The first model's card tells of its own training and scores.
    made._model_card_text = None
    made.model_card_data = made.model_card_data_class(local_files_only=True)
    made.model_card_data.register_model(made)
    return made.eval()


def torch_dtype(key: str, dtype: Any) -> torch.dtype | None:
    """Return torch's dtype of a name such as ``bfloat16``, of one of torch's, or of None."""
    import torch

    found = getattr(torch, dtype, dtype) if isinstance(dtype, str) else dtype
    if found is not None and not isinstance(found, torch.dtype):
        raise InputError(f"{key}: found {show(dtype)}, expected a dtype such as 'bfloat16'")
    return found


def _state(model: Any, dtype: torch.dtype | None) -> dict[str, torch.Tensor]:
    """Return the tensors of a model on the processor; names of one tensor keep sharing it."""
    made: dict[int, torch.Tensor] = {}
    state = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        if id(tensor) not in made:
            value = tensor.detach().cpu()
            made[id(tensor)] = value.to(dtype) if dtype and value.is_floating_point() else value
        state[name] = made[id(tensor)]
    return state


def _with_weights(model: Any, merged: Mapping[str, torch.Tensor]) -> Any:
    """Return a copy of a model that never had its weights, but the merged ones from the start."""
    import torch

    memo: dict[int, Any] = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        if id(tensor) not in memo:
            value = merged[name].to(tensor.device)
            memo[id(tensor)] = (
                torch.nn.Parameter(value, requires_grad=tensor.requires_grad)
                if isinstance(tensor, torch.nn.Parameter)
                else value
            )
    return copy.deepcopy(model, memo)


def _check(model: Any, first: Any, label: str) -> None:
    """Raise InputError if a model's modules, settings or tokens are not those of the first."""
    if type(model) is not type(first):
        raise InputError(
            f"{label}: is a {type(model).__name__}, expected a {type(first).__name__} as model 0"
        )
    own, others = dict(model.named_modules()), dict(first.named_modules())
    if strays := sorted(own.keys() ^ others.keys()):
        raise InputError(
            f"{label}: module {show(strays[0])} is not in both, expected the modules of model 0; "
            "merge models of one architecture"
        )
    for name, module in own.items():
        found, expected = _facts(module), _facts(others[name])
        for key in sorted(found.keys() | expected.keys()):
            if found.get(key) != expected.get(key):
                raise InputError(
                    f"{label}: module {show(name)}: {key} is {show(found.get(key))}, expected "
                    f"{show(expected.get(key))} as in model 0; models that read or pool their "
                    "inputs otherwise have no common weights"
                )


def _facts(module: Any) -> dict[str, Any]:
    """Return all that two modules must agree in for their weights to mean the same."""
    from sentence_transformers.base.modules import Module
    from transformers import PreTrainedModel

    facts: dict[str, Any] = {"type": type(module).__name__, "settings": module.extra_repr()}
    if getattr(module, "peft_config", None):
        facts["adapter"] = "one that is not merged into the weights"
    if isinstance(module, Module):
        facts |= module.get_config_dict()
    if isinstance(module, PreTrainedModel):
        facts |= {
            key: value
            for key, value in module.config.to_dict().items()
            if key not in _FREE and not key.startswith("_")
        }
    tokenizer: Any = getattr(module, "tokenizer", None)
    if hasattr(tokenizer, "get_vocab"):
        facts["special tokens"] = dict(tokenizer.special_tokens_map)
        facts["vocabulary"] = tokenizer.get_vocab()
    return facts
