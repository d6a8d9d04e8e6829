"""AdaMerging: coefficients for each task and tensor, learned from images without labels.

python examples/adamerging.py [--seeds 0 1 2] [--steps 200]

Trains the models of ``tallies demo`` on the spot, a base and eight experts a seed, half a minute
each, merges them by task arithmetic with 0.3 throughout, and then changes the coefficients so that
the predictions on the test images become certain: their mean entropy over all tasks is lowered.
The labels are used only to say what became of the accuracy.

Yang et al., AdaMerging, 2023, arXiv 2310.02575. With other numbers than the paper's: 200 steps of
Adam at 3e-3 with 32 images a task instead of 500 at 1e-3 with 16, and no clamp.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from tallies.demo.model import Encoder, accuracy, logits, prototypes
from tallies.demo.tasks import TASKS, generator, split
from tallies.demo.train import train_base, train_expert
from tallies.torch import MergedModule


def minimise_entropy(
    merged: MergedModule,
    heads: Mapping[str, Tensor],
    inputs: Mapping[str, Tensor],
    n_steps: int,
    random: torch.Generator,
) -> None:
    """Learn the coefficients: one merge a step, and one contraction for the losses of all tasks."""
    optimizer = torch.optim.Adam(merged.parameters(), lr=3e-3)
    for _ in range(n_steps):
        optimizer.zero_grad()
        with merged.merged_once():
            for task, head in heads.items():
                chosen = torch.randint(len(inputs[task]), (32,), generator=random)
                predicted = logits(merged(inputs[task][chosen]), head)
                torch.distributions.Categorical(logits=predicted).entropy().mean().backward()
        optimizer.step()


def adamerging(seed: int, n_steps: int, base_steps: int, expert_steps: int) -> list[list[float]]:
    """Accuracies in percent on each task, before and after."""
    train, _, test = split(seed)
    base = train_base(train, seed=seed, n_steps=base_steps)
    heads, images, deltas = {}, {}, []
    for task, view in TASKS.items():
        heads[task] = prototypes(base, train.seen(view, generator(seed, "head", task)))
        images[task] = test.seen(view, generator(seed, "test", task))
        expert = train_expert(base, heads[task], task, train, seed=seed, n_steps=expert_steps)
        deltas.append(
            {name: value - base.state_dict()[name] for name, value in expert.state_dict().items()}
        )
    merged = MergedModule(Encoder(), base.state_dict(), deltas, initial=0.3, per_tensor=True)

    def accuracies() -> list[float]:
        encoder = Encoder()
        encoder.load_state_dict(merged.merged())
        return [accuracy(encoder, heads[task], images[task]) for task in TASKS]

    before = accuracies()
    inputs = {task: seen.pixels for task, seen in images.items()}
    minimise_entropy(merged, heads, inputs, n_steps, generator(seed, "adamerging"))
    return [before, accuracies()]


def main(arguments: Sequence[str] | None = None) -> None:
    """Print a line before and a line after for each seed, and the mean gain."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=200, help="of Adam; default: 200")
    parser.add_argument("--base-steps", type=int, default=250, help="of training the base")
    parser.add_argument("--expert-steps", type=int, default=300, help="of training each expert")
    asked = parser.parse_args(arguments)
    torch.set_num_threads(1)  # sums in one order whatever the machine
    print(f"{'seed':6}{'':16}" + "".join(f"{name:>8}" for name in (*TASKS, "mean")))
    gains = []
    for seed in asked.seeds:
        rows = adamerging(seed, asked.steps, asked.base_steps, asked.expert_steps)
        for label, row in zip(("task arithmetic", "adamerging"), rows, strict=True):
            cells = "".join(f"{value:8.1f}" for value in (*row, statistics.mean(row)))
            print(f"{seed:<6}{label:16}{cells}", flush=True)
        gains.append(statistics.mean(rows[1]) - statistics.mean(rows[0]))
    each = ", ".join(f"{gain:+.1f}" for gain in gains)
    print(f"gain of the mean accuracy, in points: {each}; mean {statistics.mean(gains):+.1f}")


if __name__ == "__main__":
    main()
