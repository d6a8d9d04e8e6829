"""States the facts of a plan that its text, its data and the report share."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..checkpoint.cards import of_one_model
from ..methods._matrix import MatrixMethod
from ..recipe.layers import Layer
from ..recipe.modifiers import KEYS
from ..recipe.vocabulary import WORDS
from ..spec.parameters import told
from .values import extents

if TYPE_CHECKING:
    from .plan import MergePlan

SETTINGS = ("seed", "nonfinite", "max_shard_size")
"""The keys of a recipe that are no parameters of the method and always have a value."""


def names(made: MergePlan) -> list[str]:
    """Return the models that take part, as the recipe names them; the base is not among them."""
    return [entry.model for entry in made.config.experts()[0]]


def template_name(made: MergePlan) -> str:
    """Return the model that gives names and dtypes, as the recipe names it."""
    return made.config.base_model or names(made)[0]


def donor_name(made: MergePlan) -> str:
    """Return the model that gives the small files, as the recipe names it."""
    return made.config.files_from or template_name(made)


def names_from(made: MergePlan, output: Path) -> dict[str, str]:
    """Return how a report in the directory ``output`` names the models and itself, by their paths.

    The keys are the names that the recipe gives them, and the paths that these lead to.
    """
    places = made.config.places
    opened = {template_name(made): made.template, donor_name(made): made.donor}
    opened |= dict(zip(names(made), made.experts, strict=True))
    found = {str(output): output.name}
    for text, model in opened.items():
        found[text] = found[model.label] = places.relative_to(output, text)
        for piece, path in zip(places.pieces(text), model.paths, strict=True):
            name = places.relative_to(output, piece)
            found |= {piece: name, str(path): name, os.path.realpath(path): name}
    if made.vocabulary is not None and made.vocabulary.source not in WORDS:
        found[made.vocabulary.source] = places.relative_to(output, made.vocabulary.source)
    for stated in (one.base for model in opened.values() for one in model.adapters):
        if stated and os.path.isabs(stated):  # a path of the machine that trained the adapter
            found.setdefault(stated, os.path.basename(os.path.normpath(stated)))
    return found


def of_effect(made: MergePlan, parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parameters whose values have an effect."""
    return told(parameters, made.config.method.parameters(made.config.semantics))


def shared_parameters(made: MergePlan) -> dict[str, Any]:
    """Return the parameters that all models share: a value, or least and most over the tensors."""
    found = extents(
        {key: value for key, value in given.items() if not isinstance(value, tuple)}
        for _, given in _distinct(made)
    )
    return of_effect(made, found or made.config.constants())


def model_parameters(made: MergePlan, model: int) -> dict[str, Any]:
    """Return the parameters of one model by its number, in the same way."""
    found = extents(
        {
            key: value[taking.index(model)]
            for key, value in given.items()
            if isinstance(value, tuple)
        }
        for taking, given in _distinct(made)
        if model in taking
    )
    return of_effect(made, found)


def _distinct(made: MergePlan) -> list[tuple[Sequence[int], Mapping[str, Any]]]:
    """Return the models and the parameters of the merged tensors, once for all that share them."""
    found: dict[object, tuple[Sequence[int], Mapping[str, Any]]] = {}
    for name, given in made.parameters.items():
        taking = made.taking(name)
        found.setdefault((taking, *given.items()), (taking, given))
    return [*found.values()]


def layers_of(made: MergePlan, model: int) -> list[str]:
    """Return the layers that a stack has of a model, in its order: ``model.layers 0-11``.

    There are none where whole models are merged.
    """
    return [] if made.stack is None else _runs(made.stack.taken[model])


def layers_of_base(made: MergePlan) -> list[str]:
    """Return the layers that a stack has of its base, where all slices have the same one."""
    if made.stack is None or any(
        one.base_model for module in made.config.stack.values() for one in module.slices
    ):
        return []
    return _runs(made.stack.taken_of_base)


def _runs(layers: Iterable[Layer]) -> list[str]:
    runs: list[tuple[str, list[int]]] = []
    for layer in layers:
        if runs and runs[-1][0] == layer.stack and runs[-1][1][-1] + 1 == layer.number:
            runs[-1][1].append(layer.number)
        else:
            runs.append((layer.stack, [layer.number]))
    return [
        f"{stack.rstrip('.')} {numbers[0]}" + (f"-{numbers[-1]}" if numbers[1:] else "")
        for stack, numbers in runs
    ]


def layered(made: MergePlan) -> Iterable[str]:
    """Return the tensors whose layers a plan counts: those merged; in a stack, all."""
    return made.parameters if made.stack is None else made.template.tensors


def settings(made: MergePlan) -> dict[str, Any]:
    """Return the keys of the recipe that are no parameters of the method."""
    return {key: getattr(made.config, key) for key in SETTINGS}


def modifiers(made: MergePlan) -> dict[str, Any]:
    """Return the changes of the task vectors that were asked for, by key."""
    given = {key: getattr(made.config, key) for key in KEYS}
    return {key: value for key, value in given.items() if value is not None}


def factors(made: MergePlan) -> dict[str, float]:
    """Return the factor on the merged task vector by tensor; none where norms decide it."""
    changes = made.modifiers
    return {} if changes.needs_norms else changes.factors(made.match.merged)


def varying(made: MergePlan) -> dict[str, dict[str, Any]]:
    """Return what is not the same for all tensors: a title, and the values by tensor."""
    found: dict[str, dict[str, Any]] = {}
    models = names(made)
    for name, parameters in made.parameters.items() if len(_distinct(made)) > 1 else ():
        for key, value in parameters.items():
            if isinstance(value, tuple):
                for model, one in zip(made.taking(name), value, strict=True):
                    found.setdefault(f"{key} of {models[model]}", {})[name] = one
            else:
                found.setdefault(key, {})[name] = value
    found["factor on the merged task vector"] = dict(factors(made))
    return {title: values for title, values in found.items() if len({*values.values()}) > 1}


def dtypes(made: MergePlan) -> dict[str, int]:
    """Return the number of the result's tensors by dtype."""
    found = Counter(entry[1] for shard in made.shards for entry in shard.tensors)
    return dict(found.most_common())


def left_out(made: MergePlan) -> dict[str, dict[str, str]]:
    """Return what lies beside the weights of each model and is not read, and why."""
    opened = {template_name(made): made.template, donor_name(made): made.donor}
    opened |= dict(zip(names(made), made.experts, strict=True))
    # A model may be there with several adapters: what lies beside it is told once.
    places = made.config.places
    first = {name: places.pieces(name)[0] for name in opened}
    found = {
        first[name]: {} if places.is_stage(first[name]) else dict(one.not_read)
        for name, one in opened.items()
    }
    for path in filter(of_one_model, made.donor.auxiliary_files()):
        if places.is_stage(first[donor_name(made)]):
            break
        found[first[donor_name(made)]][path.as_posix()] = "tells of another model than the result"
    return {name: paths for name, paths in found.items() if paths}


def by_expert(made: MergePlan, tensors: Mapping[str, tuple[str, ...]]) -> dict[str, list[str]]:
    """Return tensors of each model, given by its label, under its name in the recipe."""
    pairs = zip(names(made), made.labels, strict=True)
    return {name: list(tensors[label]) for name, label in pairs if label in tensors}


def largest_matrix(made: MergePlan) -> tuple[int, str] | None:
    """Return the most bytes that a matrix takes as a whole, and its name; None without such."""
    method, n_models = made.config.method, len(made.experts)
    if not issubclass(method, MatrixMethod):
        return None
    from ..engine.matrices import n_bytes

    sizes = [(0, "none")]
    for name, parameters in made.parameters.items():
        shape = made.template.tensors[name].shape
        if method.takes(name, shape, parameters, made.config.semantics):
            sizes.append((n_bytes(method, shape, n_models), name))
    return max(sizes)
