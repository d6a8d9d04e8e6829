"""The gates of a mixture of experts: random ones, and those of statistics.

A file of statistics has a tensor ``layers.L.experts.E`` of [hidden] for each layer and expert: the
mean hidden state before that layer over the prompts that expert E is for. A shared expert that has
a gate has ``layers.L.shared.0``.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from ..checkpoint.checkpoint import Checkpoint
from ..checkpoint.data import chunks
from ..checkpoint.tensors import TensorInfo
from ..engine.decoding import converted_chunks
from ..errors import InputError
from ..messages import show, some
from ..spec.dtypes import FLOATS

if TYPE_CHECKING:
    import numpy as np

_UNIFORMS = 12


def statistics_names(n_layers: int, n_experts: int, n_shared: int) -> list[list[str]]:
    """Return the names of the tensors of a file of statistics, those of each layer in order."""
    words = [f"experts.{e}" for e in range(n_experts)] + [f"shared.{e}" for e in range(n_shared)]
    return [[f"layers.{layer}.{word}" for word in words] for layer in range(n_layers)]


def check_statistics(
    statistics: Checkpoint, n_layers: int, n_experts: int, n_shared: int, hidden: int
) -> None:
    """Raise InputError unless a file has a vector for each layer and expert, and no others."""
    names = [one for layer in statistics_names(n_layers, n_experts, n_shared) for one in layer]
    path = statistics.path
    if missing := [name for name in names if name not in statistics.tensors]:
        raise InputError(
            f"{path}: tensor {show(missing[0])} is missing ({len(missing)} of {len(names)} are); "
            "the gates need the mean hidden state of every layer and expert; 'gate_mode: random' "
            "needs none"
        )
    if more := sorted(statistics.tensors.keys() - set(names)):
        raise InputError(
            f"{path}: {some(more)}: no such layer or expert, expected {n_layers} layers and "
            f"{n_experts} experts; leave out the others"
        )
    for name in names:
        info = statistics.tensors[name]
        if info.shape != (hidden,) or info.dtype not in FLOATS:
            raise InputError(
                f"{path}: tensor {show(name)} is {info.dtype} {list(info.shape)}, expected "
                f"floating point [{hidden}], the hidden size"
            )


def of_statistics(statistics: Checkpoint, names: list[str]) -> np.ndarray:
    """Return the gates of a layer, [experts, hidden] of float32: directions of length one."""
    import numpy as np

    rows = [_values(statistics.tensors[name]) for name in names]
    for name, row in zip(names, rows, strict=True):
        if not np.isfinite(row).all():
            raise InputError(f"{statistics.path}: tensor {show(name)} has NaN or infinite values")
        if not row.any():
            raise InputError(
                f"{statistics.path}: tensor {show(name)} is zero, expected the mean hidden state "
                "over an expert's prompts, which has a direction; compute it anew, or "
                "set 'gate_mode: random'"
            )
    lengths = [math.sqrt(math.fsum((row * row).tolist())) for row in rows]
    return np.stack([row / length for row, length in zip(rows, lengths, strict=True)]).astype(
        np.float32
    )


def _values(info: TensorInfo) -> np.ndarray:
    import numpy as np

    data = chunks(info) if info.dtype == "F32" else converted_chunks(info, "F32")
    return np.frombuffer(b"".join(map(bytes, data)), np.float32).astype(np.float64)


def of_chance(seed: int, layer: int, n_experts: int, hidden: int, *, uniform: bool) -> np.ndarray:
    """Return random gates of a layer, [experts, hidden] of float32.

    They follow from the seed, on every machine: sums of integers are exact. A value is the sum of
    twelve uniform numbers, less six: its mean is 0 and its deviation 1, as those of a normal one.

    Args:
        seed: The seed of the request.
        layer: The number of the layer.
        n_experts: The number of gates.
        hidden: The length of a gate.
        uniform: Take one uniform number between -1 / sqrt(hidden) and 1 / sqrt(hidden) instead.
    """
    import numpy as np

    generator = np.random.Philox(key=seed, counter=[0, 0, 0, layer])
    if uniform:
        bits = generator.random_raw(n_experts * hidden) >> np.uint64(11)
        scale = math.sqrt(1.0 / hidden)
        values = (bits.astype(np.float64) * 2.0**-52 - 1.0) * scale
    else:
        bits = generator.random_raw(n_experts * hidden * _UNIFORMS) >> np.uint64(32)
        sums = bits.reshape(-1, _UNIFORMS).sum(axis=1)
        values = sums.astype(np.float64) * 2.0**-32 - _UNIFORMS / 2
    return values.astype(np.float32).reshape(n_experts, hidden)
