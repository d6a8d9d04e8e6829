"""The table of CUDA kernels (csrc/cuda/ops.h) through ctypes, for tests and benchmarks."""

from __future__ import annotations

import ctypes as c
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
S = TypeVar("S", bound=c.Structure)

_HEADER = Path(__file__).parents[2] / "csrc" / "core" / "rule.h"
RULES: list[tuple[str, str, str]] = re.findall(
    r"^\s+X\((\w+), (\w+), (\w+)\)", _HEADER.read_text(), re.MULTILINE
)
"""Gate, vote and blend of every compiled rule, in the order of the table."""

STRETCH, CELL = 2048, 1 << 16
FLOOR_THERE = -(1 << 31)
N_FUSED, N_DTYPES = 3, 6
N_UNITS, N_CODINGS = 4, 4

_TYPES = {"p": c.c_void_p, "z": c.c_size_t, "i": c.c_int, "f": c.c_float, "q": c.c_uint64}
# Name, types of the arguments, and how many in an array of functions; as in ops.h, in its order.
_FUNCTIONS: list[tuple[str, str, int]] = [
    ("count_devices", "p", 1),
    ("describe", "ip", 1),
    ("use_device", "i", 1),
    ("allocate", "pz", 1),
    ("release", "p", 1),
    ("allocate_pinned", "pz", 1),
    ("release_pinned", "p", 1),
    ("copy", "ppzp", 1),
    ("clear", "pzp", 1),
    ("create_stream", "p", 1),
    ("destroy_stream", "p", 1),
    ("wait_for_stream", "p", 1),
    ("create_event", "p", 1),
    ("destroy_event", "p", 1),
    ("record", "pp", 1),
    ("wait_for_event", "p", 1),
    ("order_after", "pp", 1),
    ("milliseconds", "ppp", 1),
    ("combine", "pppp", N_FUSED * len(RULES)),
    ("elect_signs", "ppiipzppp", N_FUSED * 2),
    ("trim", "pipppzp", N_FUSED),
    ("magnitudes", "ppzpp", N_FUSED),
    ("widen", "ppzp", N_DTYPES),
    ("narrow", "ppzp", N_DTYPES),
    ("subtract", "pppzp", 1),
    ("magnitude_mask", "pippzp", N_FUSED),
    ("tall_mask", "ppfpzp", N_FUSED),
    ("consensus_mask", "piipzp", 1),
    ("same_sign_mask", "pppzp", 1),
    ("sign_mask", "ppzp", 1),
    ("pack_bits", "ppzp", 1),
    ("unpack_bits", "ppzp", 1),
    ("tall", "ppp", N_FUSED),
    ("apply_mask", "pppfpzpp", N_FUSED),
    ("apply_signs", "ppfpzpp", N_FUSED),
    ("low_rank", "pppzzzfpp", N_FUSED),
    ("dot", "ppzpp", N_FUSED),
    ("sum_magnitudes", "pzpp", 1),
    ("fold", "pzpp", 1),
    ("selection_bytes", "z", 1),
    ("begin_selection", "pzqp", 1),
    ("count_digit", "pippzp", N_FUSED),
    ("pick_digit", "pippp", 1),
    ("cut_off_bytes", "z", 1),
    ("begin_cut_off", "pqpp", 1),
    ("cut_off", "ppppzpp", N_FUSED),
    ("scatter_gaps", "pp", N_UNITS * N_CODINGS),
    ("scatter_mask", "pp", N_UNITS * N_CODINGS),
    ("change_all", "pzpp", N_UNITS * N_CODINGS),
]
_SIZES = ("selection_bytes", "cut_off_bytes")


class _Table(c.Structure):
    _fields_ = (
        ("size", c.c_size_t),
        ("size_of_combine_args", c.c_size_t),
        ("cuda_version", c.c_int),
        *((name, c.c_void_p * count) for name, _, count in _FUNCTIONS),
    )


class CombineArgs(c.Structure):
    _fields_ = (
        ("base", c.c_void_p),
        ("experts", c.c_void_p),
        ("weights", c.c_void_p),
        ("floors", c.c_void_p),
        ("n_experts", c.c_int),
        ("scale", c.c_float),
        ("divisor", c.c_float),
        ("zero_sign", c.c_int),
        ("signs", c.c_void_p),
        ("overflow", c.c_int32),
        ("out", c.c_void_p),
        ("n", c.c_size_t),
        ("scores", c.c_void_p),
        ("agreement", c.c_uint8),
        ("draws", c.c_void_p),
        ("first", c.c_uint64),
        ("multiples", c.c_void_p),
        ("n_multiples", c.c_int),
        ("opposites", c.c_void_p),
        ("n_opposites", c.c_int),
    )


class CombineTally(c.Structure):
    _fields_ = (
        ("sign_sum", c.c_int64),
        ("conflicts", c.c_uint64),
        ("cancellations", c.c_uint64),
        ("overflow", c.c_bool),
    )


class CombineThere(c.Structure):
    _fields_ = (("floors", c.c_void_p), ("cut_offs", c.c_void_p), ("again", c.c_void_p))


class TallArgs(c.Structure):
    _fields_ = (
        ("base", c.c_void_p),
        ("experts", c.c_void_p),
        ("n_experts", c.c_int),
        ("lambdas", c.c_void_p),
        ("n_lambdas", c.c_int),
        ("shared", c.c_void_p),
        ("masks", c.c_void_p),
        ("n", c.c_size_t),
    )


class Selected(c.Structure):
    _fields_ = (
        ("bits", c.c_int32),
        ("floor", c.c_int32),
        ("n_above", c.c_uint64),
        ("n_equal", c.c_uint64),
    )


class CutOff(c.Structure):
    _fields_ = (("left", c.c_uint64), ("count", c.c_uint64))


class CodedChanges(c.Structure):
    _fields_ = (
        ("coded", c.c_void_p),
        ("ends", c.c_void_p),
        ("values", c.c_void_p),
        ("n_coded", c.c_size_t),
        ("n_values", c.c_size_t),
        ("n_elements", c.c_size_t),
        ("elements", c.c_void_p),
    )


class Description(c.Structure):
    _fields_ = (
        ("name", c.c_char * 256),
        ("major", c.c_int),
        ("minor", c.c_int),
        ("n_multiprocessors", c.c_int),
        ("n_bytes", c.c_size_t),
    )


class Memory:
    """Bytes on the device, released with the object. Freshly allocated ones hold rubbish."""

    def __init__(self, table: CudaTable, n_bytes: int, shift: int = 0) -> None:
        self._table, self.n_bytes = table, n_bytes
        self._start = c.c_void_p()
        table("allocate", c.addressof(self._start), n_bytes + shift + 1)
        self.address = int(self._start.value or 0) + shift

    def __del__(self) -> None:
        self._table("release", self._start)

    def read(self, dtype: npt.DTypeLike, n: int) -> Array:
        out = np.empty(n, dtype)
        self._table("copy", out.ctypes.data, self.address, out.nbytes, None)
        self._table("wait_for_stream", None)
        return out

    def read_as(self, kind: type[S]) -> S:
        return kind.from_buffer_copy(self.read(np.uint8, c.sizeof(kind)).tobytes())


class CudaTable:
    """The functions of a library. A call raises RuntimeError with what the device says."""

    def __init__(self, path: str | Path) -> None:
        self.library = c.CDLL(str(path))
        self.library.tallies_cuda_table.restype = c.POINTER(_Table)
        table = self.library.tallies_cuda_table().contents
        assert table.size == c.sizeof(_Table), "cuda_table.py is not as csrc/cuda/ops.h"
        assert table.size_of_combine_args == c.sizeof(CombineArgs)
        self._functions = {}
        for name, types, count in _FUNCTIONS:
            result = c.c_size_t if name in _SIZES else c.c_char_p
            kind = c.CFUNCTYPE(result, *(_TYPES[letter] for letter in types))
            # A rule without a function stays null.
            self._functions[name] = [kind(address or 0) for address in getattr(table, name)]
            assert len(self._functions[name]) == count

    def __call__(self, name: str, *arguments: Any, which: int = 0) -> None:
        problem = self._functions[name][which](*arguments)
        if problem is not None:
            raise RuntimeError(f"{name}: {problem.decode()}")

    def size(self, name: str, n: int) -> int:
        return int(self._functions[name][0](n))

    def n_devices(self) -> int:
        n = c.c_int()
        self("count_devices", c.addressof(n))
        return n.value

    def describe(self) -> Description:
        described = Description()
        self("describe", 0, c.addressof(described))
        return described

    def empty(self, n_bytes: int, shift: int = 0) -> Memory:
        return Memory(self, n_bytes, shift)

    def zeros(self, n_bytes: int) -> Memory:
        memory = Memory(self, n_bytes)
        self("clear", memory.address, n_bytes, None)
        return memory

    def put(self, array: Array, shift: int = 0) -> Memory:
        """A copy on the device, ``shift`` bytes behind a multiple of 256."""
        host = np.ascontiguousarray(array)
        memory = Memory(self, host.nbytes, shift)
        self("copy", memory.address, host.ctypes.data, host.nbytes, None)
        self("wait_for_stream", None)
        return memory


def pointers(addresses: Sequence[int]) -> Any:
    """An array of pointers, in host memory."""
    return (c.c_void_p * max(len(addresses), 1))(*addresses)


def floats(values: Sequence[float]) -> Any:
    """An array of float32, in host memory."""
    return (c.c_float * max(len(values), 1))(*values)


def ints(values: Sequence[int]) -> Any:
    """An array of int32, in host memory."""
    return (c.c_int32 * max(len(values), 1))(*values)
