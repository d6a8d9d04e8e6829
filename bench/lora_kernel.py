"""Times the kernel of adapters against the multiplications and additions that a core can do.

python -m bench.lora_kernel [--ranks R ...] [--rows N] [--columns N] [--rounds N] [--name NAME]
"""

from __future__ import annotations

import argparse
import ctypes
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import ml_dtypes
import numpy as np

from tallies import _core, cpu
from tallies.kernels.arguments import place
from tests.reference.dtype import Array
from tests.reference.low_rank_product import added

from .support.harness import Row, note, save, table

_TARGET = 0.6
_DTYPES = (np.dtype(np.float32), np.dtype(ml_dtypes.bfloat16))
_FLAGS = {
    "avx512": ["-march=x86-64-v4", "-mprefer-vector-width=512", "-DWIDTH=64"],
    "avx2": ["-march=x86-64-v3", "-DWIDTH=32"],
}
# Independent sums in registers, and factors that the compiler must take for new in each step.
_PEAK = r"""
#ifndef WIDTH
#define WIDTH 16
#endif
#if WIDTH == 64
#define MORE(X) X(8) X(9) X(10) X(11) X(12) X(13) X(14) X(15)
#define SUMS 16
#else
#define MORE(X)
#define SUMS 8
#endif
#define EACH(X) X(0) X(1) X(2) X(3) X(4) X(5) X(6) X(7) MORE(X)
#ifdef __x86_64__
#define NEW(v) __asm__ volatile("" : "+x"(v))
#else
#define NEW(v) __asm__ volatile("" : "+w"(v))
#endif
typedef float Floats __attribute__((vector_size(WIDTH), aligned(4)));
long flops(void) { return 2 * SUMS * (WIDTH / 4); }
void peak(long n, float *out) {
  Floats x = *(Floats *)out, y = x;
#define BEGIN(i) Floats sum##i = x;
#define STEP(i) NEW(x); sum##i = sum##i + x * y;
#define END(i) ((Floats *)out)[i] = sum##i;
  EACH(BEGIN)
  for (long k = 0; k < n; ++k) { EACH(STEP) }
  EACH(END)
}
"""
_STEPS = 200_000


class Peak:
    """The rate of products that are rounded and then added, on one instruction set."""

    def __init__(self, folder: Path, target: str) -> None:
        source, library = folder / "peak.c", folder / f"{target}.so"
        source.write_text(_PEAK)
        options = ["-O3", "-ffp-contract=off", "-shared", "-fPIC", *_FLAGS.get(target, [])]
        subprocess.run(["cc", *options, "-o", str(library), str(source)], check=True)
        self._library = ctypes.CDLL(str(library))
        self._library.peak.argtypes = [ctypes.c_long, ctypes.c_void_p]
        self.n_flops = int(self._library.flops()) * _STEPS

    def run(self) -> None:
        """Multiply and add."""
        values = np.full(256, 1e-3, np.float32)
        self._library.peak(_STEPS, values.ctypes.data)


@dataclass
class Product:
    """A base and two factors: a window of rows, as the engine gives it to the kernel."""

    x: Array
    left: Array
    right: Array

    @staticmethod
    def drawn(rows: int, rank: int, columns: int, dtype: np.dtype[np.generic]) -> Product:
        """Return one of the smooth spread of trained weights."""
        draw = np.random.default_rng(rank)
        shapes = ((rows, columns), (rows, rank), (rank, columns))
        x, left, right = (0.02 * draw.standard_normal(shape, np.float32) for shape in shapes)
        return Product(_aligned(x), left, _aligned(right.astype(dtype)))

    @property
    def n_flops(self) -> int:
        """Products and sums over the rank; those of the scale are not counted."""
        return 2 * self.x.size * self.left.shape[1]

    @property
    def n_bytes(self) -> int:
        """The matrix, read and written."""
        return 2 * self.x.nbytes

    def run(self) -> None:
        """Add the product to the matrix."""
        _, right, dtype = place(self.right)
        rows, rank = self.left.shape
        width = self.x.shape[1]
        x, left = self.x.ctypes.data, self.left.ctypes.data
        _core.low_rank(left, rows, rank, right, dtype, width, width, 2.0, x, width)

    def check(self) -> None:
        """Refuse a kernel whose bits are not the reference's."""
        expected = added(self.x, self.left, self.right, 2.0)
        self.run()
        if self.x.tobytes() != expected.tobytes():
            raise RuntimeError("low_rank: results differ from the reference")


def run(ranks: Sequence[int], rows: int, columns: int, rounds: int) -> list[Row]:
    """Rows of the peak and of the kernel, on every instruction set.

    All take turns, and the best of several runs in a round counts: a machine that is shared has
    slow moments, and none that are too fast.
    """
    timed: list[tuple[Row, str, Callable[[], None]]] = []
    before = cpu.target()
    with tempfile.TemporaryDirectory() as folder:
        for target in cpu.targets():
            cpu.set_target(target)
            peak = Peak(Path(folder), target)
            case: dict[str, str | int] = {"kernel": "peak", "target": target}
            timed.append((Row(case, facts={"n_flops": peak.n_flops}), target, peak.run))
            for rank in ranks:
                for dtype in _DTYPES:
                    product = Product.drawn(rows, rank, columns, dtype)
                    product.check()
                    case = {"kernel": f"low_rank {dtype}", "target": target, "rank": rank}
                    row = Row(case, n_bytes=product.n_bytes, facts={"n_flops": product.n_flops})
                    timed.append((row, target, product.run))
        for _ in range(rounds):
            for row, target, call in timed:
                cpu.set_target(target)
                row.samples.append(min(_seconds(call) for _ in range(5)))
    cpu.set_target(before)
    found = [row for row, _, _ in timed]
    peaks = {row.case["target"]: best_rate(row) for row in found if row.case["kernel"] == "peak"}
    for row in found:
        row.facts["share_of_peak"] = best_rate(row) / peaks[row.case["target"]]
    return found


def _aligned(x: Array) -> Array:
    """Return the same from a multiple of 64 bytes on, so that no vector is in two lines."""
    memory = np.empty(x.nbytes + 64, np.uint8)
    start = -memory.ctypes.data % 64
    out = memory[start : start + x.nbytes].view(x.dtype).reshape(x.shape)
    out[...] = x
    return out


def _seconds(call: Callable[[], None]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def best_rate(row: Row) -> float:
    """Operations a second in the fastest round."""
    return float(row.facts["n_flops"] / min(row.samples))


def show(rows: Sequence[Row]) -> str:
    """The rows as a table."""
    return table(
        ["kernel", "rank", "target", "GFLOP/s", "of peak", "GB/s", "noise"], list(_lines(rows))
    )


def _lines(rows: Sequence[Row]) -> Iterator[list[str]]:
    for row in rows:
        yield [
            str(row.case["kernel"]),
            str(row.case.get("rank", "-")),
            str(row.case["target"]),
            f"{best_rate(row) / 1e9:.1f}",
            f"{row.facts['share_of_peak']:.0%}",
            f"{row.n_bytes / min(row.samples) / 1e9:.1f}" if row.n_bytes else "-",
            f"{row.noise:.0%}",
        ]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the benchmark that the command line asks for."""
    parser = argparse.ArgumentParser(prog="python -m bench.lora_kernel", description=__doc__)
    parser.add_argument("--ranks", type=int, nargs="+", default=[16, 64], help="default: 16 64")
    parser.add_argument("--rows", type=int, default=32, help="of a window; default: 32")
    parser.add_argument("--columns", type=int, default=4096, help="default: 4096")
    parser.add_argument("--rounds", type=int, default=200, help="samples; default: 200")
    parser.add_argument("--name", default="lora_kernel", help="of the result; default: lora_kernel")
    asked = parser.parse_args(arguments)
    rows = run(asked.ranks, asked.rows, asked.columns, asked.rounds)
    print(show(rows))
    settings = {
        "rows": asked.rows,
        "columns": asked.columns,
        "asked_share_of_peak": _TARGET,
    }
    note(f"written: {save(asked.name, rows, settings).name}")


if __name__ == "__main__":
    main()
