"""The tensors that hold the singular triplets of a matrix."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...checkpoint.layout import Entry
from ...checkpoint.tensors import TensorInfo
from ..codecs._low_rank import VectorType


def s_name(name: str) -> str:
    """Return the name under which a task's file has the singular values of a matrix."""
    return f"{name}::s"


def v_name(name: str) -> str:
    """Return the name under which a task's file has the right singular vectors, as rows."""
    return f"{name}::v"


def part_names(name: str) -> tuple[str, str, str]:
    """Return the names of U, s and V^T of a matrix."""
    return name, s_name(name), v_name(name)


def entries_of(tensor: TensorInfo, parameters: Mapping[str, Any]) -> list[Entry]:
    """Return the tensors of a task's file for one matrix of the base: U [m, k], s [k], V^T [k, n].

    Args:
        tensor: The matrix of the base, [m, n].
        parameters: All parameters of a low-rank codec; k = int(min(m, n) * fraction).
    """
    m, n = tensor.shape
    k = int(min(m, n) * parameters["fraction"])
    values = VectorType(parameters["values"]).dtype(tensor.dtype)
    u, s, v = part_names(tensor.name)
    return [(u, values, (m, k)), (s, "F32", (k,)), (v, values, (k, n))]
