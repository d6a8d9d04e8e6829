"""``MergedModule``: a module whose parameters are a merge with coefficients to be learned."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from ..arguments import number
from ..errors import InputError
from ..suggest import show, unknown
from .weighted import Tensors, merged_names, weighted_merge


class MergedModule(torch.nn.Module):
    """Runs ``module`` with the values of ``weighted_merge(base, deltas, coefficients)``.

    ``base`` has the names of the module's state dict, tied ones once or more often; the deltas have
    the names that are merged. ``coefficients``, the only parameter, begins with ``initial``
    throughout: float32 [T], or [T, n] with ``per_tensor``, whose columns are ``names``. So an
    optimizer takes ``merged.parameters()``, and the state dict is the coefficients. The module
    itself is not changed: its own values are not used, buffers that the deltas lack begin as copies
    of the base's and may change in training mode.

    Each call merges once; ``merged()`` is the merge by itself, to keep or to share among calls.
    InputError for names that the module lacks or that the base lacks, for tied names with different
    values, and for what ``weighted_merge`` refuses.

    Yang et al., AdaMerging, 2023, arXiv 2310.02575, learns the coefficients by the entropy of the
    predictions.

    >>> model = MergedModule(module, base, deltas, per_tensor=True)  # doctest: +SKIP
    >>> optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)  # doctest: +SKIP
    >>> entropy(model(batch)).backward()  # doctest: +SKIP
    """

    coefficients: torch.nn.Parameter
    names: tuple[str, ...]
    """The tensors that are merged, tied ones once."""

    def __init__(
        self,
        module: torch.nn.Module,
        base: Tensors,
        deltas: Sequence[Tensors],
        *,
        initial: float = 0.3,
        per_tensor: bool = False,
    ) -> None:
        super().__init__()
        if not deltas:
            raise InputError("deltas: found none, expected one task vector or more")
        first = _first_names(module)
        # In a list, so that neither its parameters nor its state dict become this module's.
        self._modules_run = [module]
        self._base = _once("base", base, first)
        _refuse_missing(self._base, first)
        self._deltas = [_once(f"deltas[{i}]", one, first) for i, one in enumerate(deltas)]
        self.names = tuple(merged_names(self._base, self._deltas))
        for name, _ in module.named_buffers():
            if name not in self.names and name in self._base:
                self._base[name] = self._base[name].clone()
        shape = (len(deltas), len(self.names)) if per_tensor else (len(deltas),)
        self.coefficients = torch.nn.Parameter(torch.full(shape, number("initial", initial)))
        self.training = module.training
        with torch.no_grad():
            self.merged()

    def merged(self) -> dict[str, torch.Tensor]:
        """The values by name, tied ones once; a gradient flows back to the coefficients."""
        return weighted_merge(self._base, self._deltas, self.coefficients)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The module's result with the merged values."""
        return torch.func.functional_call(self._modules_run[0], self.merged(), args, kwargs)

    def train(self, mode: bool = True) -> MergedModule:
        """Put the module into training or evaluation mode."""
        self._modules_run[0].train(mode)
        return super().train(mode)


def _first_names(module: torch.nn.Module) -> dict[str, str]:
    """For each name of the state dict, the first of those that are the same tensor."""
    own: dict[str, torch.Tensor] = dict(module.named_parameters(remove_duplicate=False))
    own |= dict(module.named_buffers(remove_duplicate=False))
    seen: dict[int, str] = {}
    return {name: seen.setdefault(id(own[name]), name) for name in module.state_dict()}


def _refuse_missing(base: Tensors, first: dict[str, str]) -> None:
    for name, canonical in first.items():
        if canonical not in base:
            raise InputError(
                f"base: lacks tensor {show(name)}, expected all names of the module's state dict"
            )


def _once(where: str, tensors: Tensors, first: dict[str, str]) -> dict[str, torch.Tensor]:
    """The tensors with tied names taken together; InputError if their values differ."""
    found: dict[str, torch.Tensor] = {}
    for name, tensor in tensors.items():
        if name not in first:
            raise InputError(f"{where}: tensor {unknown(name, first)}")
        held = found.setdefault(first[name], tensor)
        if held is not tensor and not torch.equal(held, tensor):
            raise InputError(
                f"{where}: tensors {show(first[name])} and {show(name)} differ, and are one tensor "
                "in the module; expected equal values"
            )
    return found
