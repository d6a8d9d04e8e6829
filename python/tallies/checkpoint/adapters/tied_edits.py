"""Edits of an output head and an input embedding that are one tensor in the model.

PEFT has two copies of such a tensor while it trains, and one when it merges. It warns of that when
training begins; here the adapter has a warning where the two differ.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from ...errors import InputError
from ...messages import show
from ..checkpoint import Checkpoint
from ..json_text import is_object
from ..tensors import TensorInfo
from ..tied import is_embedding, is_head, tied_pairs
from .adapter import Adapter, Edit

_UNTIE: Final = "untie the model first (a merge of it alone, with tied: untie)"
_LANGUAGE_MODELS: Final = ("ForCausalLM", "LMHeadModel", "ForConditionalGeneration")


def for_tied(checkpoint: Checkpoint, adapter: Adapter) -> Adapter:
    """Return an adapter as it changes a model whose head is its embedding.

    Args:
        checkpoint: The model.
        adapter: The adapter.

    Returns:
        The adapter without the copies that PEFT saves for the head (``ensure_weight_tying``), and
        with a warning if it changes only one of the two, or each by itself.

    Raises:
        InputError: It replaces one of the two, which would replace the other as well.
    """
    heads = [edit for edit in adapter.edits if is_head(edit.name)]
    embeddings = [edit for edit in adapter.edits if is_embedding(edit.name)]
    if not (heads or embeddings) or not _is_tied(checkpoint, heads):
        return adapter
    is_tying = adapter.config.get("ensure_weight_tying")
    if is_tying and embeddings and heads:
        edits = tuple(edit for edit in adapter.edits if not is_head(edit.name))
        return replace(adapter, edits=edits)
    for edit in heads:
        if _replaces(edit):
            told = edit.told_by
            raise InputError(
                f"{told.path}: tensor {show(told.name)} replaces the head, which "
                f"{checkpoint.path} has as its embedding as well; {_UNTIE}, or merge the adapter "
                "where it loads (PEFT: merge_and_unload)"
            )
    if is_tying:
        return adapter
    for edit in embeddings:
        if _replaces(edit) and _is_saved(edit, adapter.config.get("modules_to_save")):
            told = edit.told_by
            raise InputError(
                f"{told.path}: tensor {show(told.name)} replaces the embedding, which "
                f"{checkpoint.path} has as its head as well, while PEFT replaces the embedding "
                f"alone; {_UNTIE}, or merge the adapter where it loads (PEFT: merge_and_unload)"
            )
    # Trained tokens are tied by PEFT itself.
    lone = [edit for edit in (*heads, *embeddings) if _is_of_one(edit)]
    if not lone:
        return adapter
    told = lone[0].told_by
    warning = (
        f"{told.path}: tensor {show(told.name)} changes {show(lone[0].name)}, and with it the "
        f"tensor that {checkpoint.path} ties to it, as PEFT's merge_and_unload does; unmerged, "
        f"PEFT changes one alone: for that, {_UNTIE}"
    )
    return replace(adapter, warnings=(*adapter.warnings, warning))


def _is_of_one(edit: Edit) -> bool:
    """Tell if PEFT makes a change to one of two tied tensors alone."""
    name = edit.told_by.name
    return "trainable_tokens" not in name and ".base_layer." not in name


def _replaces(edit: Edit) -> bool:
    """Tell if an edit puts trained values in the place of a tensor's."""
    # PEFT saves the model's own values behind ".base_layer", beside the factors.
    return isinstance(edit.change, TensorInfo) and ".base_layer." not in edit.told_by.name


def _is_saved(edit: Edit, saved: object) -> bool:
    """Tell if PEFT makes a copy of an edit's module, apart from the tensor that is tied to it."""
    names = saved if isinstance(saved, list) else []
    module = edit.name.rpartition(".")[0]
    return any(isinstance(one, str) and module.endswith(one) for one in names)


def _is_tied(checkpoint: Checkpoint, heads: Sequence[Edit]) -> bool:
    """Tell if a model has its head and its embedding as one tensor."""
    if tied_pairs(checkpoint):
        return True
    if any(map(is_head, checkpoint.tensors)):
        return False
    config = checkpoint.config()
    parts = [config, *(part for part in config.values() if is_object(part))]
    stated = [part["tie_word_embeddings"] for part in parts if "tie_word_embeddings" in part]
    if heads:
        return stated[:1] != [False]
    classes = config.get("architectures") or []
    return True in stated and any(str(one).endswith(_LANGUAGE_MODELS) for one in classes)
