"""Adapters by hand: a tiny model, adapters of it as PEFT and kohya's scripts write them, results.

A maker returns an ``Adapter``: the tensors, the configuration, and the change of each tensor of the
model, in NumPy. ``merged`` computes what ``base+adapter+...`` must give. None of it knows the
package's own reading of adapters.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from tests.reference import adapters as reference
from tests.reference.dtype import narrow, widen
from tests.support import checkpoints
from tests.support.checkpoints import Array, Model

BF16, F16, F32 = (checkpoints.DTYPES[name] for name in ("BF16", "F16", "F32"))

LINEAR = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


@dataclass(frozen=True)
class Adapter:
    """An adapter as tensors, and what it does."""

    tensors: Model
    config: dict[str, Any] | None
    """The content of adapter_config.json; None for a file of another tool than PEFT."""
    changes: dict[str, reference.Change] = field(default_factory=dict)
    """By the names of the model's tensors."""
    replaced: Model = field(default_factory=dict)
    """Tensors that stand in place of the model's, as they are stored."""

    def write(self, path: Path) -> Path:
        """Write PEFT's directory, or one file for other tools; return its path."""
        if self.config is None:
            path.parent.mkdir(parents=True, exist_ok=True)
            return checkpoints.write(path.with_suffix(".safetensors"), self.tensors)
        path.mkdir(parents=True)
        (path / "adapter_config.json").write_text(json.dumps(self.config))
        checkpoints.write(path / "adapter_model.safetensors", self.tensors)
        return path

    def __or__(self, other: Adapter) -> Adapter:
        """Both as one adapter of disjoint tensors; the configuration is the left one's."""
        config = None if self.config is None else {**(other.config or {}), **self.config}
        return Adapter(
            {**self.tensors, **other.tensors},
            config,
            {**self.changes, **other.changes},
            {**self.replaced, **other.replaced},
        )


def merged(base: Model, *adapters: Adapter) -> Model:
    """The model with all adapters merged in one after the other, rounded once."""
    out = {}
    for name, array in base.items():
        array = next((a.replaced[name] for a in reversed(adapters) if name in a.replaced), array)
        changes = [adapter.changes[name] for adapter in adapters if name in adapter.changes]
        values = widen(array) if changes else array
        for change in changes:
            values = change(values)
        out[name] = narrow(values, array.dtype) if changes else array
    return out


def model(
    dtype: Any = BF16, *, seed: int = 0, n_layers: int = 2, size: int = 16, inner: int = 24
) -> Model:
    """A Llama without biases: 20 tokens, ``size`` features, grouped queries."""
    rng = np.random.default_rng(seed)
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (20, size)}
    for i in range(n_layers):
        layer = f"model.layers.{i}"
        for module in ("q_proj", "o_proj"):
            shapes[f"{layer}.self_attn.{module}.weight"] = (size, size)
        for module in ("k_proj", "v_proj"):
            shapes[f"{layer}.self_attn.{module}.weight"] = (size // 2, size)
        for module in ("gate_proj", "up_proj"):
            shapes[f"{layer}.mlp.{module}.weight"] = (inner, size)
        shapes[f"{layer}.mlp.down_proj.weight"] = (size, inner)
        for norm in ("input_layernorm", "post_attention_layernorm"):
            shapes[f"{layer}.{norm}.weight"] = (size,)
    shapes["model.norm.weight"] = (size,)
    shapes["lm_head.weight"] = (20, size)
    return {name: _normal(rng, shape, dtype) for name, shape in shapes.items()}


def peft_config(rank: int, alpha: float, targets: Sequence[str], **more: Any) -> dict[str, Any]:
    """Return what PEFT writes for LoRA, with its defaults."""
    return {
        "peft_type": "LORA",
        "base_model_name_or_path": None,
        "r": rank,
        "lora_alpha": alpha,
        "target_modules": list(targets),
        "fan_in_fan_out": False,
        "use_rslora": False,
        "use_dora": False,
        "bias": "none",
        "rank_pattern": {},
        "alpha_pattern": {},
        "modules_to_save": None,
        "task_type": "CAUSAL_LM",
        **more,
    }


def lora(
    base: Model,
    targets: Sequence[str] = LINEAR,
    *,
    rank: int = 4,
    alpha: float = 6.0,
    rslora: bool = False,
    dora: bool = False,
    save: Sequence[str] = (),
    dtype: Any = F32,
    seed: int = 1,
    **config: Any,
) -> Adapter:
    """PEFT's LoRA of the linear modules whose names end with ``targets``.

    ``save`` names modules that are trained in full; ``config`` goes into the configuration as is.
    """
    rng = np.random.default_rng(seed)
    scale = alpha / (np.sqrt(rank) if rslora else rank)
    tensors, changes = {}, {}
    for name in _weights(base, targets):
        n_rows, n_columns = base[name].shape
        module = f"base_model.model.{name.removesuffix('.weight')}"
        a = tensors[f"{module}.lora_A.weight"] = _normal(rng, (rank, n_columns), dtype, 0.3)
        b = tensors[f"{module}.lora_B.weight"] = _normal(rng, (n_rows, rank), dtype, 0.3)
        changes[name] = reference.added(reference.product(b, a), scale)
        if dora:
            m = np.abs(_normal(rng, (n_rows,), dtype)) + dtype.type(1)
            tensors[f"{module}.lora_magnitude_vector"] = m
            changes[name] = _then(changes[name], reference.magnitudes(m))
    replaced = {name: _normal(rng, base[name].shape, dtype) for name in _weights(base, save)}
    tensors |= {f"base_model.model.{name}": array for name, array in replaced.items()}
    told = {"use_rslora": rslora, "use_dora": dora, "modules_to_save": list(save) or None}
    return Adapter(tensors, peft_config(rank, alpha, targets, **told, **config), changes, replaced)


def embedding(
    base: Model, *, rank: int = 3, alpha: float = 6.0, dtype: Any = F32, seed: int = 2
) -> Adapter:
    """PEFT's LoRA of the embedding, whose factors stand the other way round."""
    rng, name = np.random.default_rng(seed), "model.embed_tokens.weight"
    n_rows, n_columns = base[name].shape
    a = _normal(rng, (rank, n_rows), dtype, 0.3)
    b = _normal(rng, (n_columns, rank), dtype, 0.3)
    module = "base_model.model.model.embed_tokens"
    return Adapter(
        {f"{module}.lora_embedding_A": a, f"{module}.lora_embedding_B": b},
        peft_config(rank, alpha, ["embed_tokens"]),
        {name: reference.added(reference.product(a.T, b.T), alpha / rank)},
    )


def tokens(base: Model, indices: Sequence[int], *, dtype: Any = F32, seed: int = 3) -> Adapter:
    """PEFT's trained tokens, for ``lora(...) | tokens(...)``: rows in place of the base's."""
    name = "model.embed_tokens.weight"
    values = _normal(np.random.default_rng(seed), (len(indices), base[name].shape[1]), dtype)
    told = "base_model.model.model.embed_tokens.token_adapter.trainable_tokens_delta"
    config = peft_config(4, 4, [], trainable_token_indices={"embed_tokens": list(indices)})
    return Adapter({told: values}, config, {name: reference.rows(indices, values)})


def experts(
    base: Model,
    name: str,
    *,
    rank: int = 2,
    alpha: float = 4.0,
    swapped: bool = True,
    dtype: Any = F32,
    seed: int = 4,
) -> Adapter:
    """PEFT's LoRA of a parameter [experts, out, in], or [experts, in, out] if not ``swapped``."""
    rng = np.random.default_rng(seed)
    n_experts, n_out, n_in = base[name].shape
    if not swapped:
        n_out, n_in = n_in, n_out
    a = _normal(rng, (rank * n_experts, n_in), dtype, 0.3)
    b = _normal(rng, (n_out, rank * n_experts), dtype, 0.3)
    left = b.reshape(n_out, rank, n_experts).transpose(2, 0, 1)
    right = a.reshape(n_experts, rank, n_in)
    if not swapped:
        left, right = right.transpose(0, 2, 1), left.transpose(0, 2, 1)
    module, _, parameter = name.rpartition(".")
    config = peft_config(
        rank, alpha, [], target_parameters=[f"{module.split('.')[-1]}.{parameter}"]
    )
    stem = f"base_model.model.{module}"
    return Adapter(
        {f"{stem}.lora_A.weight": a, f"{stem}.lora_B.weight": b},
        config,
        {name: reference.added(reference.product(left, right), alpha / rank)},
    )


def kohya(
    base: Model,
    targets: Sequence[str] = LINEAR,
    *,
    kind: str = "lora",
    prefix: str = "lora_te",
    rank: int = 4,
    alpha: float | None = 2.0,
    dtype: Any = F16,
    seed: int = 5,
) -> Adapter:
    """kohya's file: ``kind`` is lora, loha, lokr, lokr_low (factors in factors) or diff.

    Weights of more than two dimensions are convolutions. The alpha of None is not written.
    """
    rng = np.random.default_rng(seed)
    tensors: Model = {}
    changes = {}
    for name in _weights(base, targets):
        module = f"{prefix}_{name.removesuffix('.weight').replace('.', '_')}"
        found, effect, has_rank = _KINDS[kind](rng, base[name].shape, rank, dtype)
        tensors |= {f"{module}.{piece}": array for piece, array in found.items()}
        scale = alpha / rank if alpha is not None and has_rank else 1.0
        if alpha is not None and kind != "diff":
            tensors[f"{module}.alpha"] = np.array(alpha, dtype)
        changes[name] = reference.added(effect, scale)
    return Adapter(tensors, None, changes)


def _then(first: reference.Change, second: reference.Change) -> reference.Change:
    return lambda w: second(first(w))


def _weights(base: Mapping[str, Array], targets: Sequence[str]) -> list[str]:
    ends = tuple(f"{target}.weight" for target in targets)
    return [name for name in base if name.endswith(ends)]


def _normal(rng: Any, shape: tuple[int, ...], dtype: Any, size: float = 1.0) -> Array:
    return narrow(size * rng.standard_normal(shape), dtype)


def _factors(shape: tuple[int, ...]) -> tuple[int, int]:
    return shape[0], int(np.prod(shape[1:]))


def _lora(rng: Any, shape: tuple[int, ...], rank: int, dtype: Any) -> Any:
    n_rows, n_columns = _factors(shape)
    down, up = _normal(rng, (rank, n_columns), dtype, 0.3), _normal(rng, (n_rows, rank), dtype, 0.3)
    ones = (1,) * (len(shape) - 2)
    return (
        {
            "lora_down.weight": down.reshape(rank, *shape[1:]),
            "lora_up.weight": up.reshape(n_rows, rank, *ones),
        },
        reference.product(up, down),
        True,
    )


def _loha(rng: Any, shape: tuple[int, ...], rank: int, dtype: Any) -> Any:
    n_rows, n_columns = _factors(shape)
    pieces = {}
    for i in (1, 2):
        pieces[f"hada_w{i}_a"] = _normal(rng, (n_rows, rank), dtype, 0.5)
        pieces[f"hada_w{i}_b"] = _normal(rng, (rank, n_columns), dtype, 0.5)
    first, second = (
        reference.product(pieces[f"hada_w{i}_a"], pieces[f"hada_w{i}_b"]) for i in (1, 2)
    )
    return pieces, first * second, True


def _lokr(rng: Any, shape: tuple[int, ...], rank: int, dtype: Any) -> Any:
    left = _normal(rng, (2, 2), dtype, 0.5)
    right = _normal(rng, (shape[0] // 2, shape[1] // 2, *shape[2:]), dtype, 0.5)
    matrix = right.reshape(len(right), -1)
    return {"lokr_w1": left, "lokr_w2": right}, reference.kronecker(left, matrix), False


def _lokr_low(rng: Any, shape: tuple[int, ...], rank: int, dtype: Any) -> Any:
    n_rows, n_columns = shape[0] // 2, shape[1] // 2 * int(np.prod(shape[2:]))
    left = _normal(rng, (2, 2), dtype, 0.5)
    a, b = _normal(rng, (n_rows, rank), dtype, 0.5), _normal(rng, (rank, n_columns), dtype, 0.5)
    right = reference.product(a, b)
    pieces = {"lokr_w1": left, "lokr_w2_a": a, "lokr_w2_b": b}
    return pieces, reference.kronecker(left, right), True


def _diff(rng: Any, shape: tuple[int, ...], rank: int, dtype: Any) -> Any:
    values = _normal(rng, shape, dtype, 0.1)
    return {"diff": values}, values, False


_KINDS = {"lora": _lora, "loha": _loha, "lokr": _lokr, "lokr_low": _lokr_low, "diff": _diff}
