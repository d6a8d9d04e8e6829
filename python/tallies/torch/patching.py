"""Applies patches to models in memory, in place and in work in proportion to what changed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Final

import torch

from ..engine.arrays import array_shape
from ..engine.odd_tensors import odd_kind
from ..errors import InputError
from ..messages import show, unknown
from ..patches.chains import Link, OnePatch, links_of
from ..patches.manifest import TensorChange
from ..patches.part_change import PartChange
from ..spec.dtypes import BY_NAME, DTYPES
from .file_names import as_in_files
from .model_tensors import WRAPPERS, own_tensors
from .verifying import refuse_others, some_changed

_change_elements = torch.ops.tallies.change_elements_.default

_CODINGS: Final = ("xor", "difference", "new", "undone difference")
"""The operator's words for the native codes of values."""

_WORDS: Final = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
"""The types as which elements of each size are changed."""

_KEPT_BYTES: Final = 1 << 30
"""Decoded changes that stay in memory between check and use; others are read again."""

_WORTH_BYTES: Final = 1 << 16
"""Changes that are worth threads."""


@dataclass(frozen=True, slots=True)
class _Step:
    """The changes of one part of a tensor by one patch."""

    link: Link
    name: str
    number: int
    elements: torch.Tensor
    """The elements of the part, flat, as whole numbers of their size."""
    change: PartChange | None
    """The changes, where they are kept."""


@torch.no_grad()
def apply_patch(
    target: torch.nn.Module | Mapping[str, torch.Tensor],
    patch: OnePatch | Sequence[OnePatch],
    *,
    undo: bool = False,
    verify: bool | None = None,
) -> int:
    """Change the tensors of a model as a patch says, in place.

    The work is in proportion to what changed, and no temporary has the size of a tensor. All of the
    patch is read and checked before the first element changes. Tensors that share their memory
    change once.

    A patch says what its model is by fingerprints of whole tensors alone. By default the smallest
    changed tensors are compared, of as many bytes as the patch has, or 1 MiB: a patch that was
    applied before is noticed there, but a model that differs in larger tensors alone is not.

    Args:
        target: A module, whose parameters and buffers change, or a dict of tensors by their names
            in the checkpoint; on the CPU or on CUDA devices.
        patch: A patch as ``make_patch`` writes it: a directory, a file or bytes; or several, each
            of which starts from what the one before makes.
        undo: Take the patch back, bit for bit; for values "xor" and "difference".
        verify: True reads all tensors of the patch and refuses a model that the patch does not
            start from; False compares none, and the caller vouches for the model; None compares
            some, as said above.

    Returns:
        The number of elements that the patch changes.

    Raises:
        InputError: The patch is damaged or does not fit; nothing has changed then.
        StorageError: The patch cannot be read.
    """
    links = links_of(patch, undo=undo)
    if sum(link.patch.n_bytes for link in links) <= _KEPT_BYTES:
        links = [replace(link, patch=link.patch.held()) for link in links]
    tensors = _tensors(target, links)
    steps = []
    n_kept = 0
    for link in links:
        for one in _once(link, tensors):
            for step in _steps(link, one, tensors[one.name]):
                _refuse_damaged(step)
                n_kept += 0 if step.change is None else step.change.n_bytes
                steps.append(step if n_kept <= _KEPT_BYTES else replace(step, change=None))
    if verify is not False:
        refuse_others(links[0], tensors, _to_verify(links, tensors, of_all=verify is True))
    for link in links:
        _change_all([step for step in steps if step.link is link])
    return sum(one.n_changed for link in links for one in link.changes.values())


def _tensors(
    target: torch.nn.Module | Mapping[str, torch.Tensor], links: Sequence[Link]
) -> dict[str, torch.Tensor]:
    """Return the tensors of a model that patches change or name, and check their forms."""
    if isinstance(target, torch.nn.Module):
        own = own_tensors(target)
        wanted = {name for link in links for name, one in link.changes.items() if one.parts}
        if not wanted <= own.keys():
            own = {**(as_in_files(target, own) or {}), **own}
    else:
        own = dict(target)
    for link in links:
        for one in link.changes.values():
            if one.change not in ("none", "changed"):
                raise InputError(
                    f"{link.label}: tensor {show(one.name)} is {one.change}, and a model in memory "
                    "takes changes of elements alone; apply the patch to the model's files"
                )
            if one.change == "changed":
                _check(link, one, own)
    return own


def _to_verify(
    links: Sequence[Link], tensors: Mapping[str, torch.Tensor], *, of_all: bool
) -> list[str]:
    """Return the tensors to compare with what the patches start from, and check their forms."""
    if not of_all:
        return some_changed(links)
    names = [name for name in links[0].old_table if name in tensors]
    for name in names:
        if (one := links[0].changes[name]).change == "none":
            _check(links[0], one, tensors)
    return names


def _check(link: Link, one: TensorChange, own: Mapping[str, torch.Tensor]) -> None:
    """Raise InputError unless a tensor can be changed in place."""
    if one.name not in own:
        for prefix in WRAPPERS:
            if prefix + one.name in own:
                raise InputError(
                    f"model: has {show(prefix + one.name)} for tensor {show(one.name)} of "
                    f"{link.label}; give the module inside: model.{prefix[:-1]}"
                )
        raise InputError(f"model: tensor of {link.label}: {unknown(one.name, own)}")
    tensor = own[one.name]
    if not isinstance(tensor, torch.Tensor):
        raise InputError(
            f"model: {show(one.name)} is {type(tensor).__name__}, expected a tensor of torch"
        )
    where = f"model: tensor {show(one.name)}"
    if (odd := odd_kind(tensor)) is not None:
        raise InputError(f"{where} is {odd[0]}, expected a dense tensor; {odd[1]}")
    dtype, shape = _as_array(link, one)
    if tensor.dtype != dtype:
        raise InputError(
            f"{where} is {_word(tensor.dtype)}, and {link.label} changes the bits of "
            f"{_word(dtype)}; load the model in the dtype of its checkpoint"
        )
    if tuple(tensor.shape) != shape:
        raise InputError(
            f"{where} has shape {list(tensor.shape)}, and {link.label} changes {list(shape)}"
        )
    if not tensor.is_contiguous():
        raise InputError(
            f"{where} has strides {list(tensor.stride())}, expected elements in the order of its "
            "shape; replace it by its .contiguous()"
        )
    if tensor.is_inference() and not torch.is_inference_mode_enabled():
        raise InputError(
            f"{where} is an inference tensor, which changes inside torch.inference_mode() alone"
        )


def _as_array(link: Link, one: TensorChange) -> tuple[torch.dtype, tuple[int, ...]]:
    """Return the dtype and the shape of a tensor of torch that is changed."""
    shape = array_shape(one.dtype, one.shape)
    name = BY_NAME[one.dtype].array_name
    if shape is None or not hasattr(torch, name):
        raise InputError(
            f"{link.label}: tensor {show(one.name)} is {one.dtype} {list(one.shape)}, which torch "
            "has no tensor for; apply the patch to the model's files"
        )
    return getattr(torch, name), shape


def _word(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _once(link: Link, tensors: Mapping[str, torch.Tensor]) -> Iterator[TensorChange]:
    """Yield the changed tensors of a link, one for each place in memory."""
    seen: dict[tuple[str, int], TensorChange] = {}
    for one in link.changes.values():
        if one.change != "changed":
            continue
        tensor = tensors[one.name]
        place = (str(tensor.device), tensor.data_ptr())
        first = seen.setdefault(place, one)
        if first is one or not tensor.numel():
            yield one
        elif (first.old, first.new, first.shape) != (one.old, one.new, one.shape):
            raise InputError(
                f"model: tensors {show(first.name)} and {show(one.name)} share their memory, and "
                f"{link.label} changes them in two ways; untie them"
            )


def _steps(link: Link, one: TensorChange, tensor: torch.Tensor) -> Iterator[_Step]:
    """Yield the changes of a tensor, part by part."""
    flat = tensor.detach().view(-1).view(_WORDS[DTYPES[one.dtype]])
    for number, part in enumerate(one.parts):
        change = link.part(one.name, number)
        if change is not None:
            elements = flat[part.first : part.first + part.n_elements]
            yield _Step(link, one.name, number, elements, change)


def _refuse_damaged(step: _Step) -> None:
    """Raise InputError where positions, values and counts of a part contradict each other."""
    assert step.change is not None
    try:
        step.change.stored(step.link.coding, step.elements.numel(), step.elements.element_size())
    except InputError as error:
        raise step.link.damaged(step.name, step.number, error) from None


def _change_all(steps: Sequence[_Step]) -> None:
    """Make the changes of parts that do not overlap, in as many threads as torch takes."""
    mode = torch.is_inference_mode_enabled()

    def change(step: _Step) -> None:
        with torch.inference_mode(mode), torch.no_grad():  # which are those of a thread
            _change(step)

    n_threads = min(torch.get_num_threads(), len(steps))
    on_device = any(step.elements.device.type != "cpu" for step in steps)  # in the thread's stream
    if on_device or n_threads < 2 or sum(map(_n_bytes, steps)) < _WORTH_BYTES:
        for step in steps:
            change(step)
        return
    with ThreadPoolExecutor(n_threads) as pool:
        for _ in pool.map(change, steps):
            pass


def _n_bytes(step: _Step) -> int:
    return _WORTH_BYTES if step.change is None else step.change.n_bytes


def _change(step: _Step) -> None:
    """Make the changes of one part."""
    change = step.change or step.link.part(step.name, step.number)
    assert change is not None
    device, word = step.elements.device, step.elements.dtype
    _change_elements(
        step.elements,
        _tensor(change.positions, torch.uint8, device),
        _tensor(change.blocks, torch.int32, device),
        _tensor(change.values, word, device),
        layout=change.layout,
        coding=_CODINGS[step.link.coding],
    )
    if not step.elements.is_inference():
        torch.autograd.graph.increment_version(step.elements)


def _tensor(data: memoryview, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """Return bytes as a flat tensor, which reads them where they lie if that is the CPU."""
    if not len(data):
        return torch.empty(0, dtype=dtype, device=device)
    buffer = bytearray(data) if data.readonly else data
    return torch.frombuffer(buffer, dtype=dtype).to(device)
