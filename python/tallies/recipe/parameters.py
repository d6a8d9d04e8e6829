"""Check the parameters of a request against its method, and resolve them for each tensor."""

from __future__ import annotations

import math
import numbers
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import partial
from typing import Protocol

from ..errors import InputError
from ..messages import show, unknown
from ..methods._method import Method
from ..spec.choices import Semantics
from ..spec.parameters import Parameter
from .layers import layer_positions
from .lenient import is_of_others
from .required import Scopes, default_of, told
from .settings import NOT_MERGED, Scalar, Setting, evaluate, is_flat, normalise, stray

_BOOLEANS = {
    **dict.fromkeys(("true", "t", "yes", "y", "on", "1", "1.0"), True),
    **dict.fromkeys(("false", "f", "no", "n", "off", "0", "0.0"), False),
}

# Parameters of mergekit with one value that changes nothing, and the way out for other values.
_ONLY_FALSE = {
    "rescale": "only mergekit rescales trimmed task vectors; leave it out, or set 'semantics: "
    "mergekit' where the method has that"
}


def check_parameters(
    given: Mapping[str, object],
    method: Parametrised,
    semantics: Semantics,
    *,
    where: str = "parameters",
    per_model: bool = False,
) -> dict[str, Setting]:
    """Return the given parameters under their proper names, as settings of checked values.

    Numbers become float, and whole ones integers. Text that reads as a number counts as a number,
    because YAML takes ``1e-3`` for text. A word of an enumeration becomes its member.

    Args:
        given: Values by name or alias.
        method: The method or codec that has the parameters.
        semantics: The author whose variant of the method the merge follows.
        where: The place of the parameters in the recipe, for messages.
        per_model: The parameters belong to one model.

    Raises:
        InputError: A name is unknown, a value has a wrong type, is NaN or out of range, the
            semantics lacks a parameter, or a parameter cannot be given for a model; the message
            names all of these.
    """
    checked: dict[str, Setting] = {}
    problems = []
    for name, value in given.items():
        try:
            if name in _ONLY_FALSE and name not in method.parameters(semantics):
                _refuse_true(name, value)
                continue
            proper, parameter = _find(name, method, semantics)
            if proper in checked:
                raise ValueError(f"{proper!r} is given under two names; keep one")
            checked[proper] = _check(value, parameter, per_model, semantics)
        except ValueError as problem:
            problems.append(f"{where}: {name}: {problem}")
    if problems:
        raise InputError("; ".join(problems))
    return checked


class Parametrised(Protocol):
    """A method, a codec or a modifier: anything that has parameters by name."""

    @property
    def name(self) -> str:
        """The name in messages."""

    @property
    def semantics(self) -> tuple[Semantics, ...]:
        """The variants that exist."""

    def parameters(self, semantics: Semantics = ...) -> dict[str, Parameter]:
        """Return the parameters of a variant, by name."""


class Resolver:
    """The parameters of each tensor, with gradients, rules and defaults worked out.

    A model's own setting comes first, then the shared setting, then the default. A list of rules
    that has none for the name counts as not given. ``warnings`` names the filters that fit no
    tensor, and the gradients that are the same for every tensor.

    Args:
        method: The merge method.
        semantics: The author whose variant of the method the merge follows.
        shared: Checked parameters of all models.
        models: Checked parameters of each model, in order.
        labels: The models' names in messages.
        names: The names of all tensors.
        others: Names of the models that are not merged by themselves: tied and copied tensors.

    Raises:
        InputError: A filter fits no tensor. mergekit passes over it, and so do its semantics.
    """

    def __init__(
        self,
        method: type[Method],
        semantics: Semantics,
        shared: Mapping[str, Setting],
        models: Sequence[Mapping[str, Setting]],
        labels: Sequence[str],
        names: Iterable[str],
        others: Collection[str] = (),
    ) -> None:
        self._method = method
        self._semantics = semantics
        self._parameters = method.parameters(semantics)
        self._shared = shared
        self._models = models
        self._labels = labels
        # Layers take a look at every name: only where a value may depend on them.
        settings = [one for source in (shared, *models) for one in source.values()]
        self._varies = any(isinstance(one, list) for one in settings)
        self._positions = layer_positions(names) if self._varies else dict.fromkeys(names, 0.0)
        self._last: Mapping[str, Scalar | tuple[Scalar, ...]] | None = None
        self.warnings = (
            *told(self._parameters, semantics, self._scopes()),
            *self._unused_filters(others),
            *self._flat_gradients(),
        )

    def parameters_for(self, name: str) -> dict[str, Scalar | tuple[Scalar, ...]]:
        """Return the values for one tensor.

        Args:
            name: One of the names that the resolver was made for.

        Returns:
            Values by parameter; those of a per-model parameter are a tuple in the models' order.

        Raises:
            InputError: A required parameter has no value, or the method refuses the values.
        """
        if self._last is None or self._varies:
            self._last = self._resolved(name)
        return dict(self._last)

    def _resolved(self, name: str) -> dict[str, Scalar | tuple[Scalar, ...]]:
        values: dict[str, Scalar | tuple[Scalar, ...]] = {
            key: tuple(
                self._value(name, key, (own, self._shared), label)
                for own, label in zip(self._models, self._labels, strict=True)
            )
            if parameter.per_model
            else self._value(name, key, (self._shared,), "parameters")
            for key, parameter in self._parameters.items()
        }
        if objection := self._method.objection(values):
            raise InputError(f"{self._method.name}: tensor {name!r}: {objection}")
        return values

    def _value(
        self, name: str, key: str, sources: Iterable[Mapping[str, Setting]], label: str
    ) -> Scalar:
        position = self._positions[name]
        rules = False
        for source in sources:
            if key in source:
                rules = True
                value = evaluate(source[key], name, position)
                if value is not None:
                    return value
        return self._default(name, key, label, rules=rules)

    def _default(self, name: str, key: str, label: str, *, rules: bool) -> Scalar:
        parameter, method = self._parameters[key], self._method.name
        try:
            return default_of(key, parameter, self._semantics, method, name, rules=rules)
        except InputError as error:
            raise InputError(f"{label}: {error}") from None

    def _scopes(self) -> Scopes:
        """Return the models' names in messages, and the settings that hold for each."""
        return [(label, (own, self._shared)) for label, own in self._sources[1:]]

    @property
    def _sources(self) -> list[tuple[str, Mapping[str, Setting]]]:
        return [("parameters", self._shared), *zip(self._labels, self._models, strict=True)]

    def _flat_gradients(self) -> Iterable[str]:
        for label, source in self._sources:
            for key, setting in source.items():
                if is_flat(setting, self._positions):
                    yield (
                        f"{label}: the gradient of {key!r} is the same for every tensor: the "
                        "names show no more than one layer"
                    )

    def _unused_filters(self, others: Collection[str]) -> Iterable[str]:
        for label, source in self._sources:
            for key, setting in source.items():
                for pattern, near in stray(setting, self._positions, others):
                    said = f"{label}: filter {pattern!r} of {key!r} fits no tensor"
                    if near and self._semantics is not Semantics.MERGEKIT:
                        raise InputError(f"{said}; {near}")
                    yield said if near else f"{said} that is merged by itself: {NOT_MERGED}"


def _find(name: str, method: Parametrised, semantics: Semantics) -> tuple[str, Parameter]:
    """Find the parameter of this name or alias, and return its proper name too."""
    parameters = method.parameters(semantics)
    proper = {alias: key for key, value in parameters.items() for alias in (key, *value.aliases)}
    if name in proper:
        return proper[name], parameters[proper[name]]
    others = [other for other in method.semantics if name in method.parameters(other)]
    if others:
        raise ValueError(
            f"{method.name} has it only in {', '.join(others)} semantics, and this merge has "
            f"{semantics}; remove it, or set 'semantics: {others[0]}'"
        )
    complaint = (
        f"parameter of {method.name} {unknown(name, proper)}"
        if proper
        else f"{method.name} has no parameters, found {show(name)}"
    )
    if Semantics.MERGEKIT in method.semantics and is_of_others(name):
        complaint += "; remove it, or set 'semantics: mergekit', which passes over it as that does"
    raise ValueError(complaint)


def _check(value: object, parameter: Parameter, per_model: bool, semantics: Semantics) -> Setting:
    if per_model and not parameter.per_model:
        raise ValueError("is not a parameter of one model; give it under the recipe's 'parameters'")
    is_mergekit = semantics is Semantics.MERGEKIT
    setting = normalise(value, partial(_scalar, parameter=parameter, is_mergekit=is_mergekit))
    varies = parameter.per_model or parameter.per_tensor
    if isinstance(setting, list) and not (
        varies or (is_mergekit and (parameter.switch or not parameter.choices))
    ):
        raise ValueError(f"found {show(value)}, expected one value: it holds for the whole merge")
    return setting


def _scalar(value: object, parameter: Parameter, is_mergekit: bool = False) -> Scalar:
    if parameter.choices is not None:
        if parameter.switch and str(value).lower() in _BOOLEANS:
            value = parameter.switched_on if _boolean(value) else "none"
        if not isinstance(value, str) or value not in parameter.choices:
            raise ValueError(unknown(value, parameter.choices))
        return parameter.choices[parameter.choices.index(value)]
    if isinstance(parameter.default, bool):
        return _boolean(value)
    if isinstance(value, str) and (isinstance(parameter.default, str) or value in parameter.words):
        return value
    if is_mergekit and isinstance(value, bool):
        value = float(value)
    return number(value, parameter)


def _boolean(value: object) -> bool:
    try:
        return _BOOLEANS[str(value).lower()]
    except KeyError:
        raise ValueError(f"found {show(value)}, expected true or false") from None


def number(value: object, parameter: Parameter) -> float:
    """Return a finite number in the parameter's range: an integer for a whole one.

    Raises:
        ValueError: The value is another one; the message says what was found and expected.
    """
    low = -math.inf if parameter.low is None else parameter.low
    high = math.inf if parameter.high is None else parameter.high
    try:
        is_text_or_real = isinstance(value, (float, int, str, numbers.Real))
        number = float(value) if is_text_or_real and not isinstance(value, bool) else math.nan  # type: ignore[arg-type]
    except (ValueError, OverflowError):
        number = math.nan
    if math.isfinite(number) and low <= number <= high:
        if not parameter.whole:
            return number
        if number == int(number):
            return int(number)
    raise ValueError(
        f"found {show(value)}, expected a {'whole' if parameter.whole else 'finite'} number"
        + (f" from {low:g} to {high:g}" if (low, high) != (-math.inf, math.inf) else "")
        + "".join(f" or {word!r}" for word in parameter.words)
    )


def _refuse_true(name: str, value: object) -> None:
    if _boolean(value):
        raise ValueError(_ONLY_FALSE[name])
