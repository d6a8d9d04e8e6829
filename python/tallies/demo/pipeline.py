"""Run the demo from end to end: train, save, merge, pack, unpack, load, test, print."""

from __future__ import annotations

import textwrap
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from .commands import Report, merge, pack, unpack
from .model import Encoder, accuracy, load, prototypes, save
from .table import Row, table
from .tasks import N_VAL, TASKS, Images, generator, split
from .train import N_BASE_IMAGES, N_BASE_TASKS, train_base, train_expert

TASK_ARITHMETIC_SCALE = 0.3
TIES_DENSITY = 0.2
TIES_SCALES = (0.8, 1.0, 1.2)
CODECS = ("tall", "emr")

COLUMNS = 98


def run(
    directory: Path, seed: int, echo: Callable[[str], None], *, base_steps: int, expert_steps: int
) -> None:
    """Run the demo inside a directory that is marked as a demo's; see ``tallies.demo.run``."""
    with _one_thread():
        echo(f"Training a base and {len(TASKS)} experts; half a minute of one core.")
        start = time.perf_counter()
        train, val, test = split(seed)
        base = train_base(train, seed=seed, n_steps=base_steps)
        save(base, directory / "base")
        views = _seen(train, seed, "head")
        heads = {task: prototypes(base, images) for task, images in views.items()}
        validation = Exam(heads, _seen(val, seed, "validation"))
        final = Exam(heads, _seen(test, seed, "test"))

        own = {}
        for task, head in heads.items():
            expert = train_expert(base, head, task, train, seed=seed, n_steps=expert_steps)
            save(expert, directory / "experts" / task)
            own[task] = accuracy(expert, head, final.images[task])
        n_parameters = sum(parameter.numel() for parameter in base.parameters())
        seconds = time.perf_counter() - start
        echo(f"Trained {1 + len(TASKS)} models of {n_parameters:,} parameters in {seconds:.0f} s.")

        linear = _merge(directory, "linear")
        arithmetic = _merge(directory, "task_arithmetic", scale=TASK_ARITHMETIC_SCALE)
        candidates = {
            scale: _merge(directory, "ties", density=TIES_DENSITY, scale=scale)
            for scale in TIES_SCALES
        }
        scale = max(TIES_SCALES, key=lambda scale: validation.mean(candidates[scale].encoder))

        experts = Row("experts", own)
        rows = [Row("base", final.accuracies(base)), experts]
        for merged in (linear, arithmetic, candidates[scale]):
            accuracies = final.accuracies(merged.encoder)
            rows.append(Row(merged.method, accuracies, merged.seconds, merged.peak_memory_bytes))

        stores = [_store(directory, codec) for codec in CODECS]
        for store in stores:
            restored = {
                task: accuracy(store.encoders[task], head, final.images[task])
                for task, head in heads.items()
            }
            seconds, peak = (store.report[key] for key in ("seconds", "peak_memory_bytes"))
            rows.append(Row(store.report["codec"], restored, seconds, peak))
    notes = _notes(directory, len(test.labels), scale)
    for line in ["", *table(rows, experts), "", *map(_size, stores), "", *notes]:
        echo(line)


@contextmanager
def _one_thread() -> Iterator[None]:
    """Compute on one thread: sums have one order, and layers this small gain little from two."""
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(n_threads)


@dataclass(frozen=True)
class Exam:
    """The head and the images of every task."""

    heads: Mapping[str, Tensor]
    images: Mapping[str, Images]

    def accuracies(self, encoder: Encoder) -> dict[str, float]:
        """Return the accuracy on each task, in percent."""
        return {task: accuracy(encoder, self.heads[task], self.images[task]) for task in self.heads}

    def mean(self, encoder: Encoder) -> float:
        """Return the mean accuracy over the tasks, in percent."""
        return Row("", self.accuracies(encoder)).mean


@dataclass(frozen=True)
class Merged:
    """A merged model, read back from its checkpoint, and the cost of the merge."""

    method: str
    encoder: Encoder
    seconds: float
    peak_memory_bytes: int


def _merge(directory: Path, method: str, **parameters: float) -> Merged:
    """Merge all experts into ``merged/METHOD-key-value``."""
    name = "-".join([method, *(f"{key}-{value}" for key, value in parameters.items())])
    out = directory / "merged" / name
    experts = [*_experts(directory).values()]
    report = merge(method, directory / "base", experts, out, parameters)
    return Merged(method, load(out), report["seconds"], report["peak_memory_bytes"])


@dataclass(frozen=True)
class Stored:
    """All experts in one store, each read back from its unpacked checkpoint."""

    report: Report
    """The report of packing."""
    encoders: Mapping[str, Encoder]
    """The restored encoders by task."""


def _store(directory: Path, codec: str) -> Stored:
    """Pack all experts into ``stores/CODEC``, and unpack each to ``unpacked/CODEC/TASK``."""
    store = directory / "stores" / codec
    report = pack(codec, directory / "base", _experts(directory), store)
    encoders = {}
    for task in TASKS:
        out = directory / "unpacked" / codec / task
        unpack(store, task, out)
        encoders[task] = load(out)
    return Stored(report, encoders)


def _size(store: Stored) -> str:
    report = store.report
    experts, packed = report["expert_bytes"] / 1e6, report["base_bytes"] + report["n_bytes"]
    return (
        f"{report['codec']}: {len(report['tasks'])} experts {experts:.1f} MB, base + store "
        f"{packed / 1e6:.1f} MB, {report['ratio']:.2f} times less; "
        f"{report['bits_per_parameter_and_task']:.2f} bits a parameter and task"
    )


def _experts(directory: Path) -> dict[str, Path]:
    return {task: directory / "experts" / task for task in TASKS}


def _seen(images: Images, seed: int, purpose: str) -> dict[str, Images]:
    """Return the images as each task shows them, moved and made noisy once and for all."""
    return {task: images.seen(view, generator(seed, purpose, task)) for task, view in TASKS.items()}


def _notes(directory: Path, n_test: int, ties_scale: float) -> list[str]:
    scales = ", ".join(map(str, TIES_SCALES))
    paragraphs = (
        f"Accuracy in % on {n_test} test images, moved by up to a pixel; each expert on its own "
        "task only. norm: mean of accuracy / the expert's, in %. s, MiB: time and peak memory of "
        "the merge, or of packing. "
        f"The base saw {N_BASE_IMAGES} images, plain and through the first {N_BASE_TASKS} tasks. "
        f"task_arithmetic: scale {TASK_ARITHMETIC_SCALE}, fixed. ties: density {TIES_DENSITY}, "
        f"scale {ties_scale}, the best of {scales} on {N_VAL} validation images.",
        "tall, emr: all experts packed into one store at the codec's defaults, and each unpacked "
        "again; every task by its own reconstruction, so norm is the share of the experts' "
        "accuracy that it keeps. MB is 10^6 bytes.",
        "This shows real fine-tunes going through the whole path, and about how much a merge or a "
        "store keeps of them. It cannot rank the methods for your models: with one small MLP, one "
        "data set and one seed, a point or two is chance, and nothing here speaks of quality or "
        "speed on large models.",
    )
    lines = [line for text in paragraphs for line in [*textwrap.wrap(text, COLUMNS), ""]]
    return [*lines, f"base, experts/*, merged/*, stores/* and unpacked/*/* are in {directory}"]
