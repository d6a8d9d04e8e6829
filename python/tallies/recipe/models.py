"""The models of a recipe: their order, the ones that take part, and the ones that are refused."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from pydantic import BaseModel, ConfigDict

from ..errors import InputError
from ..methods._method import Method
from ..spec.choices import AdapterSpace, Embeddings, Semantics
from .by_order import with_order
from .fields import Parameters, PathText
from .places import Places
from .tensor_keys import Renaming
from .vocabulary import restated


class ModelEntry(BaseModel):
    """One model of a merge, a directory or a ``.safetensors`` file, with parameters of its own."""

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)

    model: PathText
    parameters: Parameters = {}
    rename: Renaming = None
    """New prefixes of its tensors' names by old ones."""

    @property
    def label(self) -> str:
        """The model in messages."""
        return f"model {self.model!r}"


def checked_entries(
    entries: Iterable[ModelEntry], check: Callable[..., dict[str, Any]]
) -> tuple[ModelEntry, ...]:
    """Return the entries with their parameters checked; one InputError for all that are wrong."""
    checked, problems = [], []
    for entry in entries:
        try:
            given = check(entry.parameters, where=entry.label)
            checked.append(entry.model_copy(update={"parameters": given}))
        except InputError as problem:
            problems.append(str(problem))
    if problems:
        raise InputError("; ".join(problems))
    return tuple(checked)


def stated(recipe: BaseModel) -> dict[str, Any]:
    """Return the values of a recipe's keys in which models, or paths of weights, stand."""
    keys = ["base_model", "files_from", "models", "tokenizer"]
    if not isinstance(getattr(recipe, "embeddings", Embeddings.ERROR), Embeddings):
        keys.append("embeddings")
    return {key: getattr(recipe, key) for key in keys}


def restate(values: Mapping[str, Any], text: Callable[[str], str]) -> dict[str, Any]:
    """Return a recipe's values by key with ``text`` applied to the text of every model."""

    def one(value: Any) -> Any:
        if isinstance(value, ModelEntry):
            return value.model_copy(update={"model": text(value.model)})
        if isinstance(value, Mapping):
            return restated(value, text)
        return tuple(map(one, value)) if isinstance(value, tuple) else value and text(value)

    return {key: one(value) for key, value in values.items()}


def taking_part(
    entries: Sequence[ModelEntry],
    base_model: str | None,
    method: type[Method],
    places: Places,
    semantics: Semantics,
    shared: Mapping[str, Any],
) -> tuple[list[ModelEntry], list[str]]:
    """Return the models that take part, in order, and warnings about entries that look wrong.

    A model has the parameters that follow from its place beside its own.

    The base itself is left out where there are task vectors: its own is zero. A method for which a
    base is the first of the models has the base there, listed or not. Under a method that needs no
    base, mergekit takes one that is not listed for the last of the models.
    """
    base = base_model and places.identity(base_model)
    takes_base = method.forms_task_vectors(has_base=True)
    experts, warnings = [], []
    joins = semantics is Semantics.MERGEKIT and not (takes_base or method.base_is_first)
    if joins and base_model and base not in {places.identity(one.model) for one in entries}:
        entries = [*entries, ModelEntry(model=base_model)]
        warnings.append(
            f"base_model {base_model!r} is not listed, and joins the models as the last one"
        )
    seen: set[str] = set()
    for entry in _in_order(entries, base_model, method, places):
        path = places.identity(entry.model)
        if path == base and takes_base:
            warnings.append(f"{entry.label} is the base_model and adds nothing: left out")
            continue
        if path in seen:
            warnings.append(f"{entry.label} is listed again and counts again")
        seen.add(path)
        experts.append(entry)
    if not experts and entries and takes_base and semantics is Semantics.MERGEKIT:
        # Its task vector is zero, whatever the method makes of it.
        experts = list(entries[:1])
        warnings = ["models: only the base_model is listed, and the result is the base"]
    if base and not takes_base and base not in seen:
        warnings.append(f"base_model {base_model!r} takes no part in {method.name}")
    return _with_order(experts, method, shared), warnings


def _with_order(
    entries: list[ModelEntry], method: type[Method], shared: Mapping[str, Any]
) -> list[ModelEntry]:
    own, labels = [one.parameters for one in entries], [one.label for one in entries]
    found = with_order(method, shared, own, labels)
    if found == own:
        return entries
    return [
        entry.model_copy(update={"parameters": parameters})
        for entry, parameters in zip(entries, found, strict=True)
    ]


def _in_order(
    entries: Sequence[ModelEntry], base_model: str | None, method: type[Method], places: Places
) -> list[ModelEntry]:
    """Return the models, and before them the base where the method has the base first."""
    if not base_model or not method.base_is_first:
        return list(entries)
    base = places.identity(base_model)
    listed = [entry for entry in entries if places.identity(entry.model) == base]
    others = [entry for entry in entries if entry not in listed]
    return [*(listed or [ModelEntry(model=base_model)]), *others]


def refuse_method(
    method: type[Method],
    base_model: str | None,
    adapter_rank: int | str | None,
    adapter_space: AdapterSpace,
) -> None:
    """Refuse a method of adapters for models, and one that needs a base for models without."""
    if adapter_rank is not None:
        return
    if adapter_space is not AdapterSpace.FULL:
        raise InputError(
            f"adapter_space: {adapter_space} is a space of adapters; say the rank of the result, "
            "'adapter_rank: full' (--adapter-rank full), or leave it out to merge models"
        )
    if method.of_adapters:
        raise InputError(
            f"merge_method: {method.name} merges adapters to an adapter; say its rank: "
            "'adapter_rank: full' (--adapter-rank full)"
        )
    if method.needs_base and base_model is None:
        raise InputError(
            f"base_model: missing, and {method.name} needs the model that the others were tuned "
            "from; add 'base_model: DIR' (--base DIR)"
        )


def refuse_models(
    experts: Sequence[ModelEntry],
    base_model: str | None,
    method: type[Method],
    semantics: Semantics,
    shared: Mapping[str, Any],
) -> None:
    """Refuse a merge that these models cannot make.

    Args:
        experts: The models that take part.
        base_model: The text of the base.
        method: The merge method.
        semantics: The author whose variant of the method the merge follows.
        shared: The parameters that all models share.

    Raises:
        InputError: The number of models does not suit the method, or a parameter without a default
            is missing.
    """
    if not experts:
        raise InputError("models: found only the base_model, expected a model tuned from it")
    if problem := method.number_objection(len(experts)):
        counts = "; the base_model counts as the first of them"
        raise InputError(
            f"models: {problem}{counts if base_model and method.base_is_first else ''}"
        )
    for key, parameter in method.parameters(semantics).items():
        if parameter.default is None and key not in shared:
            given = experts if parameter.per_model else None
            _refuse_missing(key, given, base_model, method, semantics)


def _refuse_missing(
    key: str,
    experts: Iterable[ModelEntry] | None,
    base_model: str | None,
    method: type[Method],
    semantics: Semantics,
) -> None:
    """Refuse a parameter that nobody gives; ``experts`` is None where models have none of it."""
    if experts is None:
        raise InputError(
            f"parameters: {key!r} is missing, and {method.name} has no default for it; add "
            f"'{key}: VALUE' (--param {key}=VALUE)"
        )
    for entry in experts:
        if key not in entry.parameters and entry.model == base_model:
            raise InputError(
                f"base_model: mergekit averages {base_model!r} in under {method.name}, and it has "
                f"no {key!r}; list it under 'models' with its own, give one for all under "
                "'parameters', or remove it"
            )
        if key not in entry.parameters:
            raise InputError(
                f"{entry.label}: {key!r} is missing, and {method.name} has no default for it in "
                f"{semantics} semantics; add '{key}: 1.0'"
            )
