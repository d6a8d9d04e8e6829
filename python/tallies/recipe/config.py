"""A request to merge, from YAML, JSON, Python or the command line, as a validated model.

The format is mergekit's. Keys of mergekit that are not done are errors, and so is every key or
value that is not known.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Annotated, Any

from pydantic import (
    BaseModel,
    ConfigDict,
    PrivateAttr,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from .. import methods
from ..errors import InputError
from ..methods._method import Method
from ..spec.choices import Nonfinite, Semantics
from ..spec.rules import Rule
from . import modifiers
from .bases import pinned_values
from .complaints import one_line
from .fields import (
    MethodName,
    NonfiniteWord,
    Parameters,
    PathText,
    Seed,
    SemanticsWord,
    VariantName,
    checked_parameters,
    modifier,
)
from .inputs import Inputs
from .keys import known_keys
from .lenient import without_passed_over
from .models import (
    ModelEntry,
    checked_entries,
    refuse_method,
    refuse_models,
    restate,
    stated,
    taking_part,
)
from .output_keys import OutputKeys
from .overrides import Overrides
from .places import Places
from .plain_stacks import with_models
from .slices import without_slices
from .spelling import spelled
from .stack_checks import refuse_stack
from .stack_keys import StackKeys
from .stacks import ModuleEntry, SliceEntry, stacked_experts
from .stages import StageKeys, arranged
from .tensor_keys import TensorKeys
from .text import read_file, text_keys
from .varying import whole_values
from .vocabulary import one_key


class MergeConfig(TensorKeys, OutputKeys, StackKeys, StageKeys, BaseModel):
    """A checked request to merge.

    Parameters stand under their proper names (``lambda`` is ``scale``), numbers are float, and
    dtypes have their safetensors names, whatever the request was made from.

    Raises:
        InputError: The request is wrong; one line names everything that is.

    >>> request = {"merge_method": "linear", "models": [{"model": "a"}, {"model": "b"}]}
    >>> MergeConfig.load(request).constants()
    {'normalize': True, 'schedule': 'constant', 'decay': 0.8, 'integers': 'equal'}
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    merge_method: MethodName
    semantics: SemanticsWord = Semantics.PAPER
    base_model: PathText | None = None
    models: tuple[ModelEntry, ...]
    """The models; where layers are stacked, each model of the sources once."""
    slices: tuple[SliceEntry, ...] | None = None
    modules: dict[str, ModuleEntry] | None = None
    parameters: Parameters = {}
    post_scale: Annotated[Any, modifier("post_scale")] = None
    layer_scaling: Annotated[Any, modifier("layer_scaling")] = None
    drop_layers: Annotated[Any, modifier("drop_layers")] = None
    """``post_scale``, ``layer_scaling`` and ``drop_layers`` are described in ``modifiers``."""
    seed: Seed = 0
    nonfinite: NonfiniteWord = Nonfinite.ERROR
    variant: VariantName | None = None
    _places: Places = PrivateAttr(default_factory=Places.of)
    _passed_over: tuple[str, ...] = PrivateAttr(default=())

    def __init__(self, **data: Any) -> None:
        try:
            super().__init__(**data)
        except ValidationError as error:
            raise InputError(one_line(error)) from None

    @classmethod
    def load(
        cls,
        config: str | os.PathLike[str] | Mapping[str, Any] | MergeConfig,
        overrides: Overrides | None = None,
    ) -> MergeConfig:
        """Read a request.

        Args:
            config: The path of a YAML or JSON file or of a result's ``tallies.json``, a mapping, or
                a checked request.
            overrides: Values that win over the request's, before anything is checked.

        Returns:
            The request with the texts of its models as they were written; ``places`` says where
            they lead.

        Raises:
            InputError: The file cannot be read, or the request is wrong.
        """
        if isinstance(config, MergeConfig):
            if overrides is None:
                return config
            data = overrides.apply(config.model_dump(exclude_unset=True), cls.model_fields)
            return cls(**data)._at(config.places, config._passed_over)
        if isinstance(config, Mapping):
            return cls._of(config, Places.of(), overrides)
        path = os.fspath(config)
        try:
            found, is_report = read_file(path)
            return cls._of(found, Places.of(path, is_report=is_report), overrides)
        except InputError as error:
            raise InputError(f"{path}: {error}") from None

    @classmethod
    def _of(
        cls, data: Mapping[Any, Any], places: Places, overrides: Overrides | None = None
    ) -> MergeConfig:
        known = without_slices(one_key(text_keys(data)), places)
        if overrides is not None:
            known = overrides.apply(known, cls.model_fields)
        known, places, warnings = arranged(known, places, cls._of)
        known, passed_over = without_passed_over(known)
        return cls(**known)._at(places, [*warnings, *passed_over])

    def replace(self, **changes: Any) -> MergeConfig:
        """Return this request with other values, checked again.

        Args:
            **changes: Values by key. A value given wins over the request's; None keeps the
                request's.

        Returns:
            A request whose ``model_fields_set`` names the keys that were given, here or before.

        Raises:
            InputError: The changed request is wrong.
        """
        return MergeConfig.load(self, Overrides(changes))

    def to_json_dict(self) -> dict[str, Any]:
        """Return plain data with the models as they were written."""
        # The sources of a stack name its models.
        unsaid = {"stages"} if not self.stages else set()
        unsaid |= {"copy_tokenizer"} if self.copy_tokenizer else set()
        unsaid |= {"models"} if self.stack else set()
        return self.model_dump(mode="json", exclude_none=True, exclude=unsaid)

    @property
    def places(self) -> Places:
        """The directories from which the texts of the models lead to paths."""
        return self._places

    def relative_to(self, output: str | os.PathLike[str]) -> MergeConfig:
        """Return this request as a report in the directory ``output`` states it.

        ``load`` of such a report repeats the merge, wherever it runs.
        """
        places = Places.of(os.path.join(output, "tallies.json"), is_report=True)
        stages = [(name, one.relative_to(output)) for name, one in self.before()]
        places = places.with_stages(dict(self._places.stages))
        relative = self._restated(partial(self._places.relative_to, output))._at(places)
        return relative.with_stages(stages)

    def pinned(self) -> MergeConfig:
        """Return this request with all that decides what its models are.

        Models of the hub have their commits, see ``Places.pinned``; adapters alone have the models
        that they change before them, see ``with_base``, unless adapters are the result.
        """
        places = self._places.anew()
        if self.adapter_rank is not None:
            return self._restated(places.pinned)._at(places)
        values, warnings = pinned_values(stated(self), places)
        values |= self.pinned_stack(self.models, values["models"], places)
        return self.model_copy(update=values)._at(places, [*self._passed_over, *warnings])

    def inputs(self) -> Inputs:
        """Return the models of this request, which must have the commits of those of the hub."""
        entries = self.models if self.stack else self.experts()[0]
        texts = [self.base_model, *(entry.model for entry in entries)]
        return Inputs(self._places, filter(None, texts), self.files_from, self.variant)

    def _restated(self, text: Callable[[str], str]) -> MergeConfig:
        return self.model_copy(update=restate(stated(self), text) | self.restated_stack(text))

    @property
    def method(self) -> type[Method]:
        """The method's facts."""
        return methods.get(self.merge_method)

    def constants(self) -> dict[str, Any]:
        """Return the parameters of the whole merge; of one that varies, the default."""
        return whole_values(self.parameters, self.method, self.semantics)

    def rule(self) -> Rule:
        """Return the rule by which the method merges each tensor."""
        return self.method.rule(self.constants(), self.semantics)

    def modifiers(self) -> modifiers.Modifiers:
        """Return the changes of the task vectors beside the method's."""
        return modifiers.Modifiers.of(
            {key: getattr(self, key) for key in modifiers.KEYS},
            self.method,
            has_base=self.base_model is not None or self.adapter_rank is not None,
        )

    def experts(self) -> tuple[list[ModelEntry], list[str]]:
        """Return the models that take part, in order, and warnings about the recipe."""
        taken = (self.base_model, self.method, self._places)
        part = (
            stacked_experts(self.stack, *taken)
            if self.stack
            else taking_part(self.models, *taken, self.semantics, self.parameters)
        )
        return part[0], [*self._passed_over, *part[1]]

    @model_validator(mode="before")
    @classmethod
    def _check_keys(cls, data: dict[str, Any]) -> dict[str, Any]:
        """Refuse keys that are not done or not known; drop those that ask for nothing."""
        data = with_models(spelled(data))
        return known_keys(data, cls.model_fields, ModelEntry.model_fields)

    @field_validator("semantics")
    @classmethod
    def _check_semantics(cls, semantics: Semantics, info: ValidationInfo) -> Semantics:
        name = info.data.get("merge_method")
        if name and semantics not in methods.get(name).semantics:
            known = " and ".join(methods.get(name).semantics)
            raise ValueError(f"found {semantics!r}, but {name} has only {known}")
        return semantics

    @field_validator("parameters")
    @classmethod
    def _check_shared(cls, given: dict[str, Any], info: ValidationInfo) -> dict[str, Any]:
        return checked_parameters(given, info=info, where="parameters")

    @field_validator("models")
    @classmethod
    def _check_models(
        cls, entries: tuple[ModelEntry, ...], info: ValidationInfo
    ) -> tuple[ModelEntry, ...]:
        if not entries:
            raise ValueError("found none, expected at least one {model: DIR}")
        return checked_entries(entries, partial(checked_parameters, info=info, per_model=True))

    @model_validator(mode="after")
    def _check_whole(self) -> MergeConfig:
        refuse_method(self.method, self.base_model, self.adapter_rank, self.adapter_space)
        self.modifiers()
        self._check_experts()
        return self

    def _check_experts(self) -> None:
        """Refuse models that cannot be merged; paths decide which of them take part."""
        rest = (self.base_model, self.method, self.semantics, self.parameters)
        if self.stack:
            refuse_stack(self.stack, *rest, self._places)
        else:
            refuse_models(self.experts()[0], *rest)

    def _at(self, places: Places, passed_over: Sequence[str] | None = None) -> MergeConfig:
        """Return this request with other places for its texts, and what was left out of it."""
        placed = self.model_copy()
        placed._places = places
        if passed_over is not None:
            placed._passed_over = tuple(passed_over)
        placed._check_experts()
        return placed
