"""The layouts of mixtures of experts: the dense models they take, names, and configurations."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from ..errors import InputError
from ..messages import either, some, unknown

Config = Mapping[str, Any]

PROJECTIONS: Final = ("gate_proj", "up_proj", "down_proj")

_UNSTATED: Final[Mapping[str, Config]] = {
    "llama": {"max_position_embeddings": 2048, "rms_norm_eps": 1e-6, "rope_theta": 10000.0},
    "mistral": {
        **{"max_position_embeddings": 131072, "rms_norm_eps": 1e-6, "rope_theta": 10000.0},
        "num_key_value_heads": 8,
    },
    "qwen2": {
        **{"max_position_embeddings": 32768, "rms_norm_eps": 1e-6, "rope_theta": 10000.0},
        "num_key_value_heads": 32,
    },
    "qwen3": {
        **{"max_position_embeddings": 32768, "rms_norm_eps": 1e-6, "rope_theta": 10000.0},
        **{"num_key_value_heads": 32, "head_dim": 128},
    },
}
"""Values that a dense model has where its config.json leaves them out; those of mixtures differ."""

_STALE: Final = ("auto_map", "quantization_config", "_name_or_path")


@dataclass(frozen=True)
class Layout:
    """A kind of mixture of experts."""

    name: str
    title: str
    model_types: tuple[str, ...]
    """The dense models that it takes, all of one type."""
    shared: tuple[int, ...]
    """The numbers of shared experts that it can have."""
    is_stacked: bool
    """True if the weights of all experts of a layer are one tensor."""
    configure: Callable[[Config, int, int, int], dict[str, Any]]
    """Makes the configuration of the dense one, experts, experts per token and shared experts."""
    shared_prefix: str = ""
    """The name of the shared expert's module."""
    has_shared_gate: bool = False
    has_biases: bool = False
    """True if queries, keys and values have biases, zeros where the dense model has none."""

    def objection(self, model_types: list[str], n_shared: int) -> str | None:
        """Say why a mixture of such models cannot have this layout; None where it can."""
        if len(set(model_types)) > 1:
            return f"takes models of one type, found {some(sorted(set(model_types)))}"
        if model_types[0] not in self.model_types:
            return f"takes {either(self.model_types)} models, found {model_types[0]}"
        if n_shared not in self.shared:
            expected = either([str(n) for n in self.shared])
            way = "; add 'shared_experts: [{source_model: DIR}]'" if n_shared == 0 else ""
            return f"has {expected} shared experts, found {n_shared}{way}"
        return None


def _full(config: Config) -> dict[str, Any]:
    """Return a configuration of a dense model with what it leaves unsaid."""
    unsaid = dict(_UNSTATED.get(str(config.get("model_type")), {}))
    if "rope_parameters" in config:
        unsaid.pop("rope_theta", None)
    if "num_attention_heads" in config:
        unsaid.setdefault("num_key_value_heads", config["num_attention_heads"])
    stated = {key: value for key, value in config.items() if key not in _STALE}
    return {**stated, **{key: one for key, one in unsaid.items() if stated.get(key) is None}}


def _mixtral(config: Config, n_experts: int, per_token: int, n_shared: int) -> dict[str, Any]:
    return {
        **_full(config),
        "architectures": ["MixtralForCausalLM"],
        "model_type": "mixtral",
        "num_local_experts": n_experts,
        "num_experts_per_tok": per_token,
        "sliding_window": None,
    }


def _qwen2(config: Config, n_experts: int, per_token: int, n_shared: int) -> dict[str, Any]:
    return {
        **_full(config),
        "architectures": ["Qwen2MoeForCausalLM"],
        "model_type": "qwen2_moe",
        "num_experts": n_experts,
        "num_experts_per_tok": per_token,
        "decoder_sparse_step": 1,
        "norm_topk_prob": True,
        "qkv_bias": True,
        "sliding_window": None,
        "use_sliding_window": False,
        "shared_expert_intermediate_size": config.get("intermediate_size"),
        "moe_intermediate_size": config.get("intermediate_size"),
    }


def _qwen3(config: Config, n_experts: int, per_token: int, n_shared: int) -> dict[str, Any]:
    return {
        **_full(config),
        "architectures": ["Qwen3MoeForCausalLM"],
        "model_type": "qwen3_moe",
        "num_experts": n_experts,
        "num_experts_per_tok": per_token,
        "decoder_sparse_step": 1,
        "norm_topk_prob": True,
        "moe_intermediate_size": config.get("intermediate_size"),
    }


_DEEPSEEK_CODE: Final = "deepseek-ai/deepseek-moe-16b-base--"


def _deepseek(config: Config, n_experts: int, per_token: int, n_shared: int) -> dict[str, Any]:
    return {
        **_full(config),
        "architectures": ["DeepseekForCausalLM"],
        "model_type": "deepseek",
        "n_routed_experts": n_experts,
        "n_shared_experts": n_shared or None,
        "num_experts_per_tok": per_token,
        "first_k_dense_replace": 0,
        "moe_layer_freq": 1,
        "scoring_func": "softmax",
        "norm_topk_prob": True,
        "moe_intermediate_size": config.get("intermediate_size"),
        "auto_map": {
            "AutoConfig": f"{_DEEPSEEK_CODE}configuration_deepseek.DeepseekConfig",
            "AutoModel": f"{_DEEPSEEK_CODE}modeling_deepseek.DeepseekModel",
            "AutoModelForCausalLM": f"{_DEEPSEEK_CODE}modeling_deepseek.DeepseekForCausalLM",
        },
    }


LAYOUTS: Final = (
    Layout("mixtral", "Mixtral", ("llama", "mistral"), (0,), True, _mixtral),
    Layout(
        "deepseek", "DeepSeek MoE", ("llama", "mistral"), (0, 1), False, _deepseek, "shared_experts"
    ),
    Layout(
        "qwen2",
        "Qwen2 MoE",
        ("qwen2", "llama", "mistral"),
        (1,),
        False,
        _qwen2,
        "shared_expert",
        has_shared_gate=True,
        has_biases=True,
    ),
    Layout("qwen3", "Qwen3 MoE", ("qwen3",), (0,), True, _qwen3),
)
"""In the order in which they are tried."""


def chosen(architecture: str | None, model_types: list[str], n_shared: int) -> Layout:
    """Return the first layout that fits.

    Args:
        architecture: The first letters of the name of the layout, or None for any.
        model_types: ``model_type`` of the base and of all experts.
        n_shared: The number of shared experts.

    Raises:
        InputError: No layout has this name, or none fits.
    """
    asked: tuple[Layout, ...] = LAYOUTS
    if architecture is not None:
        word = architecture.lower().replace(" moe", "")
        asked = tuple(one for one in LAYOUTS if word and one.name.startswith(word))
        if not asked:
            known = [one.name for one in LAYOUTS]
            raise InputError(f"architecture: {unknown(architecture, known)}")
    objections = [(one, one.objection(model_types, n_shared)) for one in asked]
    for layout, objection in objections:
        if objection is None:
            return layout
    told = "; ".join(f"{one.title} {why}" for one, why in objections)
    raise InputError(f"no layout of a mixture of experts fits: {told}")
