"""Times the operators of torch on a CUDA device, and switching a model there among tasks.

Run by ``python -m bench.cuda``, where torch is a build for CUDA. Every result is compared with that
of the processor's operator, element for element.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from . import weighted
from .support import checkpoints
from .support.harness import Row, note

N_EXPERTS = 3
DENSITY = 0.2
WIDTH, RANK = 1000, 8  # of the matrix that factors are added to
# Calls between two events.
BATCH = 5
# An embedding and twelve layers, 0.99e9 parameters in bfloat16.
MODEL = checkpoints.Llama(num_hidden_layers=12)

Call = Callable[[], Tensor]


@dataclass(frozen=True)
class Place:
    """The operators and their device: those of a device, or others that stand for them."""

    operators: Any
    device: str

    def seconds(self, run: Call) -> float:
        """Return the seconds of one call, of a few in a row."""
        if self.device == "cpu":
            start = time.perf_counter()
            run()
            return time.perf_counter() - start
        events = [torch.cuda.Event(enable_timing=True) for _ in range(2)]
        events[0].record()
        for _ in range(BATCH):
            run()
        events[1].record()
        events[1].synchronize()
        return float(events[0].elapsed_time(events[1])) / 1e3 / BATCH


def cases(n: int) -> Iterator[tuple[str, str, tuple[Any, ...]]]:
    """Yield each case's name, the operator and the arguments, bfloat16 in the host's memory."""
    generator = torch.Generator().manual_seed(0)
    base = (0.02 * torch.randn(n, generator=generator)).bfloat16()
    experts = [(base + 0.01 * torch.randn(n, generator=generator)).bfloat16() for _ in "abc"]
    mask = torch.randint(0, 256, ((n + 7) // 8,), generator=generator, dtype=torch.uint8)
    signs = torch.randint(-1, 2, (n,), generator=generator, dtype=torch.int8)
    densities = [DENSITY] * N_EXPERTS
    yield "kth_magnitude", "kth_magnitude", (base, n // 5)
    for equal in ("keep", "first"):
        yield f"trim, {equal}", "trim", (base, DENSITY, equal)
        yield f"ties of 3, {equal}", "ties", (base, experts, densities, 1.0, None, equal)
    yield "sum of 3", "combine", (base, experts, "all", "none", "sum")
    yield "magnitude_mask", "magnitude_mask", (base, 0.01)
    yield "tall_mask", "tall_mask", (base, experts[0], 0.4)
    yield "apply_mask", "apply_mask", (base, experts[0], mask, 0.5)
    yield "pack_bits", "pack_bits", (signs > 0,)
    yield "unpack_bits", "unpack_bits", (mask, n)
    yield "elect_signs of 3", "elect_signs", (experts,)
    yield "disjoint_merge of 3", "disjoint_merge", (experts, signs)
    rows = n // WIDTH
    factors = experts[0][: rows * RANK].view(rows, RANK), experts[1][: RANK * WIDTH].view(RANK, -1)
    yield f"low_rank of {RANK}", "low_rank", (base[: rows * WIDTH].view(rows, -1), *factors, 2.0)
    yield "gram of 3", "gram", (experts,)
    yield "block_dots of 3", "block_dots", (base, experts)


def run(place: Place, n_elements: int, repeat: int) -> Iterator[Row]:
    """Rows of the operators."""
    for name, operator, arguments in cases(n_elements):
        note(name)
        there = _moved(arguments, place.device)
        call = getattr(place.operators, operator)
        expected = getattr(torch.ops.tallies, operator)(*arguments)
        if not torch.equal(call(*there).cpu(), expected):
            raise RuntimeError(f"{name}: not the result of the processor")
        n_bytes = sum(x.nbytes for x in _tensors(arguments)) + expected.nbytes
        case: dict[str, str | int] = {"kernel": f"torch {name}", "dtype": "BF16"}
        row = Row(case, n_bytes=n_bytes, facts={"target": None})
        row.samples = [place.seconds(partial(call, *there)) for _ in range(repeat)]
        yield row


def switches(device: str, directory: Path, repeat: int, model: checkpoints.Llama) -> Iterator[Row]:
    """Rows of a switch that uploads the model, and of one that makes it on the device.

    The bytes are those of the model.
    """
    for preload in (True, "device"):
        note(f"task switch, preload={preload!r}")
        for row in weighted.measure(weighted.switches(directory, model, device, preload), repeat):
            if row.case["job"] == "activate":
                row.case = {"kernel": f"task switch, preload={preload!r}", "dtype": "BF16"}
                row.n_bytes = row.facts["model_bytes"]
                row.facts["target"] = None
                yield row


def _moved(value: Any, device: str) -> Any:
    if isinstance(value, (list, tuple)):
        return type(value)(_moved(one, device) for one in value)
    return value.to(device) if isinstance(value, Tensor) else value


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (list, tuple)):
        for one in value:
            yield from _tensors(one)
