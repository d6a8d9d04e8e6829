"""Compares the configurations and tokenizers of models whose tensors have equal names and shapes.

Equal shapes do not show other head counts, another base of rotary positions or other tokens.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import Any, Final

from ..errors import InputError
from ..messages import show
from .checkpoint import Checkpoint
from .json_text import is_object
from .tokenizers import differing_tokenizers

_KEYS = """
hidden_size intermediate_size moe_intermediate_size shared_expert_intermediate_size d_model d_ff
d_kv n_embd n_inner ffn_dim encoder_ffn_dim decoder_ffn_dim embed_dim projection_dim head_dim
patch_size image_size qk_nope_head_dim qk_rope_head_dim v_head_dim q_lora_rank kv_lora_rank
state_size num_hidden_layers n_layer n_layers num_layers encoder_layers decoder_layers

num_attention_heads num_key_value_heads n_head n_heads num_heads num_kv_heads
encoder_attention_heads decoder_attention_heads multi_query parallel_attn

num_experts num_local_experts n_routed_experts n_shared_experts num_experts_per_tok
norm_topk_prob routed_scaling_factor n_group topk_group scoring_func

rope_theta rope_scaling rope_local_base_freq partial_rotary_factor rotary_pct rotary_dim
rotary_emb_base position_embedding_type alibi

rms_norm_eps layer_norm_eps layer_norm_epsilon norm_epsilon norm_eps
hidden_act hidden_activation activation_function feed_forward_proj mlp_hidden_act

sliding_window sliding_window_pattern layer_types attn_logit_softcapping
final_logit_softcapping query_pre_attn_scalar attention_multiplier embedding_multiplier
residual_multiplier logits_scaling tie_word_embeddings
"""
_COMPARED: Final = frozenset(_KEYS.split())
"""The keys of config.json that change what the same tensors compute."""

_LAYERS = """
num_hidden_layers n_layer n_layers num_layers encoder_layers decoder_layers layer_types
"""
_OF_LAYERS: Final = frozenset(_LAYERS.split())
"""The keys that say how many layers there are, and of which kinds."""

_OFF: Final = frozenset({"rope_scaling", "sliding_window"})
"""Keys whose null says that there is none; elsewhere null leaves the value to the library."""


def differences(
    models: Sequence[Checkpoint],
    *,
    any_architecture: bool = False,
    tokenizers: bool = True,
    layers: bool = True,
) -> list[str]:
    """Word the differences of models that are to become one.

    A configuration that lacks a key is not compared in it: libraries leave out what they know.

    Args:
        models: The base, or the first model, then the others.
        any_architecture: Warn of another architecture, too, in place of the error.
        tokenizers: Compare the vocabularies and the chat templates as well.
        layers: Compare the numbers and the kinds of layers as well.

    Returns:
        A warning for each difference of a model from the first one that says something: its
        configuration, its vocabulary, its chat template.

    Raises:
        InputError: The configurations are those of different architectures.
    """
    # One that several entries name is compared once.
    unique = list({os.fspath(one.path): one for one in models}.values())
    folders = dict.fromkeys(("", *(part.folder for one in unique for part in one.parts)))
    found: list[str] = []
    for folder in folders:
        configs = [(one, one.config(folder)) for one in unique]
        (first, expected), *others = [pair for pair in configs if pair[1]] or [(unique[0], {})]
        for one, config in others:
            where = os.path.join(one.path, folder, "config.json")
            for key, value, other in _compared(config, expected):
                if not layers and key.rpartition(".")[2] in _OF_LAYERS:
                    continue
                said = f"{where}: {key} is {show(value)}, and {show(other)} in that of {first.path}"
                if key != "model_type":
                    found.append(said)
                elif any_architecture:
                    found.append(f"{said}: another architecture")
                else:
                    raise InputError(
                        f"{said}: models of two architectures are not one; if their tensors mean "
                        "the same nevertheless, pass --architecture any"
                    )
    return found + (differing_tokenizers(unique) if tokenizers else [])


def _compared(found: dict[str, Any], expected: dict[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    """Yield the keys in which two configurations differ, with both values."""
    kinds = (found.get("model_type"), expected.get("model_type"))
    if None not in kinds and kinds[0] != kinds[1]:
        pair = _of_one_kind(found, expected)
        if pair is None:
            yield ("model_type", *kinds)
            return
        found, expected = pair
    classes = (found.get("architectures"), expected.get("architectures"))
    if all(classes) and _folded(classes[0]) != _folded(classes[1]):
        yield ("architectures", *classes)
    ours, theirs = _facts(found), _facts(expected)
    for key in theirs:
        if key in ours and ours[key] != theirs[key]:
            yield key, ours[key], theirs[key]


def _folded(names: object) -> str:
    return str(names).casefold()


def _of_one_kind(
    found: dict[str, Any], expected: dict[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]] | None:
    """Return the configurations of one model type, one of which is part of the other model's."""
    ours, theirs = _by_kind(found), _by_kind(expected)
    return next(((ours[kind], theirs[kind]) for kind in theirs if kind in ours), None)


def _by_kind(config: dict[str, Any]) -> dict[str, dict[str, Any]]:
    nested = [value for value in config.values() if is_object(value)]
    return {
        one["model_type"]: one
        for one in (*nested, config)
        if isinstance(one.get("model_type"), str)
    }


def _facts(config: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return what is compared of a configuration, as every version of transformers says it."""
    config = _as_written_before(config)
    facts: dict[str, Any] = {}
    for key, value in config.items():
        if key in _COMPARED and (value is not None or key in _OFF):
            facts[prefix + key] = value
        elif is_object(value) and key.endswith("_config"):
            facts |= _facts(value, f"{prefix}{key}.")
    return facts


def _as_written_before(config: dict[str, Any]) -> dict[str, Any]:
    """Return a configuration with rotary positions and windows as older versions write them.

    transformers 5 has ``rope_parameters``, of each type of layer if there are several, in the place
    of ``rope_theta`` and ``rope_scaling``.
    """
    config = dict(config)
    rope = config.pop("rope_parameters", None)
    if is_object(rope):
        own = rope.get("sliding_attention")
        if is_object(own) and "rope_theta" in own:
            config.setdefault("rope_local_base_freq", own["rope_theta"])
        full = rope.get("full_attention", rope)
        config |= {key: full[key] for key in ("rope_theta", "partial_rotary_factor") if key in full}
        config["rope_scaling"] = {key: value for key, value in full.items() if key != "rope_theta"}
    if "rope_theta" in config:
        config["rope_scaling"] = _scaling(config.get("rope_scaling"))
    if config.get("use_sliding_window") is False:
        config["sliding_window"] = None
    return config


def _scaling(rope: object) -> dict[str, Any] | None:
    if not is_object(rope):
        return None
    kind = rope.get("rope_type", rope.get("type", "default"))
    rest = {
        key: value
        for key, value in rope.items()
        if key not in ("rope_type", "type", "partial_rotary_factor") and value is not None
    }
    return None if kind == "default" else {"rope_type": kind, **rest}
