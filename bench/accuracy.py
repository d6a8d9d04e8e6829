"""The accuracy of the demo's merged models, for every method and codec, over several seeds.

python -m bench.accuracy [--seeds N] [--name NAME]

Not a measure of speed. A base and eight experts are trained for each seed as ``tallies demo`` does;
a method with a ``scale`` takes the best of a few on validation images, everything else is at its
defaults. Codecs give every task its own reconstruction, so they stand apart from the methods.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from tallies import InputError, Store, merge_state_dicts, methods, pack
from tallies.demo.model import Encoder, accuracy, prototypes, save
from tallies.demo.pipeline import Exam
from tallies.demo.tasks import TASKS, generator, split
from tallies.demo.train import train_base, train_expert
from tallies.store.codecs import registry as codecs

from .support import harness

SCALES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.7, 1.0, 1.3)
"""Factors on the merged task vector, for methods that have one."""

TEACHES = """\
What this can show: how much methods differ on real, if small, fine-tunes, paired by seed, and
that whole pipelines work. What it cannot: rank methods for your models. One MLP of 0.8 million
parameters, eight views of one set of 1797 digits, 497 test images; the seed is the unit of
replication, and a difference below two standard deviations is chance. Nothing here speaks of
large models: the numbers of the papers need checkpoints that are not here. Parameters are at the
defaults, chosen for other models; only the scale is tuned."""


@dataclass(frozen=True)
class Family:
    """One seed's base and experts, and the images they are judged by."""

    base: Encoder
    experts: Mapping[str, Encoder]
    validation: Exam
    final: Exam

    def own(self) -> dict[str, float]:
        """Accuracy in percent of each expert on its own task."""
        return {
            task: accuracy(expert, self.final.heads[task], self.final.images[task])
            for task, expert in self.experts.items()
        }


def train(seed: int, base_steps: int, expert_steps: int) -> Family:
    """The models of ``tallies demo --seed SEED``."""
    images, val, test = split(seed)

    def seen(part: Any, purpose: str) -> dict[str, Any]:
        return {t: part.seen(view, generator(seed, purpose, t)) for t, view in TASKS.items()}

    base = train_base(images, seed=seed, n_steps=base_steps)
    heads = {task: prototypes(base, views) for task, views in seen(images, "head").items()}
    experts = {
        task: train_expert(base, head, task, images, seed=seed, n_steps=expert_steps)
        for task, head in heads.items()
    }
    return Family(
        base, experts, Exam(heads, seen(val, "validation")), Exam(heads, seen(test, "test"))
    )


@dataclass(frozen=True)
class Result:
    """Accuracies in percent by task, and the scale that was chosen, if one was."""

    accuracies: Mapping[str, float]
    scale: float | None = None

    @property
    def mean(self) -> float:
        """Mean accuracy over the tasks, in percent."""
        return statistics.fmean(self.accuracies.values())

    def normalised(self, own: Mapping[str, float]) -> float:
        """Mean over the tasks of accuracy / the expert's, in percent."""
        return 100 * statistics.fmean(self.accuracies[task] / own[task] for task in own)


def merged(family: Family, method: str, seed: int) -> Result:
    """The method's model, with the scale that is best on the validation images.

    All methods with a scale are linear in it, so that one merge tells what the others would be.
    """
    known = methods.get(method).parameters()
    base = family.base.state_dict()

    def merge(**parameters: float) -> dict[str, torch.Tensor]:
        return merge_state_dicts(
            base if methods.get(method).needs_base else None,
            [expert.state_dict() for expert in family.experts.values()],
            method=method,
            seed=seed,
            **parameters,
        )

    if "scale" not in known:
        return Result(family.final.accuracies(_encoder(merge())))
    whole = merge(scale=1.0)

    def validated(scale: float) -> float:
        return family.validation.mean(
            _encoder({name: x + scale * (whole[name] - x) for name, x in base.items()})
        )

    scale = max(SCALES, key=validated)
    best = whole if scale == 1.0 else merge(scale=scale)
    return Result(family.final.accuracies(_encoder(best)), scale)


def reconstructed(family: Family, codec: str, directory: Path) -> Result:
    """Every task by its own reconstruction from one store of all experts."""
    save(family.base, directory / "base")
    paths = {task: directory / "experts" / task for task in family.experts}
    for task, expert in family.experts.items():
        save(expert, paths[task])
    pack(directory / "base", paths, directory / codec, codec=codec)
    store = Store.open(directory / codec)
    accuracies = {}
    for task in family.experts:
        encoder = _encoder(store.load(task, framework="torch"))
        accuracies[task] = accuracy(encoder, family.final.heads[task], family.final.images[task])
    return Result(accuracies)


def _encoder(state: Mapping[str, torch.Tensor]) -> Encoder:
    encoder = Encoder()
    encoder.load_state_dict(dict(state))
    return encoder


def judge(family: Family, seed: int) -> Iterator[tuple[str, str, Callable[[], Result]]]:
    """Kind, name and what computes the result, for all there is."""
    yield "reference", "base", lambda: Result(family.final.accuracies(family.base))
    yield "reference", "experts", lambda: Result(family.own())
    for name in methods.names():
        yield "method", name, lambda name=name: merged(family, name, seed)  # type: ignore[misc]

    def store(codec: str) -> Result:
        with tempfile.TemporaryDirectory() as directory:
            return reconstructed(family, codec, Path(directory))

    for name in codecs.of_models():
        yield "codec", name, lambda name=name: store(name)  # type: ignore[misc]


def measure(
    seeds: Sequence[int], base_steps: int, expert_steps: int
) -> tuple[list[harness.Row], dict[str, str]]:
    """One row for each method and codec, and why others have none."""
    found: dict[tuple[str, str], list[tuple[Result, float]]] = {}
    refused: dict[str, str] = {}
    rows: dict[tuple[str, str], harness.Row] = {}
    for seed in seeds:
        harness.note(f"seed {seed}: training")
        family = train(seed, base_steps, expert_steps)
        own = family.own()
        for kind, name, compute in judge(family, seed):
            harness.note(f"seed {seed}: {name}")
            start = time.perf_counter()
            try:
                result = compute()
            except InputError as error:
                refused[name] = str(error)
                continue
            row = rows.setdefault((kind, name), harness.Row({"kind": kind, "name": name}))
            row.samples.append(time.perf_counter() - start)
            found.setdefault((kind, name), []).append((result, result.normalised(own)))
    for key, results in found.items():
        rows[key].facts = {
            "accuracy": [round(result.mean, 3) for result, _ in results],
            "normalised": [round(share, 3) for _, share in results],
            "worst_task": [round(min(result.accuracies.values()), 3) for result, _ in results],
            "scale": [result.scale for result, _ in results],
        }
    return list(rows.values()), refused


def table(rows: Sequence[harness.Row]) -> str:
    """Mean and standard deviation over the seeds, best first within a kind."""

    def spread(values: Sequence[float]) -> str:
        sd = statistics.stdev(values) if len(values) > 1 else 0.0
        return f"{statistics.fmean(values):.1f} ± {sd:.1f}"

    kinds = ["reference", "method", "codec"]
    order = sorted(
        rows,
        key=lambda row: (
            kinds.index(str(row.case["kind"])),
            -statistics.fmean(row.facts["accuracy"]),
        ),
    )
    body = [
        [
            str(row.case["name"]),
            str(row.case["kind"]),
            spread(row.facts["accuracy"]),
            spread(row.facts["normalised"]),
            spread(row.facts["worst_task"]),
            ", ".join(sorted({f"{s:g}" for s in row.facts["scale"] if s is not None})) or "-",
        ]
        for row in order
    ]
    return harness.table(["", "kind", "accuracy %", "of experts %", "worst task %", "scale"], body)


def main() -> None:
    """Train, merge, judge, print and keep the table."""
    parser = argparse.ArgumentParser(prog="python -m bench.accuracy", description=__doc__)
    parser.add_argument("--seeds", type=int, default=5, help="how many, from 0 on")
    parser.add_argument("--base-steps", type=int, default=250)
    parser.add_argument("--expert-steps", type=int, default=300)
    parser.add_argument("--name", default="accuracy", help="of the file under bench/results")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    rows, refused = measure(range(asked.seeds), asked.base_steps, asked.expert_steps)
    print(table(rows))
    for name, why in refused.items():
        print(f"not merged by {name}: {why}")
    print(f"\n{TEACHES}")
    settings = {
        "seeds": asked.seeds,
        "base_steps": asked.base_steps,
        "expert_steps": asked.expert_steps,
        "scales": SCALES,
        "refused": refused,
    }
    harness.note(f"written to {harness.save(asked.name, rows, settings)}")


if __name__ == "__main__":
    main()
