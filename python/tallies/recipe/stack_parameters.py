"""Resolve the parameters of the tensors of a result whose layers are stacked of slices.

Gradients begin anew in each slice. A source's own setting comes first, then that of its slice, of
its module, and of the recipe.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence

from ..errors import InputError
from ..methods._method import Method
from ..spec.choices import Semantics
from .parameters import Resolver
from .required import Scopes
from .settings import Scalar, Setting, evaluate
from .stacks import ModuleEntry, Origin, all_placed


class StackResolver(Resolver):
    """The parameters of each tensor of a stack, with gradients, rules and defaults worked out.

    Args:
        method: The merge method.
        semantics: The author whose variant of the method the merge follows.
        shared: Checked parameters of all models.
        modules: The modules with their slices, whose parameters are checked.
        origins: The sources of each merged tensor, by its name in the result.
        others: Names of tensors that are not merged by themselves.

    Raises:
        InputError: A filter fits no tensor. mergekit passes over it, and so do its semantics.
    """

    def __init__(
        self,
        method: type[Method],
        semantics: Semantics,
        shared: Mapping[str, Setting],
        modules: Mapping[str, ModuleEntry],
        origins: Mapping[str, Origin],
        others: Collection[str] = (),
    ) -> None:
        self._modules = modules
        self._origins = origins
        own_names = {name for one in origins.values() for name in one.names}
        names = dict.fromkeys((*origins, *own_names))
        super().__init__(method, semantics, shared, (), (), names, others)

    def parameters_for(self, name: str) -> dict[str, Scalar | tuple[Scalar, ...]]:
        """Return the values for one tensor, those of models in the order of its sources.

        A filter on a parameter of a model sees the tensor's name in that model, as in mergekit.

        Args:
            name: The tensor's name in the result.

        Raises:
            InputError: A required parameter has no value, or the method refuses the values.
        """
        one = self._origins[name]
        far = (one.slice.parameters, one.module.parameters, self._shared)
        values: dict[str, Scalar | tuple[Scalar, ...]] = {
            key: tuple(
                self._found(own, key, (source.parameters, *far), name, one)
                for own, source in zip(one.names, one.sources, strict=True)
            )
            if parameter.per_model
            else self._found(name, key, far, name, one)
            for key, parameter in self._parameters.items()
        }
        if one.sources and (objection := self._method.objection(values)):
            raise InputError(f"{self._method.name}: tensor {name!r}: {objection}")
        return values

    def _found(
        self,
        seen: str,
        key: str,
        scopes: Sequence[Mapping[str, Setting]],
        name: str,
        one: Origin,
    ) -> Scalar:
        for scope in scopes:
            if key in scope:
                value = evaluate(scope[key], seen, one.position)
                if value is not None:
                    return value
        return self._default(name, key, one.where, rules=any(key in held for held in scopes))

    def _scopes(self) -> Scopes:
        found = []
        for one in {id(origin.slice): origin for origin in self._origins.values()}.values():
            far = (one.slice.parameters, one.module.parameters, self._shared)
            found += [
                (f"model {source.model!r}", (source.parameters, *far)) for source in one.sources
            ]
        return found

    @property
    def _sources(self) -> list[tuple[str, Mapping[str, Setting]]]:
        found = [("parameters", self._shared)]
        found += [
            (f"modules: {name}", one.parameters) for name, one in self._modules.items() if name
        ]
        for where, _, one in all_placed(self._modules):
            found.append((where, one.parameters))
            found += [
                (f"{where}: model {source.model!r}", source.parameters) for source in one.sources
            ]
        return found

    def _flat_gradients(self) -> Iterable[str]:
        return ()
