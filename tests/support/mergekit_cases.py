"""Small Llamas, and the merges of them that mergekit does too."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import DTypeLike, NDArray
from safetensors.numpy import save_file

N_EXPERTS = 4
CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "num_hidden_layers": 3,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "vocab_size": 40,
    "tie_word_embeddings": False,
}
DTYPES: dict[str, DTypeLike] = {"float32": np.float32, "bfloat16": ml_dtypes.bfloat16}


def shapes() -> Iterator[tuple[str, tuple[int, ...]]]:
    yield "model.embed_tokens.weight", (40, 16)
    yield "model.norm.weight", (16,)
    yield "lm_head.weight", (40, 16)
    for layer in range(3):
        prefix = f"model.layers.{layer}"
        yield f"{prefix}.input_layernorm.weight", (16,)
        yield f"{prefix}.post_attention_layernorm.weight", (16,)
        for name, rows in (("q", 16), ("k", 8), ("v", 8), ("o", 16)):
            yield f"{prefix}.self_attn.{name}_proj.weight", (rows, 16)
        yield f"{prefix}.mlp.gate_proj.weight", (24, 16)
        yield f"{prefix}.mlp.up_proj.weight", (24, 16)
        yield f"{prefix}.mlp.down_proj.weight", (16, 24)


@dataclass(frozen=True)
class Case:
    """A merge: parameters of each expert and of all."""

    method: str
    experts: tuple[dict[str, Any], ...]
    shared: dict[str, Any] = field(default_factory=dict)
    base: bool = True
    """True if there is a base, for methods that can have one."""
    joins: bool = False
    """True if a base that is not listed joins the models."""
    first: int = 0
    """The first of the experts; 0 and 1 are nearly opposite, where angles are ill-conditioned."""


def weights(*values: Any) -> tuple[dict[str, Any], ...]:
    return tuple({"weight": value} for value in values)


def ties(*values: tuple[Any, Any]) -> tuple[dict[str, Any], ...]:
    return tuple({"weight": weight, "density": density} for weight, density in values)


RULES = [
    {"filter": "mlp", "value": [0.9, 0.1, 0.4]},
    {"filter": "norm", "value": 1.0},
    {"value": 0.3},
]
CASES = {
    "linear": Case("linear", weights(0.5, 0.3, 0.2, 0.7)),
    "linear, one model": Case("linear", weights(0.3)),
    "linear, sums": Case("linear", weights(0.1, -0.7, 1.3), {"normalize": False}),
    "linear, gradients and filters": Case("linear", weights([0.0, 1.0], RULES, 0.25)),
    "task arithmetic": Case("task_arithmetic", weights(1.0, 0.3, 0.2, 0.7), {"lambda": 0.3}),
    "task arithmetic, negation": Case("task_arithmetic", weights(-1.0)),
    "task arithmetic, means": Case(
        "task_arithmetic", weights(0.3, 0.2, 0.7), {"normalize": True, "lambda": [1.5, 0.5]}
    ),
    "task arithmetic, gradients and filters": Case(
        "task_arithmetic", weights([0.0, 0.6, 0.1], RULES)
    ),
    "ties": Case("ties", weights(1.0, 1.0, 1.0), {"density": 0.2}),
    "ties, untrimmed": Case("ties", weights(1.0, 1.0, 1.0, 1.0)),
    "ties, nothing or one entry left": Case("ties", ties((1.0, 0.0), (1.0, 1e-6), (1.0, 0.5))),
    "ties, weights and densities": Case(
        "ties", ties((0.3, 0.9), (1.7, 0.53), (0.2, 0.2), (0.9, 0.7)), {"lambda": 0.8}
    ),
    "ties, sums": Case("ties", weights(0.4, 0.3, 0.9), {"normalize": False, "density": 0.6}),
    "ties, weights of both signs": Case("ties", ties((1.0, 0.5), (-0.4, 0.5), (0.7, 1.0))),
    "ties, gradients and filters": Case(
        "ties",
        ties(([0.2, 1.0], 0.5), (1.0, RULES), (RULES, [1.0, 0.25])),
        {"lambda": [{"filter": "self_attn", "value": [1.0, 2.0]}, {"value": 1.0}]},
    ),
    "breadcrumbs": Case("breadcrumbs", ties((1.0, 0.5), (0.3, 0.2), (0.7, 0.9))),
    "breadcrumbs, untrimmed": Case("breadcrumbs", weights(1.0, 0.5, 0.25), {"gamma": 0.3}),
    "breadcrumbs, outliers": Case(
        "breadcrumbs",
        ties((1.0, 0.5), (0.3, 0.2), (0.7, 0.9)),
        {"gamma": [0.0, 0.3], "lambda": 0.7, "normalize": True},
    ),
    "breadcrumbs_ties": Case("breadcrumbs_ties", ties((0.5, 0.5), (1.0, RULES), (0.3, 0.0))),
    "breadcrumbs_ties, outliers": Case(
        "breadcrumbs_ties",
        ties((1.0, 0.5), (-0.3, 0.2), (0.7, 0.95)),
        {"gamma": 0.2, "normalize": True},
    ),
    "dare_linear, nothing dropped": Case("dare_linear", weights(1.0, 0.3, 0.2)),
    "dare_ties, nothing or all dropped": Case(
        "dare_ties", ties((1.0, 1.0), (0.4, 1.0), (0.7, 0.0)), {"lambda": 0.8}
    ),
    "dare_ties, means": Case("dare_ties", weights(1.0, 0.3, 0.2), {"normalize": True}),
    "della, nothing dropped": Case("della", weights(1.0, 0.3, 0.2)),
    "della_linear, nothing dropped": Case("della_linear", weights(1.0, 0.3), {"rescale": False}),
    "ram": Case("ram", ({},) * 4),
    "ram, large changes": Case("ram", ({},) * 3, {"epsilon": 0.5}),
    "ramplus": Case("ramplus_tl", ({},) * 3, {"epsilon": 0.5}),
    "ramplus, parameters": Case("ramplus_tl", ({},) * 4, {"epsilon": 0.9, "r": 0.37, "alpha": 5.0}),
    "linear, with a base": Case("linear", ({},) * 3, {"weight": [0.3, 0.7]}, joins=True),
    "linear, a varying normalize": Case(
        "linear", weights(0.3, 0.9, 0.5), {"normalize": [{"filter": "mlp", "value": False}]}
    ),
    "ties, a varying normalize": Case(
        "ties", ties((0.3, 0.9), (1.7, 0.5)), {"normalize": [True, False], "rescale": "off"}
    ),
    "task_arithmetic, a varying normalize": Case(
        "task_arithmetic",
        weights(0.4, True),
        {"normalize": [{"filter": "self_attn", "value": "yes"}, {"value": "n"}], "rescale": True},
    ),
    "ram, a varying epsilon": Case("ram", ({},) * 3, {"epsilon": [0.0, 0.9]}),
    "ties, densities beyond the ends": Case("ties", ties((1.0, 1.5), (0.4, -0.2), (0.7, 0.5))),
    "breadcrumbs, densities beyond the ends": Case(
        "breadcrumbs", ties((1.0, 1.5), (0.4, -0.2), (0.7, 0.5))
    ),
    "ties, an empty list": Case("ties", weights(1.0, 0.5), {"density": [], "lambda": 0.5}),
    "nearswap": Case("nearswap", ({},), {"t": 0.3}),
    "nearswap, gradients and filters": Case(
        "nearswap", ({},), {"t": [{"filter": "mlp", "value": [0.0, 2.0]}, {"value": -1.0}]}
    ),
    "ties, int8_mask": Case("ties", weights(0.5, 0.5), {"density": 0.4, "int8_mask": True}),
}

CLOSE = {
    "model_stock": Case("model_stock", ({}, {}, {})),
    "model_stock, two models": Case("model_stock", ({}, {}), first=2),
    "model_stock, rows": Case("model_stock", ({}, {}, {}, {}), {"filter_wise": True}),
    "slerp": Case("slerp", ({},), {"t": [0.1, 0.7]}),
    "slerp, filters": Case(
        "slerp", ({},), {"t": [{"filter": "mlp", "value": 0.9}, {"value": 0.2}]}
    ),
    "nuslerp": Case("nuslerp", weights(0.3, 0.9), first=2),
    "nuslerp, rows": Case("nuslerp", weights(0.3, 0.9), {"nuslerp_flatten": False}, first=2),
    "nuslerp, columns": Case(
        "nuslerp",
        weights(0.3, 0.9),
        {"nuslerp_flatten": False, "nuslerp_row_wise": True},
        first=2,
    ),
    "nuslerp, columns, no base": Case(
        "nuslerp",
        weights(0.3, 0.9),
        {"nuslerp_flatten": False, "nuslerp_row_wise": True},
        base=False,
        first=2,
    ),
    "nuslerp, rows of some": Case(
        "nuslerp", weights(0.3, 0.9), {"nuslerp_flatten": [True, False]}, first=2
    ),
    "model_stock, rows of some": Case(
        "model_stock", ({}, {}, {}), {"filter_wise": [{"filter": "mlp", "value": True}]}
    ),
    "slerp, beyond the ends": Case("slerp", ({},), {"t": [-0.3, 1.4]}),
    "ties, rescaled": Case("ties", ties((0.5, 0.4), (1.0, RULES), (0.3, 1.0)), {"rescale": True}),
    "ties, some rescaled": Case(
        "ties", ties((0.5, 0.4), (1.0, 0.2)), {"rescale": [True, False], "normalize": False}
    ),
    "breadcrumbs, rescaled": Case(
        "breadcrumbs", ties((0.5, 0.4), (1.0, 0.7)), {"rescale": True, "gamma": 0.1}
    ),
    "nuslerp, no base": Case("nuslerp", weights([0.1, 1.0], 0.9), base=False, first=2),
    "multislerp": Case("multislerp", weights(0.3, 0.9, 0.5, 1.0)),
    "multislerp, sums": Case("multislerp", weights(0.3, 0.9), {"normalize_weights": False}),
    "multislerp, no base": Case("multislerp", weights(1.0, 1.0, 2.0), base=False),
    "karcher": Case("karcher", ({}, {}, {}, {}), base=False),
    "karcher, one move": Case("karcher", ({}, {}, {}), {"max_iter": 1}, base=False),
}
"""Merges that are compared within rounding."""


ARCEE = {f"arcee_fusion, {i}": Case("arcee_fusion", ({},), first=i) for i in (0, 2)}
SCE_CASES = {
    "sce": Case("sce", ({},) * 3),
    "sce, a part": Case("sce", ({},) * 4, {"select_topk": 0.37}),
    "sce, gradients": Case("sce", ({},) * 3, {"select_topk": [1.0, 0.2]}),
    "sce, nothing": Case("sce", ({},) * 2, {"select_topk": 0.0}),
}
# Experts that mergekit weighs equally, because the squares are small, and others.
SCE_DATA = ("small", "float32")


def unique_deltas(rng: np.random.Generator, base: NDArray[Any]) -> NDArray[Any]:
    """Random values whose distances from ``base`` all differ and are below 16."""

    def draw(n: int) -> NDArray[Any]:
        size = np.exp2(rng.uniform(-9, 2, n))
        return (rng.choice([-1.0, 1.0], n) * size).astype(base.dtype)

    values = draw(base.size)
    while True:
        delta = values.astype(np.float32) - base.astype(np.float32)
        again = np.ones(base.size, bool)
        again[np.unique(np.abs(delta), return_index=True)[1]] = False
        if not again.any():
            return values
        values[again] = draw(int(again.sum()))


def models(dtype: DTypeLike) -> list[dict[str, NDArray[Any]]]:
    """A base and experts, with entries that no expert moved and entries that cancel exactly."""
    rng = np.random.default_rng(0)
    found: list[dict[str, NDArray[Any]]] = [{} for _ in range(1 + N_EXPERTS)]
    for name, shape in shapes():
        n = int(np.prod(shape))
        base = rng.normal(size=n).astype(dtype)
        moved, cancelled = rng.permutation(n)[: n * 3 // 4], slice(0, n, 8)
        base[cancelled] = 0
        base[1] = -0.0
        experts = [base.copy() for _ in range(N_EXPERTS)]
        for expert in experts:
            expert[moved] = unique_deltas(rng, base)[moved]
            expert[cancelled] = 0
            expert[1] = -0.0
        # Above all other magnitudes, and exact in bfloat16.
        opposed = 16 * (1 + rng.permutation(128)[: base[cancelled].size] / 128)
        experts[0][cancelled] = opposed
        experts[1][cancelled] = -opposed
        for model, values in zip(found, [base, *experts], strict=True):
            model[name] = values.reshape(shape)
    return found


def recipe(case: Case, folder: Path) -> dict[str, Any]:
    config: dict[str, Any] = {
        "merge_method": case.method,
        "models": [
            {"model": str(folder / f"expert{i}"), "parameters": parameters}
            for i, parameters in enumerate(case.experts, case.first)
        ],
        "parameters": case.shared,
        "dtype": "float32",
    }
    if (case.method == "linear" and not case.joins) or not case.base:
        return config
    return {**config, "base_model": str(folder / "base")}


def small(
    base: dict[str, NDArray[Any]], expert: dict[str, NDArray[Any]]
) -> dict[str, NDArray[Any]]:
    """The expert's changes 2^-20 times as large, on a base of zeros."""
    return {name: np.float32(2**-20) * (expert[name] - base[name]) for name in base}


def write(folder: Path, models: list[dict[str, NDArray[Any]]]) -> None:
    for i, tensors in enumerate(models):
        path = folder / ("base" if i == 0 else f"expert{i - 1}")
        path.mkdir(parents=True)
        save_file(tensors, path / "model.safetensors", {"format": "pt"})
        (path / "config.json").write_text(json.dumps(CONFIG))
