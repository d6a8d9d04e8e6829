"""Times what a call of a torch operator costs, and TIES of one tensor beside plain torch.

python -m bench.torch_ops [--calls N] [--elements N] [--repeat N] [--name NAME]
"""

from __future__ import annotations

import argparse
import gc
import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

import tallies.torch as functions

from .rivals import torch_peers
from .support.harness import Row, note, save, table

SMALL = 16
"""Elements of the tensors in which a call is nearly all of the time."""

ASKED_CALL = 2e-6
"""Seconds over the cheapest operator of torch itself that a call may take."""

ASKED_TIES = 20
"""How many times faster than the fastest program in plain torch."""

DENSITY = 0.2
ROUNDS = 31


def calls() -> dict[str, tuple[Callable[[], object], Callable[[], object]]]:
    """Return a call of each operator's function and one of its overload."""
    torch.manual_seed(0)
    base, x, y, z = torch.randn(4, SMALL).bfloat16().unbind(0)
    signs = torch.ones(SMALL, dtype=torch.int8)
    mask = functions.pack_bits(x > 0)
    few, trims = [x, y, z], [DENSITY] * 3
    positive = x > 0
    masks = [positive, y > 0, z > 0]
    matrix, left, right = x.view(4, -1), y[:4].view(4, 1), z[: SMALL // 4].view(1, -1)
    ops = torch.ops.tallies
    return {
        "kth_magnitude": (
            lambda: functions.kth_magnitude(x, 3),
            lambda: ops.kth_magnitude.default(x, 3),
        ),
        "kth_magnitude_counted": (
            lambda: functions.kth_magnitude_counted(x, 3),
            lambda: ops.kth_magnitude_counted.default(x, 3),
        ),
        "trim_counted": (
            lambda: functions.trim_counted(x, DENSITY),
            lambda: ops.trim_counted.default(x, DENSITY),
        ),
        "masked_mean": (
            lambda: functions.masked_mean(few, masks),
            lambda: ops.masked_mean.default(few, masks),
        ),
        "combine_many": (
            lambda: functions.combine_many([base], [few], density=DENSITY),
            lambda: ops.combine_many.default([base], few, [3], density=trims),
        ),
        "trim": (lambda: functions.trim(x, DENSITY), lambda: ops.trim.default(x, DENSITY)),
        "magnitude_mask": (
            lambda: functions.magnitude_mask(x, 0.5),
            lambda: ops.magnitude_mask.default(x, 0.5),
        ),
        "tall_mask": (
            lambda: functions.tall_mask(x, y, 0.4),
            lambda: ops.tall_mask.default(x, y, 0.4),
        ),
        "consensus_mask": (
            lambda: functions.consensus_mask([mask, mask], SMALL, 2),
            lambda: ops.consensus_mask.default([mask, mask], SMALL, 2),
        ),
        "pack_bits": (
            lambda: functions.pack_bits(positive),
            lambda: ops.pack_bits.default(positive),
        ),
        "unpack_bits": (
            lambda: functions.unpack_bits(mask, SMALL),
            lambda: ops.unpack_bits.default(mask, SMALL),
        ),
        "apply_mask": (
            lambda: functions.apply_mask(base, x, mask),
            lambda: ops.apply_mask.default(base, x, mask),
        ),
        "elect_signs": (
            lambda: functions.elect_signs(few),
            lambda: ops.elect_signs.default(few),
        ),
        "disjoint_merge": (
            lambda: functions.disjoint_merge(few, signs),
            lambda: ops.disjoint_merge.default(few, signs),
        ),
        "ties": (
            lambda: functions.ties(base, few, density=DENSITY),
            lambda: ops.ties.default(base, few, density=trims),
        ),
        "combine": (
            lambda: functions.combine(base, few, density=DENSITY),
            lambda: ops.combine.default(base, few, density=trims),
        ),
        "low_rank": (
            lambda: functions.low_rank(matrix, left, right, 0.5),
            lambda: ops.low_rank.default(matrix, left, right, 0.5),
        ),
        "gram": (lambda: functions.gram(few), lambda: ops.gram.default(few)),
        "block_dots": (
            lambda: functions.block_dots(base, few),
            lambda: ops.block_dots.default(base, few),
        ),
    }


def per_call(call: Callable[[], object], n_calls: int) -> float:
    """Seconds of one call, over so many in a row."""
    start = time.perf_counter()
    for _ in range(n_calls):
        call()
    return (time.perf_counter() - start) / n_calls


def overhead(n_calls: int) -> list[Row]:
    """Calls of all operators in turns, beside ``x * 0.5``, the first row; one thread."""
    x = torch.randn(SMALL).bfloat16()
    timed: list[tuple[Row, Callable[[], object]]] = [
        (Row({"call": "x * 0.5", "by": "torch"}), lambda: x * 0.5)
    ]
    for name, (function, overload) in calls().items():
        timed += [
            (Row({"call": name, "by": "function"}), function),
            (Row({"call": name, "by": "operator"}), overload),
        ]
    gc.disable()
    for number in range(ROUNDS + 1):
        for row, call in timed:
            seconds = per_call(call, n_calls)
            if number > 0:
                row.samples.append(seconds)
    gc.enable()
    return [row for row, _ in timed]


def models(n: int, dtype: torch.dtype) -> tuple[Tensor, list[Tensor]]:
    """A base and three experts, which differ from it by task vectors of a smooth spread."""
    generator = torch.Generator().manual_seed(n)
    base = torch.randn(n, generator=generator)
    experts = [base + 0.1 * torch.randn(n, generator=generator) for _ in range(3)]
    return base.to(dtype), [expert.to(dtype) for expert in experts]


def check() -> None:
    """That the programs in plain torch compute what ours do, in float32, where nothing is equal."""
    base, experts = models(1 << 16, torch.float32)
    ours = {
        "peft": functions.combine(base, experts, density=DENSITY, zero="positive", equal="first"),
        "mergekit": functions.ties(base, experts, density=DENSITY, semantics="mergekit"),
    }
    for name, program in torch_peers.PROGRAMS.items():
        torch.testing.assert_close(program(base, experts, DENSITY), ours[name])


def ties(n: int, repeat: int) -> list[Row]:
    """TIES of one tensor, by us and by each program in plain torch, which run ``repeat`` times."""
    check()
    rows = []
    for dtype in (torch.bfloat16, torch.float32):
        base, experts = models(n, dtype)
        word = str(dtype).removeprefix("torch.")
        programs = {
            "tallies": lambda base, experts, d: functions.ties(base, experts, density=d),
            **torch_peers.PROGRAMS,
        }
        for name, program in programs.items():
            row = Row({"ties of": word, "by": name}, n_bytes=5 * n * base.element_size())
            if name == "tallies":
                program(base, experts, DENSITY)
            for _ in range(7 if name == "tallies" else repeat):
                start = time.perf_counter()
                program(base, experts, DENSITY)
                row.samples.append(time.perf_counter() - start)
            note(f"{word} {name}: {row.seconds:.2f} s")
            rows.append(row)
    return rows


def show_calls(rows: Sequence[Row]) -> str:
    """The calls as a table, with what each takes over torch's own."""
    own = rows[0].seconds
    body = [
        [
            f"{row.case['call']} ({row.case['by']})",
            f"{row.seconds * 1e6:.2f}",
            f"{(row.seconds - own) * 1e6:+.2f}",
            f"{row.noise:.0%}",
        ]
        for row in rows
    ]
    return table(["call", "us", "over torch", "noise"], body)


def show_ties(rows: Sequence[Row]) -> str:
    """The programs as a table, with how many times faster ours is."""
    ours = {row.case["ties of"]: row.seconds for row in rows if row.case["by"] == "tallies"}
    body = [
        [
            f"{row.case['ties of']} ({row.case['by']})",
            f"{row.seconds:.3f}",
            f"{row.seconds / ours[row.case['ties of']]:.1f}",
        ]
        for row in rows
    ]
    return table(["ties", "s", "x tallies"], body)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the benchmark that the command line asks for."""
    parser = argparse.ArgumentParser(prog="python -m bench.torch_ops", description=__doc__)
    parser.add_argument("--calls", type=int, default=1000, help="in a sample; default: 1000")
    parser.add_argument("--elements", type=int, default=1 << 26, help="of TIES; default: 2^26")
    parser.add_argument("--repeat", type=int, default=3, help="samples of peers; default: 3")
    parser.add_argument("--name", default="torch_ops", help="of the result; default: torch_ops")
    asked = parser.parse_args(arguments)
    rows = overhead(asked.calls)
    print(show_calls(rows), end="\n\n")
    if asked.elements > 0:
        merges = ties(asked.elements, asked.repeat)
        print(show_ties(merges))
        rows += merges
    settings = {
        "calls": asked.calls,
        "elements": asked.elements,
        "density": DENSITY,
        "torch": torch.__version__,
        "asked_seconds_over_torch": ASKED_CALL,
        "asked_times_faster": ASKED_TIES,
    }
    note(f"written: {save(asked.name, rows, settings).name}")


if __name__ == "__main__":
    main()
