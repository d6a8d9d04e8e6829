"""Times iso_c's algebra on matrices of a Llama beside the plain formula, which decomposes each.

python -m bench.matrices [--full] [--repeat N] [--layers N] [--name NAME]
"""

from __future__ import annotations

import argparse
import time
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial

import torch

from tallies.linalg import spectral
from tallies.linalg.threads import single_threads

from .support.checkpoints import Llama
from .support.harness import Row, n_cores, note, save, table

_BASE_SPREAD = 0.02
_TUNING_SPREAD = 2e-4
_N_EXPERTS = 3
_BOUND = 1e-3
"""The largest difference to the plain formula in float32, which has errors of its own."""

Shape = tuple[int, ...]
Job = Callable[[], object]


def plain(x: torch.Tensor) -> torch.Tensor:
    """mean(s) U V^T of a full decomposition."""
    u, s, v = torch.linalg.svd(x, full_matrices=False)
    return s.mean() * (u @ v)


def gram(x: torch.Tensor) -> torch.Tensor:
    """The same as ``iso_c`` computes it."""
    factor, total = spectral.polar(x)
    return factor.mul_(total / min(x.shape))


def summed(shape: Shape, seed: int = 0) -> torch.Tensor:
    """The sum of the task vectors of experts in bfloat16, near a base in bfloat16."""
    generator = torch.Generator().manual_seed(seed)
    base = (_BASE_SPREAD * torch.randn(shape, generator=generator)).bfloat16().float()
    total = torch.zeros(shape)
    for _ in range(_N_EXPERTS):
        tuned = base + _TUNING_SPREAD * torch.randn(shape, generator=generator)
        total += tuned.bfloat16().float() - base
    return total


def check(x: torch.Tensor) -> float:
    """The difference of the two formulas, as a share; RuntimeError where it is too large."""
    expected = plain(x)
    error = float((gram(x) - expected).norm() / expected.norm())
    if not error <= _BOUND:
        raise RuntimeError(f"{list(x.shape)}: the formulas differ by {error:g}")
    return error


def one_after_the_other(jobs: Sequence[Job]) -> float:
    """Seconds that the jobs take, each on all cores."""
    start = time.perf_counter()
    for job in jobs:
        job()
    return time.perf_counter() - start


def side_by_side(jobs: Sequence[Job]) -> float:
    """Seconds that they take on one core each, as the merge runs them."""
    with single_threads(n_cores()) as pool:
        start = time.perf_counter()
        for done in [pool.submit(job) for job in jobs]:
            done.result()
        return time.perf_counter() - start


def matrices(llama: Llama) -> Counter[Shape]:
    """How many matrices of each shape a model has, the largest first."""
    shapes = Counter(shape for shape in llama.shapes().values() if len(shape) == 2)
    return Counter(dict(sorted(shapes.items(), key=lambda pair: -pair[0][0] * pair[0][1])))


def by_shape(llama: Llama, repeat: int) -> list[Row]:
    """For each shape the seconds of one matrix by either formula, and of all of them together."""
    rows = []
    for shape, count in matrices(llama).items():
        x = summed(shape)
        error = check(x)
        name = "x".join(map(str, shape))
        samples = {
            "plain": [one_after_the_other([partial(plain, x)]) for _ in range(repeat)],
            "gram": [
                side_by_side([partial(gram, x)] * n_cores()) / n_cores() for _ in range(repeat)
            ],
        }
        for formula, seconds in samples.items():
            row = Row({"shape": name, "formula": formula}, seconds, facts={"count": count})
            row.facts["difference"] = error
            rows.append(row)
            note(f"{name} {formula}: {row.seconds:.2f} s")
    for formula in ("plain", "gram"):
        each = [row for row in rows if row.case["formula"] == formula]
        seconds = sum(row.seconds * row.facts["count"] for row in each)
        rows.append(Row({"shape": "all, by count", "formula": formula}, [seconds]))
    return rows


def whole(llama: Llama, repeat: int) -> list[Row]:
    """The seconds of all matrices of a model by either formula."""
    xs = {shape: summed(shape) for shape in matrices(llama)}
    every = [xs[shape] for shape in matrices(llama).elements()]
    return [
        Row({"shape": "all", "formula": name}, [run(jobs) for _ in range(repeat)])
        for name, run, jobs in (
            ("plain", one_after_the_other, [partial(plain, x) for x in every]),
            ("gram", side_by_side, [partial(gram, x) for x in every]),
        )
    ]


def show(rows: Sequence[Row]) -> str:
    """A line for each shape, with how many times the plain formula takes."""
    seconds = {(row.case["shape"], row.case["formula"]): row.seconds for row in rows}
    body = [
        [str(shape), f"{one:.3f}", f"{other:.3f}", f"{one / other:.2f}"]
        for shape in dict.fromkeys(row.case["shape"] for row in rows)
        for one, other in [(seconds[shape, "plain"], seconds[shape, "gram"])]
    ]
    return table(["matrix", "plain s", "gram s", "times"], body)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the benchmark that the command line asks for."""
    parser = argparse.ArgumentParser(prog="python -m bench.matrices", description=__doc__)
    parser.add_argument("--full", action="store_true", help="all matrices, not one of each shape")
    parser.add_argument("--repeat", type=int, default=3, help="samples; default: 3")
    parser.add_argument("--layers", type=int, default=16, help="of the model; default: 16")
    parser.add_argument("--name", default="matrices", help="of the result; default: matrices")
    asked = parser.parse_args(arguments)
    llama = Llama(num_hidden_layers=asked.layers)
    torch.set_num_threads(n_cores())
    rows = (whole if asked.full else by_shape)(llama, asked.repeat)
    print(show(rows))
    note(f"written: {save(asked.name, rows, {'repeat': asked.repeat, 'full': asked.full}).name}")


if __name__ == "__main__":
    main()
