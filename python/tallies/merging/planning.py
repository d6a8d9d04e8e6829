"""Plans a merge from its request and the headers of its models."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ..checkpoint.belonging import differences
from ..checkpoint.common_rows import common_rows, truncated, truncation_warnings
from ..checkpoint.empty import empty_warning, empty_weights
from ..checkpoint.given import given_tensors, with_tensors
from ..checkpoint.heads import arranged
from ..checkpoint.layout import layout_parts
from ..checkpoint.match import match
from ..checkpoint.opening import as_model, check_variant
from ..checkpoint.policy import Policy
from ..checkpoint.scaled import is_scaled, scaled_warning
from ..checkpoint.tokenizers import lacking_files
from ..engine.codes import MAX_EXPERTS
from ..engine.surveys.survey import survey_of
from ..errors import InputError
from ..recipe.config import MergeConfig
from ..recipe.effect import in_effect
from ..recipe.inputs import Inputs
from ..recipe.other_reading import unsaid
from ..recipe.tensor_keys import by_name, refuse_strays
from ..recipe.varying import changed_defaults
from ..spec.choices import Architecture, Embeddings, Extra, Missing, Semantics, Tied
from ..spec.dtypes import promoted
from .base_rows import rows_warnings
from .joining import chat_template, with_vocabulary
from .plan import MergePlan


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
        raise InputError(f"models: found {len(entries)} models, expected at most {MAX_EXPERTS}")
    base = inputs.open(config.base_model) if config.base_model else None
    experts = [inputs.open(entry.model, entry.rename) for entry in entries]
    if config.variant:
        check_variant(config.variant, inputs.opened.values())
    template = base or experts[0]
    uses_base = base is not None and config.method.forms_task_vectors(has_base=True)
    if config.embeddings is Embeddings.BASE_ROWS and base is None:
        raise InputError(
            "embeddings: found 'base-rows', and the merge has no base; add 'base_model: DIR' "
            "(--base DIR)"
        )
    own = template
    template, experts = arranged(template, experts, config.tied)
    if config.embeddings is Embeddings.TRUNCATE and config.tokenizer is None:
        stored = (template, *experts)
        rows = common_rows(stored)
        warnings += truncation_warnings(stored, rows)
        template, own, *experts = (truncated(one, rows) for one in (template, own, *experts))
    # A head that is not written must still be the embedding.
    first = own if config.tied is Tied.TIE else template
    vocabulary, (template, first, *experts) = with_vocabulary(
        config, inputs, (template, first, *experts)
    )
    given = {}
    if config.embeddings_file is not None:
        given = given_tensors(config.places.path(config.embeddings_file), template)
        template = with_tensors(template, given)
    models = [as_model(one, config.tied) for one in [*([first] if uses_base else []), *experts]]
    warnings += differences(
        (template, *experts),
        any_architecture=config.architecture is Architecture.ANY
        or any(entry.rename for entry in entries),
        tokenizers=vocabulary is None,
    )
    allowed = replace(policy(config, uses_base), given=frozenset(given))
    matched = match(as_model(template, config.tied), models, allowed)
    for key in ("missing", "extra"):
        every = (name for one in (template, *experts) for name in one.tensors)
        refuse_strays(key, getattr(config, key), every)
    names = matched.merged
    others = [name for one in (template, *experts) for name in one.tensors]
    resolver = config.resolver(names, [*others, *matched.tied])
    parameters = {name: resolver.parameters_for(name) for name in names}
    config, more = with_changed_defaults(config, parameters)
    warnings += more
    rule = config.rule()
    if rule.survey is not None:
        labels = [model.label for model in models[uses_base:]]
        survey_of(rule.survey).check(list(parameters.values()), labels)
    modifiers = config.modifiers()
    warnings.extend(modifiers.warnings(names, others))
    copied = frozenset(matched.copied)

    def own_dtype(name: str) -> str:
        """Return the dtype of a merged tensor: the template's; in mergekit, that of all models."""
        infos = [template.tensors[name]]
        if config.semantics is Semantics.MERGEKIT:
            held = matched.tied.get(name, name)
            infos += [matched.source(model, held) for model in models]
        return promoted(info.decoded_dtype for info in infos)

    outputs = [
        (name, info.dtype if name in copied else config.output_dtype or own_dtype(name), info.shape)
        for name, info in template.tensors.items()
    ]
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
        experts=tuple(experts),
        models=tuple(models),
        match=matched,
        parameters=parameters,
        modifiers=modifiers,
        shards=tuple(layout_parts(outputs, template, config.max_shard_bytes)),
        warnings=(*warnings, *resolver.warnings),
        given=tuple(sorted({os.fspath(one.path) for one in given.values()})),
        downloads=inputs.downloads(),
        vocabulary=vocabulary,
        chat_template=chat_template(config, (template, *experts)),
    )
    # A config.json that cannot be made true is refused along with the headers.
    if not made.auxiliary.paths and config.files_from is not None:
        none = f"files_from {config.files_from!r}: holds no configuration or tokenizer to copy"
        return replace(made, warnings=(*made.warnings, none))
    return made


def with_changed_defaults(
    config: MergeConfig, parameters: dict[str, dict[str, Any]]
) -> tuple[MergeConfig, list[str]]:
    """Return the request with defaults that changed, and what a user has to hear of defaults."""
    changed, warnings = changed_defaults(
        config.method, config.semantics, config.parameters, parameters
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
