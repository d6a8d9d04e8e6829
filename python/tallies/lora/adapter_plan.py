"""Plans a merge of adapters to an adapter from the request and the headers of the adapters."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..checkpoint.adapters.opening import open_adapter
from ..engine.codes import MAX_EXPERTS
from ..engine.surveys.survey import survey_of
from ..errors import InputError
from ..merging.planning import with_changed_defaults
from ..merging.values import extents
from ..methods._matrix import MatrixMethod
from ..methods._method import counted_weights
from ..recipe.config import MergeConfig
from ..recipe.effect import in_effect
from ..recipe.modifiers import Modifiers
from ..spec.choices import AdapterSpace
from ..spec.dtypes import DTYPES
from ..spec.parameters import told
from ..spec.rules import MEANS, SUMS, Gate, Rule, Vote
from .adapter_checks import (
    common_base,
    factor_dtype,
    labels,
    lowered,
    refuse_keys,
    refuse_model,
    refuse_modifiers,
    refuse_other,
    refuse_partly_saved,
    spelled,
)
from .adapter_explain import explain
from .nested import stored_names
from .operands import Operand, operand, rank_of, respelled
from .spelling import Spelling
from .targets import Kind, Target


@dataclass(frozen=True)
class AdapterPlan:
    """The plan of a merge of adapters, made of headers alone.

    ``str(plan)`` explains the plan to a person, ``to_json_dict()`` to a program.
    """

    config: MergeConfig
    rule: Rule
    operands: tuple[Operand, ...]
    names: tuple[str, ...]
    """The adapters as the recipe names them."""
    targets: Mapping[str, Target]
    """By the tensor's name."""
    parameters: Mapping[str, Mapping[str, Any]]
    """By the tensor's name, those of saved tensors too."""
    factors: Mapping[str, float]
    """The factor on each merged task vector beside the method's own scale."""
    base: str | None
    """The base as the adapters name it, or the recipe."""
    dtype: str
    warnings: tuple[str, ...]

    @property
    def modifiers(self) -> Modifiers:
        """The changes of the task vectors beside the method's."""
        return self.config.modifiers()

    @property
    def saved(self) -> list[str]:
        """The tensors that adapters hold whole, and so does the result."""
        return sorted({name for one in self.operands for name in one.whole})

    @property
    def is_sum(self) -> bool:
        """True where the result is a sum of the products with weights that are known."""
        if self.config.method.of_adapters:
            return False
        plain = Rule(Gate.ALL, Vote.NONE, self.rule.blend)
        is_sum = self.rule.blend in (*SUMS, *MEANS) and self.rule == plain
        return is_sum and not issubclass(self.config.method, MatrixMethod)

    @property
    def of_factors(self) -> bool:
        """True where the factors are merged one by one."""
        return self.config.method.of_adapters

    def coefficients(self, name: str) -> list[float]:
        """Return the factors on the products of one tensor, where the result is their sum.

        An adapter that does not change the tensor has a product of zero, and its weight counts.
        """
        parameters = self.parameters[name]
        weights = parameters.get("weight", (1.0,) * len(self.operands))
        is_mean = parameters.get("normalize", self.rule.blend in MEANS)
        divisor = math.fsum(counted_weights({"weight": weights, **parameters})) if is_mean else 1.0
        scale = parameters.get("scale", 1.0) * self.factors[name]
        return [scale * weight / divisor for weight in weights]

    def sum_of_ranks(self, name: str) -> int:
        """Return the rank of the sum of all products of a tensor, unless they overlap."""
        ranks = [rank_of(one.changes.get(name, ())) for one in self.operands]
        return max(ranks) if self.of_factors else sum(ranks)

    def rank(self, name: str) -> int:
        """Return the most rank that a tensor's factors may get."""
        most = self.targets[name].most_rank
        asked = self.config.adapter_rank
        if isinstance(asked, int):
            return min(asked, most)
        small = self.is_sum or self.of_factors or self.config.adapter_space is not AdapterSpace.FULL
        return min(self.sum_of_ranks(name), most) if small else most

    @property
    def files(self) -> list[Path]:
        """All files that are read."""
        return sorted({path for one in self.operands for path in one.adapter.files})

    @property
    def roots(self) -> list[Path]:
        """The directories or files that the adapters are."""
        return [one.adapter.path for one in self.operands]

    @property
    def bytes_read(self) -> int:
        """Bytes of the adapters' files."""
        return sum(path.stat().st_size for path in self.files)

    @property
    def most_bytes_written(self) -> int:
        """Upper bound for the bytes of the result's tensors."""
        total = 0
        for name, target in self.targets.items():
            stack = target.shape[0] if len(target.shape) == 3 and target.is_parameter else 1
            sides = target.shape[1:] if stack > 1 else target.shape
            rows, columns = sides[0], math.prod(sides[1:])
            total += stack * self.rank(name) * (rows + columns) * DTYPES[self.dtype]
        for name in self.saved:
            total += next(one.whole[name].n_bytes for one in self.operands if name in one.whole)
        return total

    def to_json_dict(self) -> dict[str, Any]:
        """Return the plan as plain data."""
        return {
            "recipe": self.config.to_json_dict(),
            "base": self.base,
            "adapters": list(self.names),
            "exact": self.is_sum and self.config.adapter_rank == "full",
            "ranks": {name: self.rank(name) for name in self.targets},
            "saved": self.saved,
            "dtype": self.dtype,
            "bytes_read": self.bytes_read,
            "most_bytes_written": self.most_bytes_written,
            "warnings": list(self.warnings),
        }

    def __str__(self) -> str:
        return explain(self)

    def own_parameters(self, number: int) -> dict[str, Any]:
        """Return the parameters of one adapter, or their extents over the tensors."""
        return self._of_effect(
            {key: value[number] for key, value in values.items() if isinstance(value, tuple)}
            for values in self.parameters.values()
        )

    def shared_parameters(self) -> dict[str, Any]:
        """Return the parameters that all adapters share, or their extents over the tensors."""
        return self._of_effect(
            {key: value for key, value in values.items() if not isinstance(value, tuple)}
            for values in self.parameters.values()
        )

    def _of_effect(self, tensors: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
        config = self.config
        return told(extents(tensors), config.method.parameters(config.semantics))


def plan_adapters(config: MergeConfig) -> AdapterPlan:
    """Check a request for an adapter against the headers of its adapters.

    Args:
        config: A request with an ``adapter_rank``.

    Returns:
        The plan: the targets, their ranks, and where the factors are read.

    Raises:
        InputError: A model is no adapter, or one that cannot be merged with the others.
    """
    refuse_keys(config)
    entries, warnings = config.experts()
    if len(entries) > MAX_EXPERTS:
        raise InputError(f"models: found {len(entries)} models, expected at most {MAX_EXPERTS}")
    operands: list[Operand] = []
    targets: dict[str, Target] = {}
    told: dict[str, str] = {}
    spelling = Spelling()
    for entry in entries:
        path = config.places.local(entry.model)
        refuse_model(entry.model, path)
        found, own = operand(open_adapter(path), entry.label)
        found, own, renamed = respelled(found, own, spelling)
        warnings += [*found.adapter.warnings, *spelled(entry.label, renamed)]
        operands.append(found)
        for name, target in own.items():
            first = targets.get(name, target)
            refuse_other(first, target, told.setdefault(name, entry.label), entry.label)
            # A weight that one adapter has as a parameter is one in the result: PEFT wraps no
            # module for it, and some modules cannot be wrapped.
            targets[name] = target if target.kind is Kind.PARAMETER else first
    if not targets:
        raise InputError(
            f"models: found no pair of factors in {labels([one.label for one in operands])}"
        )
    targets = {one.name: one for one in stored_names(targets.values())}
    saved = sorted({name for one in operands for name in one.whole})
    names = [*targets, *(name for name in saved if name not in targets)]
    resolver = config.resolver(names)
    parameters = {name: resolver.parameters_for(name) for name in names}
    config, more = with_changed_defaults(config, parameters)
    if survey := config.rule().survey:
        survey_of(survey).check(list(parameters.values()), [one.label for one in operands])
    made = AdapterPlan(
        config=in_effect(config),
        rule=config.rule(),
        operands=tuple(operands),
        names=tuple(entry.model for entry in entries),
        targets=targets,
        parameters=parameters,
        factors=_factors(config, names),
        base=common_base(config, operands),
        dtype=factor_dtype(config),
        warnings=(),
    )
    refuse_partly_saved(made)
    warnings += [*more, *resolver.warnings, *config.modifiers().warnings(names, []), *lowered(made)]
    return AdapterPlan(**{**vars(made), "warnings": tuple(warnings)})


def _factors(config: MergeConfig, names: list[str]) -> dict[str, float]:
    refuse_modifiers(config)
    return config.modifiers().factors(names)
