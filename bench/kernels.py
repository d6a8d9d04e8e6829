"""Times each kernel on each instruction set against the memory bandwidth of the machine.

python -m bench.kernels [--threads N] [--filter TEXT] [--elements N] [--name NAME]
"""

from __future__ import annotations

import argparse
import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import numpy as np

from tallies import _core, cpu
from tests.reference.dtype import Array

from .support.harness import Row, l2_bytes, n_cores, note, save, table
from .support.kernel_cases import CHECKED, GRAIN, Kernel, groups

# Calls on arrays in the cache are repeated for this long, to be seen by the clock.
_BATCH_SECONDS = 0.02
# Share of the second-level cache that all arrays of a kernel take together.
_CACHE_SHARE = 0.5
_ROOF = "roof: "


class Roof:
    """The memory bandwidth of this machine: the best of a few plain ways to read or copy."""

    def __init__(self, n_elements: int, thread_counts: Sequence[int], repeat: int) -> None:
        self._source = np.ones(n_elements, np.float32)
        self._target = np.zeros(n_elements, np.float32)
        self._repeat = repeat
        self._rows = {
            (name, n_threads): Row(
                {"kernel": _ROOF + name, "dtype": "F32", "from": "memory", "threads": n_threads},
                n_bytes=n_elements * n_bytes,
            )
            for n_threads in thread_counts
            for name, n_bytes in (("np.copyto", 8), ("np.sum", 4), ("fingerprint", 4))
        }

    @property
    def rows(self) -> list[Row]:
        """One row for each way."""
        return list(self._rows.values())

    def measure(self) -> None:
        """Take samples; between kernels, so that a slow minute is seen in both."""
        address = int(self._source.ctypes.data)
        ways: dict[str, Callable[[int, int], object]] = {
            "np.copyto": lambda at, n: np.copyto(
                self._target[at : at + n], self._source[at : at + n]
            ),
            "np.sum": lambda at, n: np.sum(self._source[at : at + n]),
            "fingerprint": lambda at, n: _core.fingerprint(address + 4 * at, 4 * n, 4 * at),
        }
        for (name, n_threads), row in self._rows.items():
            for _ in range(self._repeat):
                row.samples.append(_spread(ways[name], self._source.size, n_threads))

    def gb_per_second(self, n_threads: int) -> float:
        """The best rate of so many threads, at the medians."""
        return max(row.gb_per_second for (_, n), row in self._rows.items() if n == n_threads)


def _spread(run: Callable[[int, int], object], n_elements: int, n_threads: int) -> float:
    """Seconds of one run over all elements, in one stretch for each thread."""
    step = -(-n_elements // (n_threads * GRAIN)) * GRAIN
    stretches = [(at, min(step, n_elements - at)) for at in range(0, n_elements, step)]
    if n_threads == 1:
        start = time.perf_counter()
        run(0, n_elements)
        return time.perf_counter() - start
    with ThreadPoolExecutor(n_threads) as pool:
        # Threads are started by the first calls; these wait for each other.
        list(pool.map(time.sleep, [0.001] * n_threads))
        start = time.perf_counter()
        list(pool.map(run, *zip(*stretches, strict=True)))
        return time.perf_counter() - start


def _repeated(run: Callable[[int, int], object], n_elements: int) -> float:
    """Seconds of one of many runs over the same elements, without what a call by itself costs."""

    def batch(n: int, n_calls: int) -> float:
        start = time.perf_counter()
        for _ in itertools.repeat(None, n_calls):
            run(0, n)
        return (time.perf_counter() - start) / n_calls

    n_calls = max(1, int(_BATCH_SECONDS / batch(n_elements, 10)))
    return batch(n_elements, n_calls) - batch(0, n_calls)


@contextmanager
def _using(target: str) -> Iterator[None]:
    before = cpu.target()
    cpu.set_target(target)
    try:
        yield
    finally:
        cpu.set_target(before)


def measure(
    kernel: Kernel, n_elements: int, n_threads: int, where: str, targets: Sequence[str], repeat: int
) -> list[Row]:
    """Rows of a kernel, one for each instruction set, whose samples are taken in turns."""
    rows = [
        Row(
            {
                "kernel": kernel.name,
                "dtype": kernel.dtype,
                "target": target,
                "from": where,
                "threads": n_threads,
            },
            n_bytes=n_elements * kernel.n_bytes,
            facts={"n_elements": n_elements},
        )
        for target in targets
    ]
    # The first round touches the memory.
    for number in range(repeat + 1):
        for row, target in zip(rows, targets, strict=True):
            if kernel.out is not None:
                _spoil(kernel.out)
            with _using(target):
                if where == "cache":
                    seconds = _repeated(kernel.run, n_elements)
                else:
                    seconds = _spread(kernel.run, n_elements, n_threads)
                kernel.check()
            if number > 0:
                row.samples.append(seconds)
    return rows


def _spoil(out: Array) -> None:
    """So that no result of an earlier run is taken for one of this."""
    out[:CHECKED].view(np.uint8)[:] = 0x55


def run(
    n_elements: int, thread_counts: Sequence[int], wanted: str, repeat: int, n_cache_bytes: int
) -> list[Row]:
    """Rows of the roof and of all kernels whose names contain ``wanted``."""
    roof = Roof(n_elements, thread_counts, repeat)
    rows = []
    for group in groups():
        roof.measure()
        for where, n in (("memory", n_elements), ("cache", n_cache_bytes // GRAIN * GRAIN)):
            for kernel in group(n):
                if wanted not in kernel.name:
                    continue
                note(f"{kernel.name} {kernel.dtype} from {where}")
                n_run = n
                if where == "cache":
                    # Arrays have n elements, too few to fill the cache with a byte for some.
                    n_fit = int(n_cache_bytes / kernel.n_bytes) // GRAIN * GRAIN
                    n_run = max(CHECKED, min(n, n_fit))
                for n_threads in thread_counts if where == "memory" else (1,):
                    rows += measure(kernel, n_run, n_threads, where, cpu.targets(), repeat)
    roof.measure()
    for row in rows:
        row.facts["share_of_roof"] = row.gb_per_second / roof.gb_per_second(
            int(row.case["threads"])
        )
    return [*roof.rows, *rows]


def show(rows: Sequence[Row]) -> str:
    """The rows as a table."""
    head = ["kernel", "dtype", "from", "threads", "target", "ns/element", "GB/s", "of roof"]
    body = []
    for row in rows:
        n, share = row.facts.get("n_elements"), row.facts.get("share_of_roof")
        body.append(
            [
                *(str(row.case[axis]) for axis in ("kernel", "dtype", "from", "threads")),
                str(row.case.get("target", "-")),
                f"{row.seconds / n * 1e9:.3f}" if n else "-",
                f"{row.gb_per_second:.1f}",
                f"{share:.0%}" if share else "-",
            ]
        )
    return table(head, body)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the benchmark that the command line asks for."""
    parser = argparse.ArgumentParser(prog="python -m bench.kernels", description=__doc__)
    parser.add_argument("--threads", type=int, nargs="+", help="default: 1 and all cores")
    parser.add_argument("--filter", default="", help="part of the names of the kernels to run")
    parser.add_argument("--elements", type=int, default=1 << 26, help="in memory; default: 2^26")
    parser.add_argument("--repeat", type=int, default=5, help="samples; default: 5")
    parser.add_argument("--name", default="kernels", help="of the result; default: kernels")
    asked = parser.parse_args(arguments)
    threads = asked.threads or sorted({1, n_cores()})
    n_cache_bytes = int(_CACHE_SHARE * l2_bytes())
    rows = run(asked.elements, threads, asked.filter, asked.repeat, n_cache_bytes)
    print(show(rows))
    settings = {"repeat": asked.repeat, "elements": asked.elements, "cache_bytes": n_cache_bytes}
    note(f"written: {save(asked.name, rows, settings).name}")


if __name__ == "__main__":
    main()
