"""The keys of a recipe whose result has a stack of layers taken of its models' stacks."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, ValidationInfo, field_validator

from .fields import checked_parameters
from .parameters import Resolver
from .stack_checks import checked_module
from .stack_parameters import StackResolver
from .stacks import ModuleEntry, Origin, SliceEntry, modules_of, restate_module

if TYPE_CHECKING:
    from ..methods._method import Method
    from ..spec.choices import Semantics
    from .models import ModelEntry
    from .places import Places


class StackKeys(BaseModel):
    """Checks ``slices`` and ``modules``, which stand behind the keys that their checks need."""

    model_config = ConfigDict(defer_build=True)

    if TYPE_CHECKING:
        slices: tuple[SliceEntry, ...] | None
        modules: dict[str, ModuleEntry] | None
        parameters: dict[str, Any]
        semantics: Semantics

        @property
        def method(self) -> type[Method]:
            """The method's facts."""

        def experts(self) -> tuple[list[ModelEntry], list[str]]:
            """Return the models that take part, in order, and warnings about the recipe."""

    @field_validator("slices", check_fields=False)
    @classmethod
    def _check_slices(
        cls, slices: tuple[SliceEntry, ...] | None, info: ValidationInfo
    ) -> tuple[SliceEntry, ...] | None:
        if slices is None:
            return None
        return checked_module(
            ModuleEntry(slices=slices), "", partial(checked_parameters, info=info)
        ).slices

    @field_validator("modules", check_fields=False)
    @classmethod
    def _check_modules(
        cls, modules: dict[str, ModuleEntry] | None, info: ValidationInfo
    ) -> dict[str, ModuleEntry] | None:
        if modules is None:
            return None
        check = partial(checked_parameters, info=info)
        return {
            name: checked_module(one, f"modules: {name}", check) for name, one in modules.items()
        }

    @property
    def stack(self) -> dict[str, ModuleEntry]:
        """The modules whose layers are stacked, by name; empty where whole models are merged."""
        return modules_of(self.slices, self.modules)

    def pinned_stack(
        self, models: Sequence[ModelEntry], pinned: Sequence[ModelEntry], places: Places
    ) -> dict[str, Any]:
        """Return the keys of the stack with the texts that the models have once they are pinned."""
        texts = {a.model: b.model for a, b in zip(models, pinned, strict=True)}
        return self.restated_stack(lambda text: texts.get(text) or places.pinned(text))

    def restated_stack(self, text: Callable[[str], str]) -> dict[str, Any]:
        """Return the keys of the stack with ``text`` applied to the text of every model."""
        found = {name: restate_module(one, text) for name, one in self.stack.items()}
        if "" in found:
            return {"slices": found[""].slices}
        return {"modules": found} if found else {}

    def own_parameters(self) -> list[dict[str, Any]]:
        """Return the parameters that single models have, of each model or each source."""
        if not self.stack:
            return [entry.parameters for entry in self.experts()[0]]
        return [
            {**module.parameters, **one.parameters, **source.parameters}
            for module in self.stack.values()
            for one in module.slices
            for source in one.sources
        ]

    def stack_resolver(
        self, origins: Mapping[str, Origin], others: Collection[str]
    ) -> StackResolver:
        """Return the resolver of the parameters of a stack's tensors, by their origins."""
        return StackResolver(
            self.method, self.semantics, self.parameters, self.stack, origins, others
        )

    def resolver(self, names: Iterable[str], others: Collection[str] = ()) -> Resolver:
        """Return the resolver of the parameters of each tensor among these names; see there."""
        experts, _ = self.experts()
        return Resolver(
            self.method,
            self.semantics,
            self.parameters,
            [entry.parameters for entry in experts],
            [entry.label for entry in experts],
            names,
            others,
        )
