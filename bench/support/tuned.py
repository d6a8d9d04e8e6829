"""Small trained models and what steps of AdamW make of them, in bfloat16 as servers get them."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Final

import torch
from safetensors.torch import save_file
from torch.optim import AdamW

from tallies.demo import model, tasks, train

RATE: Final = 3e-6
"""The learning rate of reinforcement learning."""
_VIEW: Final = "roll"


def write(directory: Path, between: tuple[int, ...], *, base_steps: int) -> list[tuple[Path, Path]]:
    """Write pairs of models with so many steps of AdamW between the two of each.

    A base is trained, then tuned on a task that is new to it with weights in float32, of which
    bfloat16 copies are written. The optimizer has a past before the first pair.

    Args:
        directory: The place of the models.
        between: The steps between the models of each pair.
        base_steps: The steps by which the base is trained.
    """
    images, _, _ = tasks.split(0)
    random = tasks.generator(0, "tuned")
    encoder = copy.deepcopy(train.train_base(images, seed=0, n_steps=base_steps))
    head = model.prototypes(encoder, images)
    optimizer = AdamW(encoder.parameters(), lr=RATE, weight_decay=0.01)

    def step(n: int) -> None:
        for _ in range(n):
            drawn = torch.randint(len(images.labels), (train.N_PER_BATCH,), generator=random)
            seen = images[drawn].seen(tasks.TASKS[_VIEW], random)
            loss = torch.nn.functional.cross_entropy(
                model.logits(encoder(seen.pixels), head), seen.labels
            )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    def save(name: str) -> Path:
        path = directory / name
        path.mkdir(parents=True)
        save_file(
            {
                name: one.to(torch.bfloat16).contiguous()
                for name, one in encoder.state_dict().items()
            },
            path / "model.safetensors",
        )
        return path

    step(max(between))
    pairs = []
    for n in between:
        old = save(f"before-{n}")
        step(n)
        pairs.append((old, save(f"after-{n}")))
    return pairs
