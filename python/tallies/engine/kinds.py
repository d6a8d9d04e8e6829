"""Chooses the passes of a merge by the kind of its method.

Passes of whole matrices are imported for a method of matrices alone: they bring linear algebra.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from .._core import Limits, Plan
from ..methods._matrix import MatrixMethod
from ..methods._method import Method
from ..spec.choices import Semantics
from .jobs import Work
from .passes import Passes
from .varying import VaryingPasses, varied


def passes_for(
    method: type[Method],
    plan: Plan,
    works: Sequence[Work],
    constants: Mapping[str, Any],
    semantics: Semantics,
    limits: Limits,
    *,
    n_workers: int,
    max_bytes: int | None = None,
    **options: Any,
) -> Passes:
    """Return the passes of a method of any kind; arguments as for ``MatrixPasses``.

    Raises:
        InputError: The method merges matrices, and torch is not installed.
    """
    if issubclass(method, MatrixMethod):
        from ..linalg import spectral
        from .matrices import MatrixPasses

        spectral.require(method.name)
        kinds = (method, constants, semantics, limits)
        return MatrixPasses(
            plan, works, *kinds, n_workers=n_workers, max_bytes=max_bytes, **options
        )
    if names := varied(constants, works):
        return VaryingPasses(plan, works, method, constants, names, semantics, limits, **options)
    rule = method.rule(dict(constants), semantics)
    return Passes(plan, works, rule, semantics, limits, **options)


def refuse_too_large(
    method: type[Method],
    tensors: Iterable[tuple[str, tuple[int, ...], Mapping[str, Any]]],
    n_experts: int,
    semantics: Semantics,
    max_bytes: int,
) -> None:
    """Refuse a merge whose matrices do not fit into the budget; see ``matrices``.

    Raises:
        InputError: A matrix does not fit, or torch is not installed.
    """
    if issubclass(method, MatrixMethod):
        from . import matrices

        matrices.refuse_too_large(method, tensors, n_experts, semantics, max_bytes)
