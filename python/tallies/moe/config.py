"""A request for a mixture of experts, from YAML, JSON or Python, in mergekit-moe's format."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from ..errors import InputError
from ..messages import show, unknown
from ..recipe.fields import dtype_name, each, entry, optional, path_text, seed, text, whole_number
from ..recipe.places import Places
from ..recipe.record import Record, checked_by
from ..recipe.spelling import model_text
from ..recipe.text import read_file, text_keys

RANDOM: Final = ("random", "uniform_random")
_OF_PROMPTS: Final = ("hidden", "hidden_avg", "hidden_last", "cheap_embed")
STATISTICS: Final = "statistics"
_LARGEST: Final = (2 - 2**-23) * 2.0**127
"""The largest number of float32."""


def _model(value: object) -> str:
    return path_text(model_text(value))


def _gate_mode(value: object) -> str:
    if value in _OF_PROMPTS:
        raise ValueError(
            f"{value} runs the model on prompts, which is not done; 'random' draws gates to be "
            "trained, and 'statistics: FILE' takes the mean hidden states of each expert's prompts"
        )
    known = (*RANDOM, STATISTICS)
    if value not in known:
        raise ValueError(unknown(value, known))
    return str(value)


def _number(value: object) -> float:
    try:
        return float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        raise ValueError(f"found {show(value)}, expected a number") from None


def _of_float32(value: object) -> float:
    found = _number(value)
    if not abs(found) <= _LARGEST:
        raise ValueError(f"found {show(found)}, expected a finite number of float32, such as 0.5")
    return found


_prompts = optional(each(text))


class Expert(Record):
    """A dense model that gives the weights of an expert."""

    source_model: str = checked_by(_model)
    positive_prompts: tuple[str, ...] | None = checked_by(_prompts, None)
    negative_prompts: tuple[str, ...] | None = checked_by(_prompts, None)
    noise_scale: float | None = checked_by(optional(_number), None)
    residual_scale: float | None = checked_by(optional(_of_float32), None)
    """The factor on the weights by which an expert adds to the hidden state."""


_experts = each(entry(Expert, "{source_model: DIR}"))


class MoeConfig(Record):
    """A checked request for a mixture of experts.

    >>> MoeConfig(base_model="a", experts=[{"source_model": "a"}, {"source_model": "b"}],
    ...           gate_mode="random").experts_per_token
    2

    Raises:
        InputError: The request is wrong; one line names everything that is.
    """

    base_model: str = checked_by(_model)
    experts: tuple[Expert, ...] = checked_by(_experts)
    gate_mode: str = checked_by(_gate_mode, "")
    """``random``, ``uniform_random``, or ``statistics``."""
    statistics: str | None = checked_by(optional(path_text), None)
    """The file of the gates' directions."""
    dtype: str | None = checked_by(optional(dtype_name), None)
    experts_per_token: int = checked_by(whole_number(1), 2)
    shared_experts: tuple[Expert, ...] | None = checked_by(optional(_experts), None)
    architecture: str | None = checked_by(optional(text), None)
    """The first letters of the name of a layout."""
    seed: int = checked_by(seed, 0)

    @classmethod
    def _prepared(cls, data: dict[str, Any]) -> dict[str, Any]:
        for key in data:
            if key not in cls.model_fields:
                merges = key in ("merge_method", "models", "slices", "modules")
                way = "; 'tallies merge CONFIG OUT' merges models" if merges else ""
                raise InputError(f"key {unknown(key, cls.model_fields)}{way}")
        if data.get("gate_mode") is None:
            if data.get("statistics") is None:
                raise InputError(
                    "gate_mode: missing, and mergekit's default, hidden, runs the model on "
                    "prompts, which is not done; write 'gate_mode: random', or "
                    "'gate_mode: statistics' with 'statistics: FILE'"
                )
            return {**data, "gate_mode": STATISTICS}
        return data

    def _check(self) -> None:
        if (self.gate_mode == STATISTICS) != (self.statistics is not None):
            raise InputError(
                f"statistics: found {show(self.statistics)}, and gate_mode is {self.gate_mode!r}; "
                "'gate_mode: statistics' and 'statistics: FILE' belong together"
            )
        if len(self.experts) < self.experts_per_token:
            raise InputError(
                f"experts: found {len(self.experts)}, expected at least experts_per_token, which "
                f"is {self.experts_per_token}; list more, or lower that"
            )
        for number, expert in enumerate(self.all_experts):
            if expert.noise_scale is not None:
                raise InputError(
                    f"experts: number {number + 1}: noise_scale: noise is not added; leave it out, "
                    "and add it while you train the result"
                )

    @property
    def all_experts(self) -> tuple[Expert, ...]:
        """The experts, and behind them those that are shared."""
        return (*self.experts, *(self.shared_experts or ()))

    @property
    def texts(self) -> list[str]:
        """The texts of all models, each once; the base is the first."""
        found = [self.base_model, *(one.source_model for one in self.all_experts)]
        return list(dict.fromkeys(found))

    def to_json_dict(self) -> dict[str, Any]:
        """Return plain data with the models as they were written."""
        return self.model_dump(mode="json", exclude_none=True)


@dataclass(frozen=True)
class Request:
    """A request, and the directories from which the texts of its models lead to paths."""

    config: MoeConfig
    places: Places

    @classmethod
    def load(cls, config: str | os.PathLike[str] | Mapping[str, Any], **given: Any) -> Request:
        """Read a request.

        Args:
            config: The path of a YAML or JSON file or of a result's ``tallies.json``, or a mapping.
            **given: Values by key that win over the request's; None keeps those.

        Raises:
            InputError: The file cannot be read, or the request is wrong.
        """
        chosen = {key: value for key, value in given.items() if value is not None}
        if isinstance(config, Mapping):
            return cls(MoeConfig(**{**text_keys(config), **chosen}), Places.of())
        path = os.fspath(config)
        try:
            found, is_report = read_file(path)
            if "stages" in found:
                raise InputError(
                    "holds several documents, expected one: a mixture has no stages; merge the "
                    "models first ('tallies merge'), and name their results as experts"
                )
            places = Places.of(path, is_report=is_report)
            return cls(MoeConfig(**{**text_keys(found), **chosen}), places)
        except InputError as error:
            raise InputError(f"{path}: {error}") from None

    def restated(self, output: str | os.PathLike[str]) -> dict[str, Any]:
        """Return the request as a report in the directory ``output`` states it."""
        data = self.config.to_json_dict()

        def text(model: str) -> str:
            return self.places.relative_to(output, model)

        data["base_model"] = text(data["base_model"])
        for expert in (*data["experts"], *data.get("shared_experts", ())):
            expert["source_model"] = text(expert["source_model"])
        if "statistics" in data:
            data["statistics"] = text(data["statistics"])
        return data
