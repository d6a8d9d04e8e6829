"""Times differentiable merges against a stacked matrix product in torch, and switching of tasks.

python -m bench.weighted [--repeat N] [--tasks N] [--elements N] [--dir PATH] [--name NAME]
"""

from __future__ import annotations

import argparse
import itertools
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Literal

import torch
from safetensors.torch import load_file, save_file

from tallies import Store, pack
from tallies.torch import EncodedDelta, TaskSwitcher, staging, store_deltas, weighted_merge

from .support import checkpoints
from .support.harness import Row, n_cores, note, save, table

Case = tuple[Row, Callable[[], object]]
"""A row, and what is timed for it."""

# An embedding and one layer, 0.32e9 parameters in bfloat16.
_MODEL = checkpoints.Llama(num_hidden_layers=1)
_CODECS: dict[str, dict[str, float]] = {"tall": {}, "sparse": {"density": 0.1}}


def merges(n_tasks: int, n_elements: int, directory: Path) -> list[Case]:
    """One merge and its gradient, of the same numbers in each form; the first two are torch's."""
    generator = torch.Generator().manual_seed(0)
    base = torch.randn(n_elements, generator=generator)
    stacked = torch.randn(n_tasks, n_elements, generator=generator)
    gradient = torch.randn(n_elements, generator=generator)
    coefficients = torch.full((n_tasks,), 0.3, requires_grad=True)

    def of(merge: Callable[[], torch.Tensor]) -> Callable[[], torch.Tensor]:
        def step() -> torch.Tensor:
            coefficients.grad = None
            merge().backward(gradient)
            assert coefficients.grad is not None
            return coefficients.grad

        return step

    steps = {
        "base + deltas.T @ c": of(lambda: base + stacked.T @ coefficients),
        "base + c @ deltas": of(lambda: base + coefficients @ stacked),
        "weighted_merge": of(lambda: weighted_merge(base, stacked.unbind(), coefficients)),
    }
    expected = torch.stack([row.double() @ gradient.double() for row in stacked])
    for name, step in steps.items():
        if not torch.allclose(step().double(), expected, rtol=0, atol=1e-4 * n_elements**0.5):
            raise RuntimeError(f"{name}: the gradient is not that of the merge")
    # Base and deltas and the merge; deltas and the gradient.
    n_bytes = 4 * n_elements * (2 * n_tasks + 3)
    cases: list[Case] = [(Row({"job": job}, n_bytes=n_bytes), step) for job, step in steps.items()]
    for codec, parameters in _CODECS.items():
        deltas = _packed(base, stacked, directory / codec, codec, parameters)
        dense = [delta.dense() for delta in deltas]
        step = _merge_of(of, base, deltas, coefficients)
        if not torch.equal(step(), _merge_of(of, base, dense, coefficients)()):
            raise RuntimeError(f"{codec}: the gradient is not that of the dense deltas")
        memory = {array.data_ptr(): array.nbytes for one in deltas for array in one.memory}
        facts = {"delta_bytes": sum(memory.values())}
        cases.append((Row({"job": f"weighted_merge, {codec} store"}, facts=facts), step))
    return cases


def _merge_of(
    of: Callable[[Callable[[], torch.Tensor]], Callable[[], torch.Tensor]],
    base: torch.Tensor,
    deltas: Sequence[torch.Tensor | EncodedDelta],
    coefficients: torch.Tensor,
) -> Callable[[], torch.Tensor]:
    return of(lambda: weighted_merge(base, deltas, coefficients))


def _packed(
    base: torch.Tensor,
    deltas: torch.Tensor,
    directory: Path,
    codec: str,
    parameters: Mapping[str, float],
) -> list[EncodedDelta]:
    """The same deltas, as a store has them."""
    directory.mkdir(parents=True)
    save_file({"w": base}, directory / "base.safetensors")
    tasks = {f"task{i}": directory / f"task{i}.safetensors" for i in range(len(deltas))}
    for path, delta in zip(tasks.values(), deltas, strict=True):
        save_file({"w": base + delta}, path)
    pack(directory / "base.safetensors", tasks, directory / "store", codec=codec, **parameters)
    for path in tasks.values():
        path.unlink()
    return [row["w"] for row in store_deltas(Store.open(directory / "store", check_base=False))]


def switches(
    directory: Path,
    llama: checkpoints.Llama,
    device: str = "cpu",
    preload: bool | Literal["device"] = True,
) -> list[Case]:
    """Switching a model among its tasks, and writing its parameters from a copy in memory."""
    base, *experts = checkpoints.ensure(directory, llama)
    tasks = {f"task{i}": path for i, path in enumerate(experts)}
    pack(base, tasks, directory / "store", overwrite=True)
    store = Store.open(directory / "store", check_base=False)
    given: dict[str, torch.Tensor] = {}
    for path in store.base.files:
        given |= load_file(path, device)
    model = _module_of({name: tensor.clone() for name, tensor in given.items()})
    parameters = dict(model.named_buffers())
    switcher = TaskSwitcher(model, store, preload=preload)
    turns = itertools.cycle(tasks)

    def copy() -> None:
        for name, parameter in parameters.items():
            parameter.copy_(given[name])
        staging.wait_for(parameters.values())

    for task in tasks:
        switcher.activate(task)
        for name, expected in store.load(task, framework="torch").items():
            if not torch.equal(parameters[name].cpu(), expected):
                raise RuntimeError(f"{task}: {name} is not what the store loads")
    n_bytes = sum(one.nbytes for one in parameters.values())
    facts = {"held_bytes": switcher.nbytes, "model_bytes": n_bytes}
    return [
        (Row({"job": "copy_ of all parameters"}, n_bytes=2 * n_bytes), copy),
        (Row({"job": "activate"}, facts=facts), lambda: switcher.activate(next(turns))),
        (Row({"job": "deactivate"}), switcher.deactivate),
    ]


def _module_of(tensors: Mapping[str, torch.Tensor]) -> torch.nn.Module:
    """A module with these buffers, whose names have dots."""
    root = torch.nn.Module()
    for name, tensor in tensors.items():
        module = root
        *parents, last = name.split(".")
        for part in parents:
            if part not in dict(module.named_children()):
                module.add_module(part, torch.nn.Module())
            module = module.get_submodule(part)
        module.register_buffer(last, tensor)
    return root


def measure(cases: Sequence[Case], repeat: int) -> list[Row]:
    """The rows with their samples, taken in turns; the first round is thrown away."""
    for number in range(repeat + 1):
        for row, step in cases:
            start = time.perf_counter()
            step()
            if number > 0:
                row.samples.append(time.perf_counter() - start)
    return [row for row, _ in cases]


def show(rows: Sequence[Row]) -> str:
    """The rows as a table, with how many times as fast as the first each is."""
    body = [
        [
            str(row.case["job"]),
            f"{row.seconds * 1e3:.1f}",
            f"{rows[0].seconds / row.seconds:.2f}",
            f"{100 * row.noise:.0f}",
        ]
        for row in rows
    ]
    return table(["job", "ms", "times as fast", "noise %"], body)


def run(
    directory: Path,
    *,
    repeat: int,
    n_tasks: int,
    n_elements: int,
    llama: checkpoints.Llama = _MODEL,
) -> list[Row]:
    """Rows of the merges and then of the switches, printed as they come."""
    with tempfile.TemporaryDirectory() as scratch:
        merged = measure(merges(n_tasks, n_elements, Path(scratch)), repeat)
    print(show(merged), "", sep="\n")
    switched = measure(switches(directory, llama), repeat)
    print(show(switched))
    return merged + switched


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the benchmark that the command line asks for."""
    parser = argparse.ArgumentParser(prog="python -m bench.weighted", description=__doc__)
    parser.add_argument("--repeat", type=int, default=9, help="samples; default: 9")
    parser.add_argument("--tasks", type=int, default=8, help="of the merges; default: 8")
    parser.add_argument("--elements", type=int, default=16_000_000, help="default: 16e6")
    parser.add_argument(
        "--dir",
        type=Path,
        default=Path(tempfile.gettempdir()) / "tallies-bench-weighted",
        help="where checkpoints are kept between runs (3.3 GB)",
    )
    parser.add_argument("--name", default="weighted", help="of the result; default: weighted")
    asked = parser.parse_args(arguments)
    torch.set_num_threads(n_cores())
    rows = run(asked.dir, repeat=asked.repeat, n_tasks=asked.tasks, n_elements=asked.elements)
    settings = {"repeat": asked.repeat, "tasks": asked.tasks, "elements": asked.elements}
    settings |= {"threads": torch.get_num_threads(), "torch": torch.__version__}
    note(f"written: {save(asked.name, rows, settings).name}")


if __name__ == "__main__":
    main()
