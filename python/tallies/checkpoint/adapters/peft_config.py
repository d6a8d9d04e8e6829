"""The adapter_config.json of PEFT: scales of its modules, and the kinds that are refused by name.

The file is a stranger's text; a value of another type than PEFT writes is an error.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final, NoReturn

from ...errors import InputError
from ...messages import either, show
from ..json_text import json_object, read_text
from .peft_fields import Fields, compiled, refuse_value, token_lists

CONFIG: Final = "adapter_config.json"

_UNLOAD: Final = "merge it into its model first (PEFT: merge_and_unload, then save_pretrained)"

_OF_PROMPTS: Final = frozenset(
    {"PROMPT_TUNING", "MULTITASK_PROMPT_TUNING", "P_TUNING", "PREFIX_TUNING", "CPT", "CARTRIDGE"}
)
"""Kinds that add tokens or states in front of a model's input, and change no weight."""

_BIASES: Final = ("none", "all", "lora_only")

_BASE_CHANGING: Final = re.compile(r"(?:pissa|olora|corda|lora_ga|loftq)", re.IGNORECASE)
"""Initial factors that PEFT takes out of the model's weights, which it changes when it loads."""

_REFUSED: Final[Mapping[str, str]] = {
    "layer_replication": "layer_replication makes a model of other layers",
    "use_qalora": "QALoRA pools the columns of quantised weights",
    "use_bdlora": "BD-LoRA has factors of diagonal blocks",
    "kasa_config": "KaSA changes the model's own weights",
    "arrow_config": "Arrow chooses among adapters by the input",
    "alora_invocation_tokens": "Activated LoRA changes only some tokens",
    "monteclora_config": "MonteCLoRA samples its factors",
    "megatron_config": "Megatron splits its layers otherwise",
}
"""Settings of LoRA that make of it more than a change of weights, and the reason in words."""


@dataclass(frozen=True)
class LoraConfig:
    """The settings of PEFT's LoRA that say how its factors change a model."""

    path: Path
    """The file, for messages."""
    rank: int
    alpha: float
    rslora: bool = False
    fan_in_fan_out: bool = False
    dora: bool = False
    ranks: Mapping[str, float] = field(default_factory=dict)
    """Ranks by pattern of the module's name, in order."""
    alphas: Mapping[str, float] = field(default_factory=dict)
    parameters: tuple[str, ...] = ()
    """Ends of the names of parameters that are changed without a module of their own."""
    tokens: Mapping[str, tuple[int, ...]] | tuple[int, ...] = ()
    """Trained tokens: of the embeddings, or by ends of the names of modules."""
    targets: tuple[str, ...] | re.Pattern[str] = ()
    """Ends of the names of modules that are changed, or a pattern of whole names."""
    saved: tuple[str, ...] = ()
    """Ends of the names of modules whose tensors are saved whole."""

    def parameters_of(self, module: str) -> tuple[str, ...]:
        """Return the parameters that a module may have changed without a module of their own.

        A module that is changed as a whole has none: PEFT refuses to change a parameter of it. A
        target without a dot is a parameter of any module, though most have none of that name.
        """
        if self._is_target(module):
            return ()
        found: dict[str, None] = {}
        for target in self.parameters:
            short = target.rpartition(".")[2]
            if short and f".{module}.{short}".endswith(f".{target}"):
                found[short] = None
        return tuple(found)

    def _is_target(self, module: str) -> bool:
        """Tell if a module is changed as a whole."""
        if isinstance(self.targets, re.Pattern):
            return self.targets.fullmatch(module) is not None
        return any(f".{module}".endswith(f".{target}") for target in self.targets)

    def saves(self, module: str) -> bool:
        """Tell if a module, or one around it, is saved whole."""
        around = [module[:end] for end, one in enumerate(module) if one == "."]
        return any(one.endswith(self.saved) for one in (*around, module))

    def rank_of(self, module: str) -> int:
        """Return the rank of a module by its name."""
        return int(self.ranks.get(self._key(self.ranks, module), self.rank))

    def scale_of(self, module: str, rank: int) -> float:
        """Return the factor on a module's product."""
        alpha = self.alphas.get(self._key(self.alphas, module), self.alpha)
        return alpha / (math.sqrt(rank) if self.rslora else rank)

    def _key(self, patterns: Mapping[str, float], module: str) -> str:
        """Return the first pattern that the end of a name matches, from a dot on."""
        for pattern in patterns:
            if compiled(pattern).match(module):
                return pattern
        return module


def read_config(path: Path) -> dict[str, object]:
    """Read an adapter_config.json; InputError for a text that is no JSON object."""
    return json_object(read_text(path), str(path))


def base_of(config: Mapping[str, object], path: Path) -> str | None:
    """Return the text of the model that an adapter changes; None where it names none.

    Args:
        config: The configuration.
        path: Its file.

    Raises:
        InputError: ``base_model_name_or_path`` is no text.
    """
    base = config.get("base_model_name_or_path")
    if base is not None and not isinstance(base, str):
        refuse_value(path, "base_model_name_or_path", base, "a name or a path")
    return base or None


def kind_of(config: Mapping[str, object], path: Path) -> str:
    """Return the kind of an adapter, such as ``LORA``.

    Args:
        config: The configuration.
        path: Its file.

    Raises:
        InputError: The configuration names none, or one that is not read.
    """
    kind = config.get("peft_type")
    if not isinstance(kind, str) or not kind:
        raise InputError(
            f"{path}: peft_type is {show(kind)}, expected a name such as 'LORA'; download the "
            "adapter again"
        )
    return kind.upper()


def refuse_kind(path: Path, kind: str, known: tuple[str, ...]) -> NoReturn:
    """Raise ``InputError`` for a kind of adapter that is not read."""
    if kind in _OF_PROMPTS:
        raise InputError(
            f"{path}: is an adapter of the kind {show(kind)}, which changes no weight of a model; "
            f"leave it out (there is nothing to merge, nor has PEFT a merge_and_unload for it)"
        )
    raise InputError(
        f"{path}: is an adapter of the kind {show(kind)}, expected {either(known)}; {_UNLOAD}"
    )


def lora_config(config: Mapping[str, object], path: Path) -> LoraConfig:
    """Check the settings of an adapter of the kind LoRA.

    Args:
        config: The configuration.
        path: Its file.

    Raises:
        InputError: A setting has no value that PEFT writes, or asks for more than a change of
            weights.
    """
    for key, why in _REFUSED.items():
        if config.get(key):
            raise InputError(f"{path}: {key} is {show(config[key])}: {why}; {_UNLOAD}")
    initial = config.get("init_lora_weights")
    if isinstance(initial, str) and _BASE_CHANGING.match(initial):
        raise InputError(
            f"{path}: init_lora_weights is {show(initial)}: the factors belong to a model whose "
            "weights PEFT changes when it loads the adapter; convert it (PEFT: save_pretrained "
            "with path_initial_model_for_weight_conversion), or " + _UNLOAD
        )
    fields = Fields(config, path)
    if config.get("bias") not in (None, *_BIASES):
        refuse_value(path, "bias", config["bias"], either(_BIASES))
    return replace(
        _ranks_and_alphas(fields, "lora_alpha"),
        rslora=fields.flag("use_rslora"),
        fan_in_fan_out=fields.flag("fan_in_fan_out"),
        dora=fields.flag("use_dora"),
        parameters=tuple(fields.texts("target_parameters")),
        tokens=token_lists(config, "trainable_token_indices", path),
        targets=fields.targets(),
    )


def lycoris_config(config: Mapping[str, object], path: Path) -> LoraConfig:
    """Check the settings of an adapter of the kind LoHa or LoKr, which are fewer than LoRA's.

    Args:
        config: The configuration.
        path: Its file.

    Raises:
        InputError: A setting has no value that PEFT writes.
    """
    return _ranks_and_alphas(Fields(config, path), "alpha")


def _ranks_and_alphas(fields: Fields, alpha: str) -> LoraConfig:
    rank = fields.config.get("r", 8)
    if type(rank) is not int or rank <= 0:
        refuse_value(fields.path, "r", rank, "a positive integer")
    return LoraConfig(
        fields.path,
        rank,
        fields.number(alpha, 8),
        ranks=dict(fields.patterns("rank_pattern", whole=True)),
        alphas=dict(fields.patterns("alpha_pattern")),
        saved=tuple(fields.texts("modules_to_save")),
    )
