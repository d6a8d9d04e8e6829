"""Tells models in memory from others by the fingerprints of their tensors."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

import torch

from .._core import fingerprint
from ..engine.fingerprints import add_content, tensor_fingerprint
from ..errors import InputError
from ..messages import show
from ..patches.chains import Link
from ..spec.dtypes import size_of

_VERIFIED_BYTES: Final = 1 << 26
"""The bytes of a tensor that are fingerprinted together; of a device, copied together."""

_LEAST_BYTES: Final = 1 << 20
"""The bytes of tensors that are compared however small the patch is."""


def some_changed(links: Sequence[Link]) -> list[str]:
    """Return changed tensors, the smallest first, of as many bytes as the patches take or fewer.

    To read them is work in proportion to what changed.

    Args:
        links: The patches.
    """
    n_bytes = {
        name: size_of(one.dtype, one.shape)
        for link in links
        for name, one in link.changes.items()
        if one.change == "changed"
    }
    found = []
    left = max(sum(link.patch.n_bytes for link in links), _LEAST_BYTES)
    for name in sorted(n_bytes, key=lambda name: (n_bytes[name], name)):
        if (left := left - n_bytes[name]) < 0:
            break
        found.append(name)
    return found


def refuse_others(link: Link, tensors: Mapping[str, torch.Tensor], names: Iterable[str]) -> None:
    """Raise InputError unless tensors are those that a patch starts from."""
    for name in names:
        found = tensor_fingerprint(link.changes[name], _content(tensors[name]))
        expected = link.old_table[name]
        if found == expected:
            continue
        way_out = f"apply the patch to {link.origin}"
        if found == link.new_table[name]:
            way_out = (
                "the tensor is the old one already: was the patch taken back before?"
                if link.backwards
                else "the tensor is the new one already: was the patch applied before?"
            )
        raise InputError(
            f"model: tensor {show(name)} has fingerprint {found}, and {expected} is expected; "
            f"{way_out}; verify=False applies it nevertheless"
        )


def _content(tensor: torch.Tensor) -> list[int]:
    """Return the content fingerprint of a contiguous tensor, read in pieces."""
    flat = tensor.detach().view(-1).view(torch.uint8)
    lanes = [0] * 8
    for first in range(0, flat.numel(), _VERIFIED_BYTES):
        piece = flat[first : first + _VERIFIED_BYTES].cpu()
        add_content(lanes, fingerprint(piece.data_ptr(), piece.numel(), first))
    return lanes
