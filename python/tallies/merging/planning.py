"""Plans a merge from its request and the headers of its models."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from ..checkpoint.belonging import differences
from ..checkpoint.empty import empty_warning, empty_weights
from ..checkpoint.given import given_tensors, with_tensors
from ..checkpoint.layout import layout_parts
from ..checkpoint.match import match
from ..checkpoint.opening import as_model
from ..checkpoint.policy import Policy
from ..checkpoint.scaled import is_scaled, scaled_warning
from ..checkpoint.tokenizers import lacking_files
from ..engine.codes import MAX_EXPERTS
from ..engine.surveys.survey import survey_of
from ..errors import InputError
from ..messages import show
from ..recipe.config import MergeConfig
from ..recipe.effect import in_effect
from ..recipe.inputs import Inputs
from ..recipe.other_reading import unsaid
from ..recipe.tensor_keys import by_name, refuse_strays
from ..recipe.varying import changed_defaults
from ..spec.choices import Architecture, Embeddings, Extra, Missing, Semantics
from ..spec.dtypes import promoted
from .base_rows import rows_warnings
from .joining import chat_template
from .plan import MergePlan
from .preparing import prepared


def plan(config: str | os.PathLike[str] | Mapping[str, Any] | MergeConfig) -> MergePlan:
    """Check a request against the headers of its models and plan the merge.

    No tensor data is read.

    Args:
        config: A recipe file, a mapping or a ``MergeConfig``.

    Returns:
        The plan: the treatment of every tensor, and the places of inputs and outputs.

    Raises:
        InputError: The merge would fail for a reason that headers can show: tensors that are
            missing, extra or of another shape, types that do not merge, damaged files, parameters
            that do not fit.
    """
    asked = MergeConfig.load(config).pinned()
    inputs = asked.inputs()
    with inputs.named():
        return _plan(asked, inputs)


def _plan(config: MergeConfig, inputs: Inputs) -> MergePlan:
    entries, warnings = config.experts()
    if len(entries) > MAX_EXPERTS:
        raise InputError(
            f"models: found {len(entries)} models, expected at most {MAX_EXPERTS}; merge groups of "
            "them first, as stages"
        )
    ready = prepared(config, inputs, entries)
    template, first, experts = ready.template, ready.first, ready.experts
    vocabulary, stack, is_stack = ready.vocabulary, ready.stack, ready.stack is not None
    warnings += ready.warnings
    uses_base = config.base_model is not None and config.method.forms_task_vectors(has_base=True)
    given = {}
    if config.embeddings_file is not None:
        given = given_tensors(config.places.path(config.embeddings_file), template)
        template = with_tensors(template, given)
    models = [
        as_model(one, config.tied, heads_alone=is_stack)
        for one in [*([first] if uses_base else []), *experts]
    ]
    warnings += differences(
        (template, *experts),
        any_architecture=config.architecture is Architecture.ANY
        or any(entry.rename for entry in entries),
        tokenizers=vocabulary is None,
        layers=not is_stack,
    )
    allowed = replace(policy(config, uses_base), given=frozenset(given))
    matched = match(
        as_model(template, config.tied, heads_alone=is_stack), models, allowed, of_parts=is_stack
    )
    for key in ("missing", "extra"):
        every = (name for one in (template, *experts) for name in one.tensors)
        refuse_strays(key, getattr(config, key), every)
    own_dtypes = frozenset(matched.copied)
    if stack:
        from .stack_planning import refuse_whole_model, without_models

        matched = without_models(matched, stack)
    names = matched.merged
    others = [name for one in (template, *experts) for name in one.tensors]
    unmerged = [*others, *matched.tied]
    resolver = (
        config.stack_resolver(stack.only(names), unmerged)
        if stack
        else config.resolver(names, unmerged)
    )
    parameters = {name: resolver.parameters_for(name) for name in names}
    config, more = with_changed_defaults(config, parameters, stack.taking if stack else None)
    warnings += more
    rule = config.rule()
    if stack:
        refuse_whole_model(stack, rule, config)
    if rule.survey is not None:
        labels = [model.label for model in models[uses_base:]]
        survey_of(rule.survey).check(list(parameters.values()), labels)
    modifiers = config.modifiers()
    warnings.extend(modifiers.warnings(names, others, str(template.path)))

    def own_dtype(name: str) -> str:
        """Return the dtype of a merged tensor: the template's; in mergekit, that of all models."""
        infos = [template.tensors[name]]
        if config.semantics is Semantics.MERGEKIT:
            held = matched.tied.get(name, name)
            found = (matched.own(model, held) for model in models)
            infos += [info for info in found if info is not None]
        return promoted(info.decoded_dtype for info in infos)

    def dtype_of(name: str) -> str:
        if name in own_dtypes:
            return template.tensors[name].dtype
        return config.output_dtype or own_dtype(name)

    # A base that names the tensors, and takes no part, has other bytes.
    is_own = stack or template.path == experts[0].path
    if config.method.copies_alone and is_own:
        from .stack_planning import alone, with_copies

        matched = with_copies(matched, alone(parameters, template, dtype_of))
        parameters = {name: parameters[name] for name in matched.merged}
    outputs = [(name, dtype_of(name), info.shape) for name, info in template.tensors.items()]
    warnings.extend(rows_warnings(matched, models))
    donor = inputs.open_donor(config.files_from) if config.files_from else template
    warnings += vocabulary.warnings if vocabulary else lacking_files(donor, (template, *experts))
    opened = inputs.opened.values()
    found = [scaled_warning(one) for one in opened if is_scaled(one)]
    found += [empty_warning(one.path, empty) for one in opened if (empty := empty_weights(one))]
    # One model may be there with several adapters.
    warnings += dict.fromkeys([*inputs.warnings, *found])
    made = MergePlan(
        config=in_effect(config),
        rule=rule,
        template=template,
        donor=donor,
        experts=experts,
        models=tuple(models),
        match=matched,
        parameters=parameters,
        modifiers=modifiers,
        stack=stack,
        shards=tuple(layout_parts(outputs, template, config.max_shard_bytes)),
        warnings=(*warnings, *resolver.warnings),
        given=tuple(sorted({os.fspath(one.path) for one in given.values()})),
        downloads=inputs.downloads(),
        vocabulary=vocabulary,
        chat_template=chat_template(config, (template, *experts)),
    )
    kinds = [one.config().get("model_type") for one in (donor, template)]
    if None not in kinds and kinds[0] != kinds[1]:
        said = (
            f"files_from {config.files_from!r}: model_type is {show(kinds[0])}, and "
            f"{show(kinds[1])} in config.json of {template.path}: libraries load the result as "
            f"{show(kinds[0])}"
        )
        made = replace(made, warnings=(*made.warnings, said))
    # A config.json that cannot be made true is refused along with the headers.
    if not made.auxiliary.paths and config.files_from is not None:
        none = f"files_from {config.files_from!r}: holds no configuration or tokenizer to copy"
        return replace(made, warnings=(*made.warnings, none))
    return made


def with_changed_defaults(
    config: MergeConfig,
    parameters: dict[str, dict[str, Any]],
    taking: Callable[[str], Sequence[int]] | None = None,
) -> tuple[MergeConfig, list[str]]:
    """Return the request with defaults that changed, and what a user has to hear of defaults."""
    changed, warnings = changed_defaults(
        config.method, config.semantics, config.parameters, parameters, taking
    )
    for values in parameters.values():
        values.update(changed)
    made = config.model_copy(update={"parameters": {**config.parameters, **changed}})
    note = unsaid(config, made)
    return made, [*([note] if note else []), *warnings]


def policy(config: MergeConfig, uses_base: bool) -> Policy:
    """Return the treatment of tensors that not all models have.

    Args:
        config: The request.
        uses_base: The method forms task vectors.
    """
    return Policy(
        has_base=config.base_model is not None,
        counters=config.base_model is not None,
        merges=uses_base,
        base_rows=config.embeddings is Embeddings.BASE_ROWS,
        missing=by_name(config.missing, Missing.ERROR),
        extra=by_name(config.extra, Extra.ERROR),
    )
