"""A request for a mixture of experts, from YAML, JSON or Python, in mergekit-moe's format."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Final

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StrictInt,
    ValidationError,
    model_validator,
)

from ..errors import InputError
from ..messages import show, unknown
from ..recipe.complaints import one_line
from ..recipe.fields import DtypeName, PathText, Seed
from ..recipe.places import Places
from ..recipe.spelling import model_text
from ..recipe.text import read_file, text_keys

RANDOM: Final = ("random", "uniform_random")
_OF_PROMPTS: Final = ("hidden", "hidden_avg", "hidden_last", "cheap_embed")
STATISTICS: Final = "statistics"
_LARGEST: Final = (2 - 2**-23) * 2.0**127
"""The largest number of float32."""

ModelText = Annotated[PathText, BeforeValidator(model_text)]


def _gate_mode(value: object) -> object:
    if value in _OF_PROMPTS:
        raise ValueError(
            f"{value} runs the model on prompts, which is not done; 'random' draws gates to be "
            "trained, and 'statistics: FILE' takes the mean hidden states of each expert's prompts"
        )
    known = (*RANDOM, STATISTICS)
    if value not in known:
        raise ValueError(unknown(value, known))
    return value


def _of_float32(value: float | None) -> float | None:
    if value is not None and not abs(value) <= _LARGEST:
        raise ValueError(f"found {show(value)}, expected a finite number of float32, such as 0.5")
    return value


class Expert(BaseModel):
    """A dense model that gives the weights of an expert."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def _check_mapping(cls, data: object) -> object:
        if not isinstance(data, (Mapping, Expert)):
            raise ValueError(f"found {show(data)}, expected {{source_model: DIR}}")
        return data

    source_model: ModelText
    positive_prompts: tuple[str, ...] | None = None
    negative_prompts: tuple[str, ...] | None = None
    noise_scale: float | None = None
    residual_scale: Annotated[float | None, AfterValidator(_of_float32)] = None
    """The factor on the weights by which an expert adds to the hidden state."""


class MoeConfig(BaseModel):
    """A checked request for a mixture of experts.

    >>> MoeConfig(base_model="a", experts=[{"source_model": "a"}, {"source_model": "b"}],
    ...           gate_mode="random").experts_per_token
    2

    Raises:
        InputError: The request is wrong; one line names everything that is.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    base_model: ModelText
    experts: tuple[Expert, ...]
    gate_mode: Annotated[str, BeforeValidator(_gate_mode)] = ""
    """``random``, ``uniform_random``, or ``statistics``."""
    statistics: PathText | None = None
    """The file of the gates' directions."""
    dtype: DtypeName | None = None
    experts_per_token: Annotated[StrictInt, Field(ge=1)] = 2
    shared_experts: tuple[Expert, ...] | None = None
    architecture: str | None = None
    """The first letters of the name of a layout."""
    seed: Seed = 0

    def __init__(self, **data: Any) -> None:
        try:
            super().__init__(**data)
        except ValidationError as error:
            raise InputError(one_line(error)) from None

    @model_validator(mode="before")
    @classmethod
    def _check_keys(cls, data: dict[str, Any]) -> dict[str, Any]:
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

    @model_validator(mode="after")
    def _check_whole(self) -> MoeConfig:
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
        return self

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
