"""Files of ``torch.save``, whole or put together by hand."""

from __future__ import annotations

import collections
import io
import pickle
import zipfile
from typing import Any

import torch

State = dict[str, torch.Tensor]

SAVED = io.BytesIO()
torch.save({"a": torch.arange(6.0), "b": torch.arange(6).reshape(2, 3).t()}, SAVED)


def saved(content: object, **options: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer, **options)
    return buffer.getvalue()


def archive(pickled: bytes, *more: tuple[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    """A zip of a hand-written pickle and some entries."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as made:
        for name, data in (("archive/data.pkl", pickled), *more):
            made.writestr(name, data)
    return buffer.getvalue()


def tensor_pickle(
    *,
    key: object = "0",
    n: object = 4,
    offset: object = 0,
    shape: object = (4,),
    strides: object = (1,),
) -> bytes:
    """The pickle of one float32 tensor with such numbers, as the protocol's text."""

    class Storage:
        pass

    class Tensor:
        def __reduce__(self) -> tuple[Any, ...]:
            hooks: Any = collections.OrderedDict()
            arguments = (Storage(), offset, shape, strides, False, hooks)
            return torch._utils._rebuild_tensor_v2, arguments

    class Pickler(pickle.Pickler):
        def persistent_id(self, value: object) -> object:
            is_storage = isinstance(value, Storage)
            return ("storage", torch.FloatStorage, key, "cpu", n) if is_storage else None

    buffer = io.BytesIO()
    Pickler(buffer, 2).dump({"a": Tensor()})
    return buffer.getvalue()


FOUR = ("archive/data/0", bytes(16))
