"""TALL-masks as one would write them with torch and NumPy: the rival of ``bench.store``.

python -m bench.rivals.plain pack OUT BASE EXPERT... | unpack STORE BASE TASK [--threads N]

All in memory, a tensor at a time. Prints, as JSON, the seconds from opening the first file to the
result, without the imports.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from ..support.store_check import digest

_LAMBDA = 0.4

State = dict[str, Tensor]


def pack(out: Path, base: State, experts: Sequence[State]) -> None:
    """Write the files that a store has: the shared vector, and a mask for each task."""
    shared: State = {}
    masks: list[State] = [{} for _ in experts]
    for name, origin in base.items():
        deltas = [expert[name].float() - origin.float() for expert in experts]
        merged = torch.zeros_like(deltas[0])
        for delta in deltas:
            merged += delta
        shared[name] = merged.to(origin.dtype)
        for mask, delta in zip(masks, deltas, strict=True):
            is_set = delta.abs() > _LAMBDA * (merged - delta).abs()
            mask[name] = torch.from_numpy(np.packbits(is_set.numpy(), bitorder="little"))
    (out / "tasks").mkdir(parents=True)
    save_file(shared, out / "shared.safetensors")
    for number, mask in enumerate(masks, 1):
        save_file(mask, out / "tasks" / f"{task_name(number)}.safetensors")


def unpack(base: State, shared: State, mask: State) -> State:
    """One task's tensors; those that no task changed are the base's."""
    expert = dict(base)
    for name in mask:
        origin = base[name]
        bits = np.unpackbits(mask[name].numpy(), count=origin.numel(), bitorder="little")
        is_set = torch.from_numpy(bits).bool().reshape(origin.shape)
        delta = torch.where(is_set, shared[name].float(), torch.tensor(0.0))
        expert[name] = (origin.float() + delta).to(origin.dtype)
    return expert


def task_name(number: int) -> str:
    """Return the name of an expert in all stores of the benchmark, from 1 on."""
    return f"task-{number}"


def _load(directory: Path) -> State:
    state: State = {}
    for file in sorted(directory.glob("*.safetensors")):
        state |= load_file(file)
    return state


def main() -> None:
    """Do what the command line asks, once."""
    parser = argparse.ArgumentParser(prog="python -m bench.rivals.plain", description=__doc__)
    parser.add_argument("command", choices=("pack", "unpack"))
    parser.add_argument("paths", nargs="+")
    parser.add_argument("--threads", type=int, default=1)
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    start = time.perf_counter()
    if asked.command == "pack":
        out, *models = map(Path, asked.paths)
        base, *experts = map(_load, models)
        pack(out, base, experts)
        report: dict[str, float | str] = {"seconds": time.perf_counter() - start}
    else:
        path, origin, task = asked.paths
        store = Path(path)
        shared = load_file(store / "shared.safetensors")
        expert = unpack(
            _load(Path(origin)), shared, load_file(store / "tasks" / f"{task}.safetensors")
        )
        seconds = time.perf_counter() - start
        content = {name: tensor.view(torch.uint8).numpy() for name, tensor in expert.items()}
        report = {"seconds": seconds, "digest": digest(content)}
    print(json.dumps(report))


if __name__ == "__main__":
    main()
