"""The adapter_config.json of PEFT: scales of its modules, and the kinds that are refused by name.

The file is a stranger's text; a value of another type than PEFT writes is an error.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Final, NoReturn, TypeGuard

from ...errors import InputError
from ...messages import either, show
from ..json_text import is_object, json_object, read_text

CONFIG: Final = "adapter_config.json"

_UNLOAD: Final = "merge it into its model first (PEFT: merge_and_unload, then save_pretrained)"

_OF_PROMPTS: Final = frozenset(
    {"PROMPT_TUNING", "MULTITASK_PROMPT_TUNING", "P_TUNING", "PREFIX_TUNING", "CPT", "CARTRIDGE"}
)
"""Kinds that add tokens or states in front of a model's input, and change no weight."""

_MOST: Final = 1e30
"""The largest alpha; no rank makes of it a scale beyond float32."""

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

    def parameters_of(self, module: str) -> tuple[str, ...]:
        """Return the parameters of a module that are changed without a module of their own."""
        found: dict[str, None] = {}
        for target in self.parameters:
            short = target.rpartition(".")[2]
            if short and f".{module}.{short}".endswith(f".{target}"):
                found[short] = None
        return tuple(found)

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
            if _compiled(pattern).match(module):
                return pattern
        return module


@lru_cache(maxsize=1024)
def _compiled(pattern: str) -> re.Pattern[str]:
    return re.compile(rf"(.*\.)?({pattern})$")


def read_config(path: Path) -> dict[str, object]:
    """Read an adapter_config.json; InputError for a text that is no JSON object."""
    return json_object(read_text(path), str(path))


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
    fields = _Fields(config, path)
    return replace(
        _ranks_and_alphas(fields, "lora_alpha"),
        rslora=fields.flag("use_rslora"),
        fan_in_fan_out=fields.flag("fan_in_fan_out"),
        dora=fields.flag("use_dora"),
        parameters=tuple(fields.texts("target_parameters")),
        tokens=token_lists(config, "trainable_token_indices", path),
    )


def lycoris_config(config: Mapping[str, object], path: Path) -> LoraConfig:
    """Check the settings of an adapter of the kind LoHa or LoKr, which are fewer than LoRA's.

    Args:
        config: The configuration.
        path: Its file.

    Raises:
        InputError: A setting has no value that PEFT writes.
    """
    return _ranks_and_alphas(_Fields(config, path), "alpha")


def _ranks_and_alphas(fields: _Fields, alpha: str) -> LoraConfig:
    rank = fields.config.get("r", 8)
    if type(rank) is not int or rank <= 0:
        _refuse(fields.path, "r", rank, "a positive integer")
    return LoraConfig(
        fields.path,
        rank,
        fields.number(alpha, 8),
        ranks=dict(fields.patterns("rank_pattern", whole=True)),
        alphas=dict(fields.patterns("alpha_pattern")),
    )


@dataclass(frozen=True)
class _Fields:
    """The fields of a configuration by type; null counts as absent."""

    config: Mapping[str, object]
    path: Path

    def flag(self, key: str) -> bool:
        value = self.config.get(key) or False
        if not isinstance(value, bool):
            _refuse(self.path, key, value, "true or false")
        return value

    def number(self, key: str, default: float) -> float:
        value = self.config.get(key)
        if value is None:
            return default
        if not _is_number(value):
            _refuse(self.path, key, value, f"a number of at most {_MOST}")
        return float(value)

    def patterns(self, key: str, *, whole: bool = False) -> Iterator[tuple[str, float]]:
        """Yield the numbers of a setting by pattern of modules' names."""
        value = self.config.get(key) or {}
        if not is_object(value):
            _refuse(self.path, key, value, "an object of numbers")
        for pattern, number in value.items():
            if not _is_number(number) or (whole and (number != int(number) or number <= 0)):
                wanted = "a positive integer" if whole else f"a number of at most {_MOST}"
                _refuse(self.path, f"{key}[{show(pattern)}]", number, wanted)
            try:
                _compiled(pattern)
            except (re.error, RecursionError, OverflowError) as error:
                _refuse(self.path, key, pattern, f"a regular expression ({error})")
            yield pattern, float(number)

    def texts(self, key: str) -> list[str]:
        value = self.config.get(key) or []
        if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
            _refuse(self.path, key, value, "a list of names")
        return value


def token_lists(
    config: Mapping[str, object], key: str, path: Path
) -> Mapping[str, tuple[int, ...]] | tuple[int, ...]:
    """Return the numbers of trained tokens: of any module, or by ends of the names of modules.

    Args:
        config: The configuration.
        key: The setting that has them.
        path: The configuration's file.

    Raises:
        InputError: They are no lists of numbers.
    """
    value = config.get(key) or []
    lists: dict[str, object] = value if is_object(value) else {"": value}
    found: dict[str, tuple[int, ...]] = {}
    for name, rows in lists.items():
        if not isinstance(rows, list) or not all(type(row) is int and row >= 0 for row in rows):
            _refuse(path, key, value, "lists of the numbers of tokens")
        found[name] = tuple(rows)
    return found if is_object(value) else found[""]


def _is_number(value: object) -> TypeGuard[float]:
    # A scale must be finite in float32; a comparison with NaN is false.
    return isinstance(value, int | float) and type(value) is not bool and abs(value) <= _MOST


def _refuse(path: Path, key: str, found: object, expected: str) -> NoReturn:
    raise InputError(
        f"{path}: {key} is {show(found)}, expected {expected}; download the adapter again"
    )
