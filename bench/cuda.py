"""Times the CUDA kernels against the copy bandwidth of the device, measured in the same run.

python -m bench.cuda [--test] [--elements N] [--repeat N] [--library FILE] [--dir PATH]

Then, with a torch for CUDA, its operators and switches of tasks (bench/cuda_torch.py).
"""

from __future__ import annotations

import argparse
import ctypes as c
import datetime
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import ml_dtypes
import numpy as np
import torch

from tallies import _core, cuda
from tallies.torch import ops
from tests.reference.blend import disjoint_merge
from tests.reference.dtype import Array, widen
from tests.reference.elect import elect_signs
from tests.reference.masks import apply_mask, magnitude_mask, pack_bits, tall_mask
from tests.reference.select import magnitude_bits
from tests.reference.sums import in_order_sum
from tests.reference.task_arithmetic import add_to_base, task_vectors
from tests.support import cuda_table
from tests.support.cuda_table import RULES, CudaTable, Memory, floats, ints, pointers

from . import cuda_torch
from .support.harness import Row, note, save, table

N_EXPERTS = 3
# Arrays on the device are this many elements over and over.
PERIOD = 1 << 20
# Elements of each result that are checked, at the beginning and at the end.
CHECKED = 1 << 16
# Launches between two events.
BATCH = 5
_SCALE, _LAMBDA = 0.5, 0.4
_FLOOR = int(np.float32(0.01).view(np.int32))
_TYPES = {"F32": np.dtype(np.float32), "BF16": np.dtype(ml_dtypes.bfloat16)}
_CODES = {"F32": 0, "BF16": 1}
_COMBINES = {
    "task_arithmetic": ("all", "none", "sum"),
    "ties": ("magnitude", "sum", "mean_of_agreeing"),
}


@dataclass
class Case:
    """A call, the bytes that it must move, and how to tell whether it did its work."""

    kernel: str
    dtype: str
    n_bytes: float
    target: float | None
    """The share of the copy bandwidth that is asked for."""
    run: Callable[[], None]
    check: Callable[[], None]


class Bench:
    """Arrays on a device and the cases that work on them."""

    def __init__(self, library: CudaTable, n_elements: int) -> None:
        self.library, self.n = library, n_elements
        self.period = min(PERIOD, n_elements)
        if n_elements % self.period:
            raise SystemExit(f"--elements: found {n_elements}, expected a multiple of 2^20")
        self._tally = library.zeros(c.sizeof(cuda_table.CombineTally))
        self._largest = library.zeros(4)

    def measure(self, case: Case, repeat: int) -> Row:
        """Check the case once, and time it."""
        case.run()
        case.check()
        row = Row({"kernel": case.kernel, "dtype": case.dtype}, n_bytes=case.n_bytes)
        row.facts["target"] = case.target
        start, end = c.c_void_p(), c.c_void_p()
        for event in (start, end):
            self.library("create_event", c.addressof(event))
        milliseconds = c.c_float()
        for _ in range(repeat):
            self.library("record", start, None)
            for _ in range(BATCH):
                case.run()
            self.library("record", end, None)
            self.library("wait_for_event", end)
            self.library("milliseconds", c.addressof(milliseconds), start, end)
            row.samples.append(milliseconds.value / 1e3 / BATCH)
        for event in (start, end):
            self.library("destroy_event", event)
        return row

    def cases(self) -> Iterator[Case]:
        """The roof first, and then the kernels of each type; arrays of one type at a time."""
        yield self._copy()
        for dtype in _TYPES:
            base, *experts = self._blocks(dtype)
            there = [self._spread(block) for block in (base, *experts)]
            yield from self._combines(dtype, [base, *experts], there)
            yield self._apply(dtype, [base, *experts], there)
            yield self._select(dtype, [base, *experts], there)
            del there
        x, merged, _ = self._blocks("F32")[1:]
        yield from self._masks(x, merged, self._spread(x), self._spread(merged))

    def _blocks(self, dtype: str) -> list[Array]:
        rng = np.random.default_rng(0)
        base = (0.02 * rng.standard_normal(self.period)).astype(_TYPES[dtype])
        return [
            base,
            *(
                (widen(base) + 0.01 * rng.standard_normal(self.period)).astype(base.dtype)
                for _ in range(N_EXPERTS)
            ),
        ]

    def _spread(self, block: Array) -> Memory:
        """The block over and over: a block is what stands for one period of elements."""
        memory = self.library.empty(self.n // self.period * block.nbytes)
        for at in range(0, memory.n_bytes, block.nbytes):
            self.library("copy", memory.address + at, block.ctypes.data, block.nbytes, None)
        self.library("wait_for_stream", None)
        return memory

    def _expect(self, name: str, out: Memory, expected: Array) -> None:
        """The result repeats what is expected of a block, at both ends."""
        n_bytes = min(expected.nbytes, CHECKED)
        wanted = expected.view(np.uint8)
        end = self.n // self.period * expected.nbytes - n_bytes
        for at, part in ((0, wanted[:n_bytes]), (end, wanted[-n_bytes:])):
            found = np.empty(n_bytes, np.uint8)
            self.library("copy", found.ctypes.data, out.address + at, n_bytes, None)
            self.library("wait_for_stream", None)
            if not np.array_equal(found, part):
                raise RuntimeError(f"{name}: wrong result")

    def _copy(self) -> Case:
        block = self._blocks("F32")[0]
        x, out = self._spread(block), self.library.empty(4 * self.n)
        return Case(
            "copy",
            "F32",
            8 * self.n,
            None,
            lambda: self.library("copy", out.address, x.address, 4 * self.n, None),
            lambda: self._expect("copy", out, block),
        )

    def _combines(self, dtype: str, blocks: list[Array], there: list[Memory]) -> Iterator[Case]:
        out = self.library.empty(there[0].n_bytes)
        base, deltas = blocks[0], task_vectors(blocks[0], blocks[1:])
        rows = pointers([memory.address for memory in there[1:]])
        weights, limits = floats([1.0] * N_EXPERTS), ints([_FLOOR] * N_EXPERTS)
        args = cuda_table.CombineArgs(
            there[0].address,
            c.addressof(rows),
            c.addressof(weights),
            c.addressof(limits),
            N_EXPERTS,
            _SCALE,
            1.0,
            1,
            None,
            0x7F800000,
            out.address,
            self.n,
        )
        kept = np.where(magnitude_bits(deltas) > _FLOOR, deltas, np.float32(0))
        merged = {
            "task_arithmetic": in_order_sum(deltas),
            "ties": disjoint_merge(kept, elect_signs(kept, zero="positive")),
        }
        for name, rule in _COMBINES.items():
            which = _CODES[dtype] * len(RULES) + RULES.index(rule)
            expected = add_to_base(base, _SCALE, merged[name])

            def run(which: int = which, held: object = (rows, weights, limits)) -> None:
                address = c.addressof(args)
                self.library("combine", address, None, self._tally.address, None, which=which)

            def check(name: str = name, expected: Array = expected) -> None:
                self._expect(name, out, expected)

            n_bytes = (N_EXPERTS + 2) * there[0].n_bytes
            yield Case(f"{name} of {N_EXPERTS}", dtype, n_bytes, 0.8, run, check)

    def _apply(self, dtype: str, blocks: list[Array], there: list[Memory]) -> Case:
        base, shared = blocks[:2]
        mask = pack_bits(np.random.default_rng(1).random(self.period) < 0.5)
        bits, out = self._spread(mask), self.library.empty(there[0].n_bytes)

        def run() -> None:
            self.library(
                "apply_mask",
                there[0].address,
                there[1].address,
                bits.address,
                _SCALE,
                out.address,
                self.n,
                self._largest.address,
                None,
                which=_CODES[dtype],
            )

        expected = apply_mask(base, shared, mask, _SCALE)
        n_bytes = 3 * there[0].n_bytes + self.n / 8
        return Case(
            "apply_mask",
            dtype,
            n_bytes,
            0.8,
            run,
            lambda: self._expect("apply_mask", out, expected),
        )

    def _select(self, dtype: str, blocks: list[Array], there: list[Memory]) -> Case:
        rank, capacity = self.n // 5, self.n // 8
        work = self.library.empty(self.library.size("selection_bytes", capacity))
        result = self.library.empty(c.sizeof(cuda_table.Selected))
        base, expert = there[0].address, there[1].address

        def run() -> None:
            self.library("begin_selection", work.address, capacity, rank, None)
            for digit in range(3):
                self.library(
                    "count_digit",
                    work.address,
                    digit,
                    base,
                    expert,
                    self.n,
                    None,
                    which=_CODES[dtype],
                )
                self.library("pick_digit", work.address, digit, result.address, None, None)

        def check() -> None:
            found = result.read_as(cuda_table.Selected)
            sizes = np.sort(magnitude_bits(task_vectors(blocks[0], blocks[1:2])), axis=None)
            n_times = self.n // self.period
            wanted = int(sizes[sizes.size - (rank + n_times - 1) // n_times])
            if found.bits != wanted:
                raise RuntimeError(f"select: found {found.bits:#x}, expected {wanted:#x}")

        return Case("select of a delta", dtype, 2 * there[0].n_bytes, 0.4, run, check)

    def _masks(
        self, x: Array, merged: Array, x_there: Memory, merged_there: Memory
    ) -> Iterator[Case]:
        out = self.library.empty(self.n // 8)
        threshold = np.int32(_FLOOR + 1).view(np.float32)
        n_bytes = self.n / 8
        yield Case(
            "magnitude_mask",
            "F32",
            4 * self.n + n_bytes,
            0.8,
            lambda: self.library(
                "magnitude_mask", x_there.address, _FLOOR, None, out.address, self.n, None
            ),
            lambda: self._expect("magnitude_mask", out, magnitude_mask(x, threshold)),
        )
        yield Case(
            "tall_mask",
            "F32",
            8 * self.n + n_bytes,
            0.8,
            lambda: self.library(
                "tall_mask",
                x_there.address,
                merged_there.address,
                _LAMBDA,
                out.address,
                self.n,
                None,
            ),
            lambda: self._expect("tall_mask", out, tall_mask(x, merged, _LAMBDA)),
        )


def show(rows: Sequence[Row]) -> str:
    """The rows as a table, as shares of the bandwidth of the first, the copy."""
    roof = rows[0].gb_per_second
    body = []
    for row in rows:
        share, target = row.gb_per_second / roof, row.facts["target"]
        body.append(
            [
                str(row.case["kernel"]),
                str(row.case["dtype"]),
                f"{row.seconds * 1e3:.3f}",
                f"{row.gb_per_second:.0f}",
                f"{share:.0%}",
                "" if target is None else f"{target:.0%}",
                "" if target is None or share >= target else "missed",
            ]
        )
    return table(["kernel", "dtype", "ms", "GB/s", "of copy", "target", ""], body)


def run(library: CudaTable, n_elements: int, repeat: int) -> list[Row]:
    """Rows of all cases."""
    bench = Bench(library, n_elements)
    rows = []
    for case in bench.cases():
        note(f"{case.kernel} {case.dtype}")
        rows.append(bench.measure(case, repeat))
    return rows


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the benchmark, and the tests before it if the command line asks for that."""
    parser = argparse.ArgumentParser(prog="python -m bench.cuda", description=__doc__)
    parser.add_argument("--test", action="store_true", help="run pytest -m cuda first")
    parser.add_argument("--elements", type=int, default=1 << 28, help="default: 2^28")
    parser.add_argument("--repeat", type=int, default=10, help="samples; default: 10")
    parser.add_argument("--library", help="of kernels alone; default: that of the package")
    parser.add_argument(
        "--dir",
        type=Path,
        default=Path(tempfile.gettempdir()) / "tallies-bench-cuda",
        help="where the checkpoints of the switches are kept between runs (about 10 GB)",
    )
    asked = parser.parse_args(arguments)
    problem = None if asked.library else cuda.problem()
    if problem is not None:
        raise SystemExit(problem)
    if asked.test:
        subprocess.run([sys.executable, "-m", "pytest", "-q", "-m", "cuda"], check=True)
    library = CudaTable(asked.library or Path(_core.__file__).parent / "_cuda.so")
    device = library.describe()
    rows = run(library, asked.elements, asked.repeat)
    if asked.library is None and ops.CUDA_PROBLEM is None:
        place = cuda_torch.Place(torch.ops.tallies, "cuda")
        rows += cuda_torch.run(place, asked.elements, asked.repeat)
        rows += cuda_torch.switches("cuda", asked.dir, asked.repeat, cuda_torch.MODEL)
    else:
        note(f"no operators of torch: {ops.CUDA_PROBLEM or '--library is of kernels alone'}")
    print(show(rows))
    name = re.sub(r"\W+", "-", device.name.decode()).strip("-").lower()
    settings = {
        "device": device.name.decode(),
        "architecture": f"{device.major}.{device.minor}",
        "n_multiprocessors": device.n_multiprocessors,
        "elements": asked.elements,
        "repeat": asked.repeat,
        "batch": BATCH,
    }
    today = datetime.datetime.now(datetime.timezone.utc).date().isoformat()
    note(f"written: {save(f'cuda-{name}-{today}', rows, settings).name}")


if __name__ == "__main__":
    main()
