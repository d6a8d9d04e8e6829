"""Merges models that are in memory, as dicts of numpy arrays or torch tensors."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from .. import methods
from .._core import Limits, Plan
from ..checkpoint.match import Match, match, row_length
from ..checkpoint.policy import STATE_DICT, Policy
from ..engine.arrays import Array, view
from ..engine.bar import with_progress
from ..engine.environment import in_float_environment
from ..engine.jobs import Work, settings
from ..engine.limits import limits_in_memory, n_threads
from ..engine.nonfinite import nonfinite_inputs
from ..engine.surveys.survey import survey_of
from ..engine.usage import Advance, Progress
from ..errors import InputError
from ..messages import show, unknown
from ..methods._method import Method
from ..recipe.by_order import with_order
from ..recipe.modifiers import KEYS as MODIFIERS
from ..recipe.modifiers import Modifiers
from ..recipe.parameters import Resolver, check_parameters
from ..recipe.tensor_keys import chosen
from ..recipe.varying import changed_defaults, whole_values
from ..spec.choices import Extra, Missing, Nonfinite, Semantics
from .dicts import check_copied, model_of
from .results import Results
from .steps import Findings, Request, Steps, n_surveys


@with_progress("merge")
@in_float_environment
def merge_state_dicts(
    base: Mapping[str, Any] | None,
    experts: Sequence[Mapping[str, Any]],
    *,
    method: str = "ties",
    weights: Sequence[float] | None = None,
    seed: int = 0,
    semantics: str = "paper",
    nonfinite: str = "error",
    threads: int | None = None,
    post_scale: Any = None,
    layer_scaling: Mapping[str, Any] | None = None,
    drop_layers: Mapping[str, Any] | None = None,
    missing: Any = None,
    extra: Any = None,
    progress: Progress = None,
    out: Mapping[str, Any] | None = None,
    **parameters: Any,
) -> dict[str, Any]:
    """Merge state dicts in memory; the same bits as ``merge`` on the same tensors on disk.

    Inputs are never changed. Equal magnitudes, zeros and NaN are treated as ``tallies methods
    NAME`` says. Names that share their memory in the base and in every expert are tied: counted
    once, and tied in the result.

    Args:
        base: The base's numpy arrays or torch tensors by name; None for methods without one. Types
            are float32, float16, bfloat16, float64 and float8, mixed freely. Integer and boolean
            tensors are copied from the base and must be equal in the experts, unless
            ``integers="base"`` accepts the base's.
        experts: The same for every expert, with equal names and shapes.
        method: The name of the method.
        weights: One number per expert.
        seed: The seed of random methods.
        semantics: The author whose variant of the method is meant.
        nonfinite: ``"error"``, ``"warn"`` of, or ``"propagate"`` NaN and infinite values.
        threads: Number of threads; None for all cores.
        post_scale: A factor on the merged task vector of each tensor, as in recipes.
        layer_scaling: ``{"alpha": ... or "auto", "beta": ...}``, as in recipes.
        drop_layers: ``{"score": ..., "ratio": ...}``, as in recipes.
        missing: ``"error"``, or ``"base"`` to take the base's tensor for one that an expert lacks;
            or filter rules by name, as in recipes.
        extra: ``"error"``, or ``"drop"`` to leave out what the base lacks; or filter rules.
        progress: True for a bar on standard error, False or None for none, or a function that is
            called with the bytes moved so far and the bytes to move in all.
        out: Arrays or tensors by the names of the result, which are written in place and returned.
            Their dtypes are those of the result, and any strides and devices will do; they may
            share memory with inputs. After an error their content is undefined.
        parameters: The method's; a per-model one may be a sequence of one value per expert.

    Returns:
        A dict with the base's names, dtypes, kind (numpy or torch) and device.

    Raises:
        InputError: Names, shapes, types or parameters do not fit, or a value is NaN or infinite and
            ``nonfinite`` is ``"error"``.

    >>> import numpy as np
    >>> base = {"w": np.zeros(4, np.float32)}
    >>> a, b = {"w": np.float32([4, 1, -2, 0])}, {"w": np.float32([2, -3, 1, 0])}
    >>> merge_state_dicts(base, [a, b], density=1.0)["w"]
    array([ 3., -3., -2.,  0.], dtype=float32)
    """
    found = methods.get(method)
    if semantics not in found.semantics:
        raise InputError(f"semantics {unknown(semantics, found.semantics)}")
    if nonfinite not in tuple(Nonfinite):
        raise InputError(f"nonfinite {unknown(nonfinite, tuple(Nonfinite))}")
    if not experts:
        raise InputError("experts: found none, expected at least one state dict")
    if found.needs_base and base is None:
        raise InputError(f"base: missing, and {method} needs the model the experts were tuned from")
    is_first = base is not None and found.base_is_first
    if base is not None and is_first:
        experts, base = [base, *experts], None
    if problem := found.number_objection(len(experts)):
        raise InputError(f"experts: {problem}")
    uses_base = found.forms_task_vectors(base is not None)
    given = zip(MODIFIERS, (post_scale, layer_scaling, drop_layers), strict=True)
    modifiers = Modifiers.of(dict(given), found, has_base=base is not None)
    policy = Policy(
        has_base=uses_base or is_first,
        counters=uses_base or is_first,
        merges=uses_base,
        missing=chosen("missing", missing, Missing),
        extra=chosen("extra", extra, Extra),
        advice=STATE_DICT,
    )
    return _Merge(base if uses_base else None, experts, found, Semantics(semantics)).run(
        policy, weights, parameters, modifiers, Nonfinite(nonfinite), threads, seed, progress, out
    )


class _Merge:
    def __init__(
        self,
        base: Mapping[str, Any] | None,
        experts: Sequence[Mapping[str, Any]],
        method: type[Method],
        semantics: Semantics,
    ) -> None:
        self._method, self._semantics = method, semantics
        self._has_base = base is not None
        dicts = [base, *experts] if base is not None else list(experts)
        labels = (["base"] if base is not None else []) + [
            f"expert {i}" for i in range(len(experts))
        ]
        self._models = [model_of(label, one) for label, one in zip(labels, dicts, strict=True)]
        self._labels = labels[self._has_base :]
        self._template = dicts[0]

    def run(
        self,
        policy: Policy,
        weights: Sequence[float] | None,
        parameters: Mapping[str, Any],
        modifiers: Modifiers,
        nonfinite: Nonfinite,
        threads: int | None,
        seed: int,
        progress: Progress,
        out: Mapping[str, Any] | None,
    ) -> dict[str, Any]:
        matched = match(self._models[0], self._models[1:], policy)
        names = matched.merged
        modifiers.refuse_no_layers(names, self._models[0].label)
        shared, per_model = self._split(weights, parameters)
        resolver = Resolver(
            *(self._method, self._semantics, shared, per_model, self._labels, names),
            [*self._template],
        )
        values = {name: resolver.parameters_for(name) for name in names}
        changed, told = changed_defaults(self._method, self._semantics, shared, values)
        shared = {**shared, **changed}
        constants = whole_values(shared, self._method, self._semantics)
        if constants["integers"] != "base":
            check_copied(self._models, matched)
        results = Results(self._template, out, self._inputs(), matched.tied)
        promotes = self._semantics is Semantics.MERGEKIT
        result = {
            name: results.room(
                name, [matched.source(one, name) for one in self._models], promotes=promotes
            )
            for name in names
        }
        works = [self._work(name, matched, {**values[name], **changed}, result) for name in names]
        limits = limits_in_memory(threads)
        plan = Plan(self._has_base)
        request = Request(
            method=self._method,
            constants=constants,
            semantics=self._semantics,
            modifiers=modifiers,
            names=names,
            labels=self._labels,
            has_base=self._has_base,
            seed=seed,
            nonfinite=nonfinite,
        )

        rule = self._method.rule(constants, self._semantics)
        survey = survey_of(rule.survey) if rule.survey else None
        n_reads = 1 + n_surveys(self._method, modifiers, survey, in_memory=True)
        n_moved = sum(result[name].nbytes for name in names)
        for name in names:
            spared = survey is not None and survey.spares(values[name])
            sources = [matched.source(model, name) for model in self._models]
            n_moved += (n_reads - spared) * sum(source.owner.nbytes for source in sources)
        advance = Advance(progress, n_moved)

        def objections(job: int) -> Iterator[str]:
            yield self._objection(plan, limits, job, names[job])

        steps = Steps(
            request,
            plan,
            lambda: Plan(True),
            works,
            Findings(),
            limits,
            n_workers=n_threads(threads),
            objections=objections,
            progress=advance if advance else None,
            in_memory=True,
        )
        steps.run([range(len(works))])
        advance.finish()
        for warning in (*told, *steps.warnings()):
            # Past run, merge_state_dicts, its floating-point environment and its progress.
            warnings.warn(warning, stacklevel=5)
        return results.finish(matched)

    def _split(
        self, weights: Sequence[float] | None, parameters: Mapping[str, Any]
    ) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        """Return the checked parameters that all experts share, and those of each."""
        known = self._method.parameters(self._semantics)
        shared = dict(parameters)
        own: list[dict[str, Any]] = [{} for _ in self._labels]
        if weights is not None and "weight" in parameters:
            raise InputError("weights: given as 'weight' as well; keep one of the two")
        given = {} if weights is None else {"weight": weights}
        for name, parameter in known.items():
            value = shared.get(name)
            if parameter.per_model and _is_list_of_values(value):
                given[name] = shared.pop(name)
        for name, values in given.items():
            values = list(values) if isinstance(values, Iterable) else [values]
            if len(values) != len(own):
                raise InputError(
                    f"{name}: found {len(values)} values, expected one for each of the "
                    f"{len(own)} experts"
                )
            for one, value in zip(own, values, strict=True):
                one[name] = value
        check = [
            check_parameters(one, self._method, self._semantics, where=label, per_model=True)
            for one, label in zip(own, self._labels, strict=True)
        ]
        known_shared = check_parameters(shared, self._method, self._semantics)
        return known_shared, with_order(self._method, known_shared, check, self._labels)

    def _inputs(self) -> Iterator[Array]:
        """Yield the arrays of all models."""
        for model in self._models:
            yield from model.tensors.values()

    def _work(
        self, name: str, matched: Match, values: dict[str, Any], result: Mapping[str, Any]
    ) -> Work:
        inputs = [matched.source(model, name) for model in self._models]
        return Work(
            name=name,
            n_elements=inputs[0].n_elements,
            inputs=tuple(array.place for array in inputs),
            outputs=(view(name, result[name]).place,),
            row_length=row_length(inputs[0]),
            n_input_bytes=0,
            shape=inputs[0].shape,
            **settings(values, len(self._labels)),
        )

    def _objection(self, plan: Plan, limits: Limits, job: int, name: str) -> str:
        """Return the first reason why a tensor's result is infinite or NaN."""
        for found in nonfinite_inputs(plan, job, len(self._models), limits):
            return (
                f"{self._models[found.number].label}: tensor {show(name)} has {found.count} NaN or "
                f"infinite values, the first at element {found.first}; repair it, or pass "
                "nonfinite='propagate'"
            )
        dtype = self._models[0].tensors[name].dtype
        return (
            f"tensor {show(name)}: the merged values overflow {dtype}; lower the scale or the "
            "weights, or pass nonfinite='propagate'"
        )


def _is_list_of_values(value: Any) -> bool:
    """Return True for one value per expert, False for filter rules or a single value."""
    return isinstance(value, (list, tuple)) and not any(isinstance(v, Mapping) for v in value)
