"""Describes the plan of a merge as plain data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from ..checkpoint.layout import tensor_bytes
from . import facts
from .adapters import adapters_of
from .matrices import matrix_counts
from .values import by_layer

if TYPE_CHECKING:
    from .plan import MergePlan


def data(made: MergePlan) -> dict[str, Any]:
    """Return the plan as data that JSON can hold."""
    names = facts.names(made)
    factors = facts.factors(made) if facts.modifiers(made) else {}
    return {
        "recipe": made.config.to_json_dict(),
        "method": made.config.merge_method,
        "semantics": made.config.semantics,
        "rule": {
            "gate": made.rule.gate.value,
            "vote": made.rule.vote.value,
            "blend": made.rule.blend.value,
            "scope": made.rule.scope,
            "equal": made.rule.equal,
        },
        "models": [
            {
                "path": name,
                "parameters": facts.model_parameters(made, number),
                "layers": facts.layers_of(made, number),
                "adapters": [asdict(one) for one in adapters_of(made, name, made.experts[number])],
            }
            for number, name in enumerate(names)
        ],
        "parameters": facts.shared_parameters(made),
        "n_parameters": made.n_parameters,
        "dtypes": facts.dtypes(made),
        "layers": [layer for layer in by_layer(dict.fromkeys(facts.layered(made), "")) if layer],
        "by_layer": {title: by_layer(values) for title, values in facts.varying(made).items()},
        "passes": made.passes(),
        "bytes_read": made.bytes_read,
        "bytes_written": made.bytes_written,
        "matrices": matrix_counts(made),
        "largest_matrix_bytes": (facts.largest_matrix(made) or (None,))[0],
        "shards": [{"name": s.name, "n_bytes": s.n_bytes} for s in made.shards],
        "tensors": {
            entry[0]: {
                "action": made.action(entry[0]),
                "dtype": entry[1],
                "shape": list(entry[2]),
                "file": shard.name,
                "n_bytes": tensor_bytes(entry),
                **_plain(facts.of_effect(made, made.parameters.get(entry[0], {}))),
                **_sources(made, names, entry[0]),
                **({"factor": factors[entry[0]]} if entry[0] in factors else {}),
            }
            for shard in made.shards
            for entry in shard.tensors
        },
        **({"vocabulary": made.vocabulary.to_json_dict()} if made.vocabulary else {}),
        "buffers": list(made.match.buffers),
        "missing": facts.by_expert(made, made.match.missing),
        "dropped": facts.by_expert(made, made.match.dropped),
        "auxiliary_files": [str(path) for path in made.auxiliary.paths],
        "left_out": facts.left_out(made),
        **({"downloads": [one.to_json_dict() for one in made.downloads]} if made.downloads else {}),
        **({"stages": {name: data(one) for name, one in made.stages}} if made.stages else {}),
        "warnings": list(made.warnings),
    }


def _sources(made: MergePlan, models: Sequence[str], name: str) -> dict[str, Any]:
    """Return the models of which a tensor of a stack is made, and its names in them."""
    if made.stack is None:
        return {}
    one = made.stack.origins[name]
    pairs = [
        {"model": models[number], "tensor": own}
        for number, own in zip(one.experts, one.names, strict=True)
    ]
    return {"slice": one.where, "sources": pairs}


def _plain(parameters: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in parameters.items()
        if name != "integers"
    }
