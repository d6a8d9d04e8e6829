"""What the user asked for, from YAML, JSON, Python or the command line, as a validated model.

The format is mergekit's, for whole models. Keys of mergekit that are not done are errors, and so is
every key or value that is not known.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StrictInt,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from .. import methods
from ..errors import InputError
from ..messages import show, unknown
from ..methods._method import Method
from ..sizes import parse_size
from ..spec.choices import Choice, Nonfinite, Semantics
from ..spec.dtypes import FLOATS, RECIPE_NAMES, named
from ..spec.rules import Rule
from . import modifiers
from .complaints import _one_line
from .parameters import Resolver, check_parameters
from .text import parse_model, parse_pairs, read_file

_NOT_DONE = {
    "slices": "merging ranges of layers is not done; list whole models under 'models'",
    "modules": "merging by module is not done; list whole models under 'models' and use filters",
    "chat_template": "templates are not written; remove it and add the template to the result",
}
_TOKENIZER = (
    "rows of embeddings are not moved between vocabularies; use 'base' when all models have the "
    "tokens of the base, else align the models first"
)


def _dtype(value: object) -> object:
    if not isinstance(value, str):
        return value
    dtype = named(value)
    if dtype not in FLOATS:
        raise ValueError(unknown(value, RECIPE_NAMES))
    return dtype


def _choice_of(kind: type[Choice]) -> BeforeValidator:
    def check(value: object) -> Choice:
        if value not in tuple(kind):
            raise ValueError(unknown(value, tuple(kind)))
        return kind(value)

    return BeforeValidator(check)


def _method(value: object) -> object:
    name = methods.proper_name(value)
    if name not in methods.names():
        raise ValueError(unknown(name, methods.names()))
    return name


def _path(value: object) -> object:
    path = os.fspath(value) if isinstance(value, os.PathLike) else value
    if not isinstance(path, str):
        return path
    try:
        possible = path and b"\0" not in os.fsencode(path)
    except UnicodeEncodeError:
        possible = False
    if not possible:
        raise ValueError(f"found {show(path)}, expected a path")
    return path


def _size(value: object) -> object:
    if isinstance(value, (str, int)):
        parse_size(value)
    return value


def _modifier(key: str) -> BeforeValidator:
    return BeforeValidator(lambda value: None if value is None else modifiers.check(key, value))


PathText = Annotated[str, BeforeValidator(_path)]
DtypeName = Annotated[str, BeforeValidator(_dtype)]
Parameters = Annotated[
    dict[str, Any], BeforeValidator(lambda value: {} if value is None else value)
]


class ModelEntry(BaseModel):
    """One model of a merge, a directory or a ``.safetensors`` file, with parameters of its own."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: PathText
    parameters: Parameters = {}


class MergeConfig(BaseModel):
    """A checked request to merge.

    However it was made, its parameters stand under their proper names (``lambda`` is ``scale``),
    numbers as float, and dtypes under their safetensors names. Raises InputError, in one line that
    names everything that is wrong.

    >>> request = {"merge_method": "linear", "models": [{"model": "a"}, {"model": "b"}]}
    >>> MergeConfig.load(request).constants()
    {'normalize': True, 'integers': 'equal'}
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    merge_method: Annotated[str, BeforeValidator(_method)]
    semantics: Annotated[Semantics, _choice_of(Semantics)] = Semantics.PAPER
    base_model: PathText | None = None
    models: tuple[ModelEntry, ...]
    parameters: Parameters = {}
    post_scale: Annotated[Any, _modifier("post_scale")] = None
    layer_scaling: Annotated[Any, _modifier("layer_scaling")] = None
    drop_layers: Annotated[Any, _modifier("drop_layers")] = None
    """These three: see ``modifiers``."""
    dtype: DtypeName | None = None
    """The dtype of the result when there is no ``out_dtype``, as in mergekit; sums are float32."""
    out_dtype: DtypeName | None = None
    seed: Annotated[StrictInt, Field(ge=0, lt=1 << 64)] = 0
    nonfinite: Annotated[Nonfinite, _choice_of(Nonfinite)] = Nonfinite.ERROR
    files_from: PathText | None = None
    """The model whose configuration and tokenizer files the result gets; without it, the base."""
    max_shard_size: Annotated[str | StrictInt, BeforeValidator(_size)] = "5GB"

    def __init__(self, **data: Any) -> None:
        try:
            super().__init__(**data)
        except ValidationError as error:
            raise InputError(_one_line(error)) from None

    @classmethod
    def load(cls, config: str | os.PathLike[str] | Mapping[str, Any] | MergeConfig) -> MergeConfig:
        """The request in a YAML or JSON file, a mapping, or the ``tallies.json`` of a result.

        Paths become absolute: looked for from the current directory, then from that of the file. A
        path that is in neither is the reader's to refuse.
        """
        if isinstance(config, MergeConfig):
            return config
        if isinstance(config, Mapping):
            return cls(**_text_keys(config))._located()
        path = os.fspath(config)
        try:
            return cls(**_text_keys(read_file(path)))._located(os.path.dirname(path))
        except InputError as error:
            raise InputError(f"{path}: {error}") from None

    @classmethod
    def from_options(
        cls,
        method: str,
        base: str | None,
        models: Sequence[str],
        params: Sequence[str] = (),
        **keys: Any,
    ) -> MergeConfig:
        """The request of command-line options: ``DIR[:key=value,...]`` for each model.

        ``params`` are ``key=value`` with YAML values, so ``density=[1,0.5]`` is a gradient;
        ``keys`` are further keys of a recipe. None counts as not given.
        """
        data = {
            "merge_method": method,
            "base_model": base,
            "models": [parse_model(text) for text in models],
            "parameters": parse_pairs(params, "--param"),
            **keys,
        }
        return cls.load({key: value for key, value in data.items() if value is not None})

    def replace(self, **changes: Any) -> MergeConfig:
        """This request with other keys, checked again; None counts as not given.

        ``model_fields_set`` names the keys that were given, here or before.
        """
        given = {key: value for key, value in changes.items() if value is not None}
        return MergeConfig(**{**self.model_dump(exclude_unset=True), **given})

    def to_json_dict(self) -> dict[str, Any]:
        """Plain data with absolute paths, from which ``load`` repeats this merge."""
        return self._located().model_dump(mode="json", exclude_none=True)

    @property
    def method(self) -> type[Method]:
        """The method's facts."""
        return methods.get(self.merge_method)

    @property
    def output_dtype(self) -> str | None:
        """The safetensors name of the result's dtype; None: tensor by tensor that of the base."""
        return self.out_dtype or self.dtype

    @property
    def max_shard_bytes(self) -> int:
        """Upper bound for the bytes of an output shard."""
        return parse_size(self.max_shard_size)

    def constants(self) -> dict[str, Any]:
        """The parameters that have one value for the whole merge."""
        return {
            name: self.parameters.get(name, parameter.default)
            for name, parameter in self.method.parameters(self.semantics).items()
            if not (parameter.per_model or parameter.per_tensor)
        }

    def rule(self) -> Rule:
        """What the method does to each tensor."""
        return self.method.rule(self.constants(), self.semantics)

    def modifiers(self) -> modifiers.Modifiers:
        """What changes the task vectors beside the method."""
        return modifiers.Modifiers.of(
            {key: getattr(self, key) for key in modifiers.KEYS},
            self.method,
            has_base=self.base_model is not None,
        )

    def experts(self) -> tuple[list[ModelEntry], list[str]]:
        """The models that take part, in order, and warnings about models that look like a mistake.

        Where there are task vectors the base itself is left out: its own is zero. A method for
        which a base is the first of the models has it there, listed or not.
        """
        base = self.base_model and os.path.realpath(self.base_model)
        experts, warnings = [], []
        seen: set[str] = set()
        for entry in self._in_order():
            path = os.path.realpath(entry.model)
            if path == base and self.method.forms_task_vectors(has_base=True):
                warnings.append(f"{_label(entry)} is the base_model and adds nothing: left out")
                continue
            if path in seen:
                warnings.append(f"{_label(entry)} is listed again and counts again")
            seen.add(path)
            experts.append(entry)
        takes_base = self.method.forms_task_vectors(has_base=True)
        if base and not takes_base and base not in seen:
            warnings.append(f"base_model {self.base_model!r} takes no part in {self.merge_method}")
        return experts, warnings

    def _in_order(self) -> list[ModelEntry]:
        """The models, and before them the base where the method has it first."""
        if not self.base_model or not self.method.base_is_first:
            return list(self.models)
        base = os.path.realpath(self.base_model)
        listed = [entry for entry in self.models if os.path.realpath(entry.model) == base]
        others = [entry for entry in self.models if entry not in listed]
        return [*(listed or [ModelEntry(model=self.base_model)]), *others]

    def resolver(self, names: Iterable[str]) -> Resolver:
        """What resolves the parameters of each tensor, for a checkpoint with these tensor names."""
        experts, _ = self.experts()
        return Resolver(
            self.method,
            self.semantics,
            self.parameters,
            [entry.parameters for entry in experts],
            [_label(entry) for entry in experts],
            names,
        )

    @model_validator(mode="before")
    @classmethod
    def _check_keys(cls, data: dict[str, Any]) -> dict[str, Any]:
        """Refuse keys that are not done or not known; drop those that ask for nothing."""
        data = dict(data)
        problems = [
            f"{key}: {reason}"
            for key, reason in _NOT_DONE.items()
            if data.pop(key, None) is not None
        ]
        for key in ("tokenizer", "tokenizer_source"):
            source = data.pop(key, None)
            if isinstance(source, Mapping) and source.keys() == {"source"}:
                source = source["source"]
            if source not in (None, "base", data.get("base_model")):
                problems.append(f"{key}: found {show(source)}; {_TOKENIZER}")
        problems += _unknown_keys(data, cls, "")
        entries = data.get("models")
        for index, entry in enumerate(entries if isinstance(entries, (list, tuple)) else ()):
            problems += _unknown_keys(entry, ModelEntry, f"models[{index}]: ")
        if problems:
            raise InputError("; ".join(problems))
        return data

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
        return _checked(given, info, where="parameters")

    @field_validator("models")
    @classmethod
    def _check_models(
        cls, entries: tuple[ModelEntry, ...], info: ValidationInfo
    ) -> tuple[ModelEntry, ...]:
        if not entries:
            raise ValueError("found none, expected at least one {model: DIR}")
        checked, problems = [], []
        for entry in entries:
            try:
                given = _checked(entry.parameters, info, where=_label(entry), per_model=True)
                checked.append(entry.model_copy(update={"parameters": given}))
            except InputError as problem:
                problems.append(str(problem))
        if problems:
            raise InputError("; ".join(problems))
        return tuple(checked)

    @model_validator(mode="after")
    def _check_whole(self) -> MergeConfig:
        if self.method.needs_base and self.base_model is None:
            raise InputError(
                f"base_model: missing, and {self.merge_method} needs the model that the others "
                "were tuned from; add 'base_model: DIR' (--base DIR)"
            )
        self.modifiers()
        self._check_experts()
        return self

    def _check_experts(self) -> None:
        """Refuse what depends on which models take part."""
        experts, _ = self.experts()
        if not experts:
            raise InputError("models: found only the base_model, expected a model tuned from it")
        if problem := self.method.number_objection(len(experts)):
            raise InputError(f"models: {problem}")
        paths = {os.path.realpath(entry.model) for entry in experts}
        takes_base = self.method.forms_task_vectors(has_base=True) or self.method.base_is_first
        base = None if takes_base else self.base_model
        if self.semantics is Semantics.MERGEKIT and base and os.path.realpath(base) not in paths:
            raise InputError(
                f"base_model: mergekit averages {base!r} in under {self.merge_method}; list it "
                "under 'models' with its weight, or remove it"
            )
        for key, parameter in self.method.parameters(self.semantics).items():
            if parameter.default is not None or key in self.parameters:
                continue
            if not parameter.per_model:
                raise InputError(
                    f"parameters: {key!r} is missing, and {self.merge_method} has no default for "
                    f"it; add '{key}: VALUE' (--param {key}=VALUE)"
                )
            for entry in experts:
                if key not in entry.parameters:
                    raise InputError(
                        f"{_label(entry)}: {key!r} is missing, and {self.merge_method} has no "
                        f"default for it in {self.semantics} semantics; add '{key}: 1.0'"
                    )

    def _located(self, folder: str = "") -> MergeConfig:
        """This request with absolute paths."""
        update: dict[str, Any] = {
            key: _absolute(path, folder)
            for key in ("base_model", "files_from")
            if (path := getattr(self, key)) is not None
        }
        update["models"] = tuple(
            entry.model_copy(update={"model": _absolute(entry.model, folder)})
            for entry in self.models
        )
        located = self.model_copy(update=update)
        located._check_experts()
        return located


def _label(entry: ModelEntry) -> str:
    return f"model {entry.model!r}"


def _absolute(path: str, folder: str) -> str:
    """The path from the current directory, or from ``folder`` if only that has it."""
    here, there = os.path.abspath(path), os.path.abspath(os.path.join(folder, path))
    return there if os.path.exists(there) and not os.path.exists(here) else here


def _text_keys(data: Mapping[Any, Any]) -> dict[str, Any]:
    return {str(key): value for key, value in data.items()}


def _unknown_keys(data: object, model: type[BaseModel], where: str) -> list[str]:
    known = model.model_fields
    keys = data if isinstance(data, Mapping) else ()
    return [f"{where}key {unknown(key, known)}" for key in keys if key not in known]


def _checked(
    given: dict[str, Any], info: ValidationInfo, *, where: str, per_model: bool = False
) -> dict[str, Any]:
    """Checked parameters, or those given where the method or the semantics are wrong already."""
    if not {"merge_method", "semantics"} <= info.data.keys():
        return given
    method, semantics = methods.get(info.data["merge_method"]), info.data["semantics"]
    return check_parameters(given, method, semantics, where=where, per_model=per_model)
