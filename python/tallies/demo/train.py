"""Train the base and its experts: half a minute of one processor core in all."""

from __future__ import annotations

import copy

import torch
from torch import Tensor
from torch.autograd import backward
from torch.nn import Parameter
from torch.nn.functional import cross_entropy
from torch.optim import AdamW
from torch.optim.lr_scheduler import CosineAnnealingLR

from .model import N_CLASSES, WIDTH, Encoder, logits
from .tasks import TASKS, Images, View, generator, plain

N_PER_BATCH = 128
N_BASE_IMAGES = 200
N_BASE_TASKS = 4
"""The base is trained on plain digits and on the first four tasks; the other four are new to it.

Merges of experts behave as they do with large models only where the base knows some tasks.
"""


def _loss(
    encoder: Encoder, head: Tensor, images: Images, views: list[View], random: torch.Generator
) -> Tensor:
    """Return the cross-entropy of one random batch, shared out evenly among the views."""
    drawn = torch.randint(len(images.labels), (N_PER_BATCH,), generator=random)
    shares = drawn.tensor_split(len(views))
    batch = [images[share].seen(view, random) for share, view in zip(shares, views, strict=True)]
    features = encoder(torch.cat([part.pixels for part in batch]))
    return cross_entropy(logits(features, head), images.labels[drawn])


def train_base(images: Images, *, seed: int, n_steps: int) -> Encoder:
    """Train an encoder that knows something of half the tasks; its head is thrown away."""
    random = generator(seed, "base")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(random.initial_seed())
        encoder = Encoder()
    head = Parameter(torch.randn(N_CLASSES, WIDTH, generator=random))
    optimizer = AdamW([*encoder.parameters(), head], lr=1e-3, weight_decay=0.01)
    views = [plain, *list(TASKS.values())[:N_BASE_TASKS]]
    few = images[:N_BASE_IMAGES]
    for _ in range(n_steps):
        optimizer.zero_grad()
        backward(_loss(encoder, head, few, views, random))
        optimizer.step()
    return encoder


def train_expert(
    base: Encoder, head: Tensor, task: str, images: Images, *, seed: int, n_steps: int
) -> Encoder:
    """Train a copy of the base further on one task, against a head that does not change."""
    random = generator(seed, "expert", task)
    encoder = copy.deepcopy(base)
    optimizer = AdamW(encoder.parameters(), lr=3e-4, weight_decay=0.01)
    schedule = CosineAnnealingLR(optimizer, n_steps)
    for _ in range(n_steps):
        optimizer.zero_grad()
        backward(_loss(encoder, head, images, [TASKS[task]], random))
        optimizer.step()
        schedule.step()
    return encoder
