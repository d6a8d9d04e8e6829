"""The models that the searches merge: a base and experts of ``tallies demo``, and their exams."""

from __future__ import annotations

import argparse
import copy
import multiprocessing
import os
import statistics
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor

from tallies import merge_state_dicts
from tallies.demo.model import Encoder, logits, prototypes
from tallies.demo.tasks import TASKS, Images, generator, split
from tallies.demo.train import train_base, train_expert


@dataclass(frozen=True)
class Exam:
    """The head and the images of every task."""

    heads: Mapping[str, Tensor]
    images: Mapping[str, Images]

    @torch.inference_mode()
    def correct(self, encoder: Encoder, chosen: Mapping[str, Tensor] | None = None) -> list[Tensor]:
        """Tell for each task which images, or which of the chosen, the encoder classifies right."""
        found = []
        for task, head in self.heads.items():
            images = self.images[task] if chosen is None else self.images[task][chosen[task]]
            found.append(logits(encoder(images.pixels), head).argmax(1) == images.labels)
        return found

    def accuracies(self, encoder: Encoder) -> list[float]:
        """Accuracy on each task, in percent."""
        return [100 * one.double().mean().item() for one in self.correct(encoder)]

    def mean(self, encoder: Encoder) -> float:
        """Mean accuracy over the tasks, in percent."""
        return statistics.fmean(self.accuracies(encoder))

    @property
    def n_images(self) -> int:
        """Images of all tasks together."""
        return sum(len(images.labels) for images in self.images.values())


@dataclass(frozen=True)
class Family:
    """One seed's base and experts, and the images that judge them."""

    base: dict[str, Tensor]
    experts: list[dict[str, Tensor]]
    validation: Exam
    test: Exam
    # Copied for each candidate, because random weights for it would take half as long as a merge.
    _blank: Encoder = field(default_factory=Encoder)

    def encoder(self, state: Mapping[str, Tensor]) -> Encoder:
        """The encoder with these weights."""
        encoder = copy.deepcopy(self._blank)
        encoder.load_state_dict(dict(state))
        return encoder

    def merged(self, method: str, **parameters: object) -> Encoder:
        """The encoder that a merge in memory makes."""
        encoder = copy.deepcopy(self._blank)
        # In place: the encoder's tensors are the result's.
        out = encoder.state_dict()
        merge_state_dicts(self.base, self.experts, method=method, out=out, threads=1, **parameters)
        return encoder


def train(seed: int, n_tasks: int, base_steps: int, expert_steps: int) -> Family:
    """The first models of ``tallies demo --seed SEED``."""
    train_images, validation, test = split(seed)
    tasks = list(TASKS)[:n_tasks]

    def seen(images: Images, purpose: str) -> dict[str, Images]:
        return {task: images.seen(TASKS[task], generator(seed, purpose, task)) for task in tasks}

    base = train_base(train_images, seed=seed, n_steps=base_steps)
    heads = {task: prototypes(base, views) for task, views in seen(train_images, "head").items()}
    experts = [
        train_expert(base, head, task, train_images, seed=seed, n_steps=expert_steps)
        for task, head in heads.items()
    ]
    return Family(
        base.state_dict(),
        [expert.state_dict() for expert in experts],
        Exam(heads, seen(validation, "validation")),
        Exam(heads, seen(test, "test")),
    )


def rows_of_seeds(
    run: Callable[[int, argparse.Namespace], list[float]], asked: argparse.Namespace
) -> list[list[object]]:
    """The row of each seed, several at a time: each has a process and one thread of torch."""
    seeds, n_cores = asked.seeds, os.cpu_count() or 1
    spawn = multiprocessing.get_context("spawn")
    # With one thread, sums have one order whatever the machine.
    start = partial(torch.set_num_threads, 1)
    with ProcessPoolExecutor(min(n_cores, len(seeds)), spawn, start) as pool:
        found = list(pool.map(partial(run, asked=asked), seeds))
    return [[seed, *row] for seed, row in zip(seeds, found, strict=True)]


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Rows as text, the first column to the left."""
    cells = [[f"{one:.2f}" if isinstance(one, float) else str(one) for one in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(head, *cells, strict=True)]
    return "\n".join(
        "  ".join(
            [row[0].ljust(widths[0])]
            + [one.rjust(width) for one, width in zip(row[1:], widths[1:], strict=True)]
        )
        for row in [list(head), *cells]
    )


def with_means(rows: Sequence[Sequence[object]]) -> list[list[object]]:
    """The rows of all seeds, and under them the mean and the standard deviation of each column."""
    columns = list(zip(*rows, strict=True))[1:]
    found = [list(row) for row in rows] + [["mean", *map(statistics.fmean, columns)]]
    if len(rows) > 1:
        found.append(["sd", *map(statistics.stdev, columns)])
    return found
