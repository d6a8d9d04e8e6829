"""``MergedModule``: a module whose parameters are a merge with coefficients to be learned."""

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

    ``base`` has the names of the module's state dict, tied ones once or more often; the deltas,
    tensors or what ``store_deltas`` returns, have the names that are merged. ``coefficients``, the
    only parameter, begins with ``initial`` throughout: float32 [T]; [T, n] with ``per_tensor``,
    whose columns are ``names``; [T, n, K] with ``blocks=K``. So an optimizer takes
    ``merged.parameters()``, and the state dict is the coefficients. The module itself is not
    changed: its own values are not used, buffers that the deltas lack begin as copies of the
    base's and may change in training mode.

    Each call merges once; inside ``merged_once()`` all calls share one merge. ``merged()`` is the
    merge by itself, to keep. InputError for names that the module lacks or that the base lacks,
    for tied names with different values, and for what ``weighted_merge`` refuses.

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
    """The tensors that are merged, tied ones once."""

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
        self._deltas = [_once(f"deltas[{i}]", one, first) for i, one in enumerate(deltas)]
        self.names = tuple(merged_names(self._base, self._deltas))
        for name, _ in module.named_buffers():
            if name not in self.names and name in self._base:
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
        """The values by name, tied ones once; a gradient flows back to the coefficients."""
        return weighted_merge(self._base, self._deltas, self.coefficients)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The module's result with the merged values."""
        values = self.merged() if self._shared is None else self._shared
        return torch.func.functional_call(self._modules_run[0], values, args, kwargs)

    @contextmanager
    def merged_once(self) -> Iterator[None]:
        """All calls until the block is left have one merge, and the backward passes one more.

        A gradient of the merged values gathers meanwhile, as many bytes as they have; that of the
        coefficients is there once the block is left. So several losses, each with its own
        ``backward()``, cost one merge and one contraction. The coefficients must not be changed
        inside, and blocks are not nested.
        """
        merged = self.merged()
        self._shared = {
            name: value.detach().requires_grad_() if name in self.names else value
            for name, value in merged.items()
        }
        try:
            yield
            grads = {name: self._shared[name].grad for name in self.names}
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


def _once(where: str, tensors: Mapping[str, T], first: dict[str, str]) -> dict[str, T]:
    """The tensors with tied names taken together; InputError if their values differ."""
    found: dict[str, T] = {}
    for name, tensor in tensors.items():
        if name not in first:
            raise InputError(f"{where}: tensor {unknown(name, first)}")
        held = found.setdefault(first[name], tensor)
        if held is not tensor and not _are_equal(held, tensor):
            raise InputError(
                f"{where}: tensors {show(first[name])} and {show(name)} differ, and are one tensor "
                "in the module; expected equal values"
            )
    return found


def _are_equal(a: torch.Tensor | EncodedDelta, b: torch.Tensor | EncodedDelta) -> bool:
    return isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor) and torch.equal(a, b)
