"""Create a new adapter of PEFT without the first values that a merge overwrites at once."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ._facts import Source, digest_of
from ._serving import find

if TYPE_CHECKING:
    import torch

LAYER = "peft.tuners.lora.layer"
TUNERS = "peft.tuners.tuners_utils"
CREATE = "_create_and_replace"
# Elsewhere the host creates its adapter as ever, with the same result.
COPIED = (
    Source("peft.tuners.lora.model", f"LoraModel.{CREATE}", "41bf293e00a03123"),
    Source(LAYER, "LoraLayer.update_layer", "d396cbd7150038e4"),
    Source(LAYER, "LoraLayer.reset_lora_parameters", "f10c97cf5cb768e7"),
    Source(TUNERS, "BaseTunerLayer._move_adapter_to_device_of_base_layer", "7d1ee6de7c51feda"),
)
CHUNK = 1 << 16


@dataclass(frozen=True)
class _Created:
    """A layer with empty factors, and the generator's state before its first values."""

    target: Any
    state: torch.Tensor


@contextlib.contextmanager
def without_values(model: Any, adapter_name: Any) -> Iterator[None]:
    """Let a model of the host create the factors of a new adapter empty, inside a block.

    Each factor of a plain linear layer has no element until somebody gives it data; the default
    generator is moved on as if values had been drawn. Every other layer is created as ever. After
    an error, factors that are still empty get the values that the host would have drawn.

    Args:
        model: The host's ``LoraModel``.
        adapter_name: The name of the new adapter.
    """
    from peft.tuners.lora import LoraModel

    if (
        type(model) is not LoraModel
        or CREATE in vars(model)
        or not _is_known()
        or not _draws_one_by_one()
    ):
        yield
        return
    host, made = getattr(model, CREATE), []

    def create(
        config: Any, name: Any, target: Any, target_name: Any, parent: Any, **keywords: Any
    ) -> None:
        arguments = (config, name, target, target_name, parent)
        key = str(keywords.get("current_key"))
        if name != adapter_name or model.prefix in key or not _is_plain(target, config):
            host(*arguments, **keywords)
            return
        made.append(_created(host, arguments, keywords))

    object.__setattr__(model, CREATE, create)
    try:
        yield
    except BaseException:
        for one in made:
            _draw_again(one, adapter_name, model.peft_config[adapter_name].init_lora_weights)
        raise
    finally:
        object.__delattr__(model, CREATE)


def _created(host: Any, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> _Created:
    """Create a layer without memory, and put empty factors in their place."""
    import torch

    config, name, target = arguments[:3]
    state = torch.get_rng_state()
    with _valueless()():
        host(*arguments, **keywords)
    layers = (target.lora_A[name], target.lora_B[name])
    left, right = (layer.weight.numel() for layer in layers)
    # A layer of torch draws its first values, and PEFT those of A once more.
    _draw((2 if config.init_lora_weights is True else 1) * left + right)
    for layer in layers:
        layer.weight = torch.nn.Parameter(
            torch.empty(0, dtype=layer.weight.dtype), layer.weight.requires_grad
        )
    return _Created(target, state)


@functools.cache
def _valueless() -> Any:
    """Return the mode of torch, of this thread alone, in which new tensors hold no memory."""
    import torch
    from torch.overrides import TorchFunctionMode

    fills = (torch.nn.init.kaiming_uniform_, torch.Tensor.uniform_, torch.Tensor.zero_)

    class Valueless(TorchFunctionMode):
        def __torch_function__(
            self, function: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            keywords = kwargs or {}
            if function is torch.empty:
                return function(*args, **{**keywords, "device": "meta"})
            if function in fills:
                filled = args[0] if args else keywords["tensor"]
                return filled if filled.is_meta else function(*args, **keywords)
            return function(*args, **keywords)

    return Valueless


def _draw(number: int) -> None:
    """Draw so many numbers from the default generator, and forget them."""
    import torch

    buffer = torch.empty(min(number, CHUNK))
    while number > 0:
        buffer[:number].uniform_()
        number -= CHUNK


def _draw_again(one: _Created, adapter_name: Any, init: Any) -> None:
    """Give factors that are still empty the values that the host gives a new adapter."""
    import torch

    target, now = one.target, torch.get_rng_state()
    layers = (target.lora_A[adapter_name], target.lora_B[adapter_name])
    if any(layer.weight.numel() for layer in layers):
        return
    torch.set_rng_state(one.state)
    try:
        for layer in layers:
            fresh = torch.nn.Linear(layer.in_features, layer.out_features, bias=False)
            layer.weight.data = fresh.weight.data.to(layer.weight.dtype)
        target.reset_lora_parameters(adapter_name, init)
    finally:
        torch.set_rng_state(now)


def _is_plain(target: Any, config: Any) -> bool:
    """Tell whether a layer is a linear one of torch whose factors are drawn as by default."""
    import torch
    from peft.tuners.lora.layer import Linear

    if type(target) is not Linear or config.init_lora_weights not in (True, False):
        return False
    weight = getattr(target.get_base_layer(), "weight", None)
    return (
        isinstance(weight, torch.Tensor)
        and weight.device.type == "cpu"
        and weight.dtype in (torch.float32, torch.float16, torch.bfloat16)
        and not config.lora_bias
        and not getattr(config, "target_modules_to_tie", None)
        and target.resolve_lora_variant(config=config) is None
        and not hasattr(target, "lora_arrow")
        and not (torch.distributed.is_available() and torch.distributed.is_initialized())
    )


def _draws_one_by_one() -> bool:
    """Tell whether a new layer of torch moves the generator as so many uniform numbers do."""
    import torch

    state = torch.get_rng_state()
    try:
        weight = torch.nn.Linear(3, 7, bias=False).weight
        after = torch.get_rng_state()
        torch.set_rng_state(state)
        _draw(21)
        same = torch.equal(after, torch.get_rng_state())
    finally:
        torch.set_rng_state(state)
    return same and weight.dtype == torch.float32 and weight.device.type == "cpu"


def _is_known() -> bool:
    """Tell whether the host's sources are those whose behaviour is repeated here."""
    places = ((find(one.module, one.name), one.digest) for one in COPIED)
    return all(place and digest_of(place.value) == digest for place, digest in places)
