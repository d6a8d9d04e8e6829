"""``LoraModel.add_weighted_adapter``: the host's loop over modules, merged in one call."""

from __future__ import annotations

import inspect
import math
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from ..errors import InputError
from . import _peft_creation as creation
from . import _peft_functions as functions
from ._seam import HandOver, Original

if TYPE_CHECKING:
    from torch import Tensor

ONE_MODULE = "_generalized_task_arithmetic_weighted_adapter"
DRAWN = ("dare_linear", "dare_ties")
TRIMMED = ("magnitude_prune", "ties")
VOTED = ("ties", "dare_ties")
COMBINATIONS = ("linear", *TRIMMED, *DRAWN)


def add_weighted_adapter(
    original: Original,
    self: Any,
    adapters: Any,
    weights: Any,
    adapter_name: Any,
    combination_type: Any = "svd",
    *others: Any,
    **keywords: Any,
) -> None:
    """Run the host's method; its merges of single modules wait and are made together at the end.

    A module that cannot be merged here is merged by the host when its turn comes, and random draws
    are made when their turn comes, so that they keep their order.
    """
    if combination_type not in COMBINATIONS:
        raise HandOver("combination type")
    _check_own(self)
    waiting = _Waiting(getattr(self, ONE_MODULE), original.exact)
    model = _Model(self, waiting.take)
    with _lock_of(self), creation.without_values(self, adapter_name):
        try:
            original.run(
                model, adapters, weights, adapter_name, combination_type, *others, **keywords
            )
        finally:
            waiting.finish(adapter_name)


_locks: WeakKeyDictionary[Any, threading.RLock] = WeakKeyDictionary()
_locks_lock = threading.Lock()


def _lock_of(model: Any) -> threading.RLock:
    """Return the lock of a model: the host adds adapters to dicts that it reads in loops."""
    with _locks_lock:
        return _locks.setdefault(model, threading.RLock())


def _check_own(model: Any) -> None:
    """Raise HandOver where a model merges its modules by a method of its own."""
    from peft.tuners.lora.model import LoraModel

    found = inspect.getattr_static(model, ONE_MODULE, None)
    if found is not vars(LoraModel)[ONE_MODULE]:
        raise HandOver("replaced")


class _Model:
    """A model as one call of the host's method sees it; the model itself stays as it is.

    A method of one call, set on the model, would take modules of calls in other threads as well.
    """

    def __init__(self, model: Any, one_module: Any) -> None:
        self._model = model
        setattr(self, ONE_MODULE, one_module)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)


@dataclass(frozen=True)
class _Module:
    """A module of the host, the call that merges its factors, and both merges."""

    target: Any
    call: tuple[Any, ...]
    tasks: tuple[functions.Task, functions.Task]


class _Waiting:
    """The modules whose factors are still to be merged."""

    def __init__(self, host: Any, exact: bool) -> None:
        self._host = host
        self._exact = exact
        self._modules: list[_Module] = []

    def take(
        self, kind: str, adapters: Any, weights: Any, target: Any, density: Any, method: Any
    ) -> Any:
        """Note a merge in place of the host's function, and return factors that hold nothing."""
        import torch

        call = (kind, adapters, weights, target, density, method)
        state = torch.get_rng_state() if kind in DRAWN else None
        try:
            first, second = (
                functions.task_of(
                    self._exact,
                    *(tensors, factors),
                    density if kind in TRIMMED else None,
                    method if kind in VOTED else None,
                )
                for tensors, factors in _factors(adapters, weights, target)
            )
            if density is None and kind != "linear":
                raise HandOver("density")
            if kind in DRAWN:
                first, second = (_drawn(task, density) for task in (first, second))
        except (HandOver, InputError, TypeError):
            if state is not None:
                torch.set_rng_state(state)
            return self._host(*call)
        self._modules.append(_Module(target, call, (first, second)))
        return [task.tensors[0].new_empty(0) for task in (first, second)]

    def finish(self, adapter_name: str) -> None:
        """Merge what has been noted, and give it to the new adapter."""
        if not self._modules:
            return
        tasks = [task for module in self._modules for task in module.tasks]
        try:
            results = functions.merged(self._exact, tasks)
        except InputError:
            results = ["refused"] * len(tasks)
        for module, first, second in zip(self._modules, results[::2], results[1::2], strict=True):
            factors: Sequence[Any] = (first, second)
            if isinstance(first, str) or isinstance(second, str):
                factors = self._of_the_host(module)
            dtype = module.tasks[0].tensors[0].dtype
            for parameter, merged in zip(
                _parameters(module.target, adapter_name), factors, strict=True
            ):
                parameter.data = merged.to(dtype)

    def _of_the_host(self, module: _Module) -> Sequence[Any]:
        """Merge a module by the host's functions; what was drawn is not drawn again."""
        import torch
        from peft.utils import merge_utils

        kind, _, _, _, _, method = module.call
        if kind not in DRAWN:
            return self._host(*module.call)  # type: ignore[no-any-return]
        results = []
        for task in module.tasks:
            weights = torch.tensor(task.weights)
            if kind == "dare_linear":
                results.append(merge_utils.task_arithmetic(list(task.tensors), weights))
                continue
            stack = torch.stack(list(task.tensors))
            mask = merge_utils.calculate_majority_sign_mask(stack, method=method)
            weighted = stack * merge_utils.reshape_weight_task_tensors(stack, weights)
            results.append(merge_utils.disjoint_merge(weighted, mask))
        return results


def _factors(adapters: Any, weights: Any, target: Any) -> list[tuple[list[Any], Tensor]]:
    """Return the factors A of a module with their weights, and the factors B with theirs."""
    import torch

    left: list[Any] = []
    right: list[Any] = []
    left_weights, right_weights = [], []
    for adapter, weight in zip(adapters, weights, strict=False):
        found = _parameters(target, adapter)
        if found is None:
            continue
        factor = weight * target.scaling[adapter]
        root = math.sqrt(abs(factor))
        # The sign of a negative weight goes to one side alone.
        left_weights.append(root if factor >= 0 else -root)
        right_weights.append(root)
        left.append(found[0].data)
        right.append(found[1].data)
    return [(left, torch.tensor(left_weights)), (right, torch.tensor(right_weights))]


def _parameters(target: Any, adapter: str) -> Any:
    """Return the factors A and B of an adapter in a module; None where it has none."""
    if adapter in target.lora_A:
        return target.lora_A[adapter].weight, target.lora_B[adapter].weight
    if adapter in target.lora_embedding_A:
        return target.lora_embedding_A[adapter], target.lora_embedding_B[adapter]
    return None


def _drawn(task: functions.Task, density: Any) -> functions.Task:
    return functions.Task(functions.pruned(task.tensors, density), task.weights, vote=task.vote)
