"""A module whose parameters are a merge with coefficients to be learned."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import torch

from ..errors import InputError
from ..kernels.arguments import number, whole
from ..messages import show, unknown
from .encoded import EncodedDelta
from .weighted import Deltas, Tensors, merged_names, weighted_merge

T = TypeVar("T", torch.Tensor, torch.Tensor | EncodedDelta)

_MOST_BLOCKS = 1 << 20


class MergedModule(torch.nn.Module):
    """Runs ``module`` with the values of ``weighted_merge(base, deltas, coefficients)``.

    The coefficients are the only parameter: an optimizer takes ``merged.parameters()``, and the
    state dict holds them alone. The module itself is not changed, and its own values are not used.

    Buffers that the deltas lack, or that are no floating-point tensors, begin as copies of the
    base's and may change in training mode. Those that the deltas have, such as the statistics of a
    BatchNorm, are merged by every call, without a gradient: what training mode adds to them is for
    that call alone.

    Each call merges once; inside ``merged_once()`` all calls share one merge. ``merged()`` returns
    the merge by itself.

    Args:
        module: The module to run.
        base: Tensors by the names of the module's state dict; tied names once or more often.
        deltas: For each task tensors, or encoded deltas of ``store_deltas``, by the names that are
            merged.
        initial: The first value of every coefficient.
        per_tensor: Give each tensor coefficients of its own, float32 [T, n], whose columns are
            ``names``; otherwise they are float32 [T].
        blocks: Give each of so many blocks of a tensor its own, float32 [T, n, K].

    Raises:
        InputError: The module or the base lacks a name, tied names have different values, or
            ``weighted_merge`` refuses an argument.

    Yang et al., AdaMerging, 2023, arXiv 2310.02575, learns the coefficients by the entropy of the
    predictions.

    >>> linear = torch.nn.Linear(2, 1, bias=False)
    >>> base, delta = {"weight": torch.zeros(1, 2)}, {"weight": torch.tensor([[1.0, 2.0]])}
    >>> model = MergedModule(linear, base, [delta], initial=0.5)
    >>> with model.merged_once():
    ...     for x in (torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])):
    ...         model(x).sum().backward()
    >>> model.coefficients.grad
    tensor([3.])
    """

    coefficients: torch.nn.Parameter
    names: tuple[str, ...]
    """Names of the merged tensors, tied ones once."""

    def __init__(
        self,
        module: torch.nn.Module,
        base: Tensors,
        deltas: Sequence[Deltas],
        *,
        initial: float = 0.3,
        per_tensor: bool = False,
        blocks: int | None = None,
    ) -> None:
        super().__init__()
        if not deltas:
            raise InputError("deltas: found none, expected one task vector or more")
        first = _first_names(module)
        # In a list, so that neither its parameters nor its state dict become this module's.
        self._modules_run = [module]
        self._base = _once("base", base, first)
        _refuse_missing(self._base, first)
        buffers = {first[name] for name, _ in module.named_buffers() if name in first}
        counters = {one for one in buffers if not _has_fraction(self._base[one])}
        self._deltas = [
            {
                name: value
                for name, value in _once(f"deltas[{i}]", one, first).items()
                if name not in counters
            }
            for i, one in enumerate(deltas)
        ]
        self.names = tuple(merged_names(self._base, self._deltas))
        self._merged_buffers = buffers.intersection(self.names)
        for name in buffers:
            if name not in self.names:
                self._base[name] = self._base[name].clone()
        shape: tuple[int, ...] = (len(deltas),)
        if per_tensor or blocks is not None:
            shape += (len(self.names),)
        if blocks is not None:
            shape += (whole("blocks", blocks, 1, _MOST_BLOCKS),)
        self._shared: dict[str, torch.Tensor] | None = None
        self.coefficients = torch.nn.Parameter(torch.full(shape, number("initial", initial)))
        self.training = module.training
        with torch.no_grad():
            self.merged()

    def merged(self) -> dict[str, torch.Tensor]:
        """Return merged tensors by name, tied ones once; a gradient flows to the coefficients."""
        values = weighted_merge(self._base, self._deltas, self.coefficients)
        for name in self._merged_buffers:
            values[name] = values[name].detach()
        return values

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Run the module with the merged values."""
        values = self.merged() if self._shared is None else self._shared
        return torch.func.functional_call(self._modules_run[0], values, args, kwargs)

    @contextmanager
    def merged_once(self) -> Iterator[None]:
        """Share one merge between all calls until the block is left.

        Backward passes inside add up the gradient of the merged values, which takes as many bytes
        as the values. The gradient of the coefficients is computed once, when the block is left. So
        several losses, each with its own ``backward()``, cost one merge and one contraction. The
        coefficients must not change inside, and blocks must not be nested.
        """
        merged = self.merged()
        self._shared = {
            name: value.detach().requires_grad_() if value.requires_grad else value
            for name, value in merged.items()
        }
        try:
            yield
            grads = {name: one.grad for name, one in self._shared.items() if one.requires_grad}
        finally:
            self._shared = None
        used = {name: grad for name, grad in grads.items() if grad is not None}
        if used:
            torch.autograd.backward([merged[name] for name in used], [*used.values()])

    def train(self, mode: bool = True) -> MergedModule:
        """Put the module into training or evaluation mode."""
        self._modules_run[0].train(mode)
        return super().train(mode)


def _first_names(module: torch.nn.Module) -> dict[str, str]:
    """Return for each name of the state dict the first name of the same tensor."""
    own: dict[str, torch.Tensor] = dict(module.named_parameters(remove_duplicate=False))
    own |= dict(module.named_buffers(remove_duplicate=False))
    seen: dict[int, str] = {}
    return {name: seen.setdefault(id(own[name]), name) for name in module.state_dict()}


def _has_fraction(tensor: object) -> bool:
    """Return True for a floating-point tensor, and for what is refused as none."""
    return not isinstance(tensor, torch.Tensor) or tensor.is_floating_point()


def _refuse_missing(base: Tensors, first: dict[str, str]) -> None:
    for name, canonical in first.items():
        if canonical not in base:
            raise InputError(
                f"base: lacks tensor {show(name)}, expected all names of the module's state dict"
            )


def _once(where: str, tensors: Mapping[str, T], first: dict[str, str]) -> dict[str, T]:
    """Return the tensors under their first names; InputError if values of tied names differ."""
    found: dict[str, T] = {}
    for name, tensor in tensors.items():
        if name not in first:
            raise InputError(f"{where}: tensor {unknown(name, first)}")
        known = found.setdefault(first[name], tensor)
        if known is not tensor and not _are_equal(known, tensor):
            raise InputError(
                f"{where}: tensors {show(first[name])} and {show(name)} differ, and are one tensor "
                "in the module; expected equal values"
            )
    return found


def _are_equal(a: torch.Tensor | EncodedDelta, b: torch.Tensor | EncodedDelta) -> bool:
    return isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor) and torch.equal(a, b)
