"""The encoder that is trained and merged, its checkpoints, and heads that are neither."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.functional import gelu, normalize

from .tasks import Images

N_PIXELS = 64
N_CLASSES = 10
N_BLOCKS = 3
WIDTH = 256
HIDDEN = 512
SHARPNESS = 20.0
"""The factor from cosines to logits."""


class Block(nn.Module):
    """A residual block: ``x + down(gelu(up(norm(x))))``."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(WIDTH)
        self.up = nn.Linear(WIDTH, HIDDEN)
        self.down = nn.Linear(HIDDEN, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        """Map features ``[n, 256]`` to features of the same shape."""
        y: Tensor = self.down(gelu(self.up(self.norm(x))))
        return x + y


class Encoder(nn.Module):
    """A residual MLP of 807 424 parameters in 22 tensors, from images to vectors of length 1."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(N_PIXELS, WIDTH)
        self.blocks = nn.Sequential(*(Block() for _ in range(N_BLOCKS)))
        self.norm = nn.LayerNorm(WIDTH)

    def forward(self, pixels: Tensor) -> Tensor:
        """Map images ``[n, 8, 8]`` in [0, 1] to unit vectors ``[n, 256]``."""
        centred = 2 * pixels.flatten(1) - 1
        return normalize(self.norm(self.blocks(self.embed(centred))), dim=1)


def logits(features: Tensor, head: Tensor) -> Tensor:
    """Return ``20 cos(feature, class)``, [n, 10], of features [n, 256] and a head [10, 256]."""
    return SHARPNESS * features @ normalize(head, dim=1).T


@torch.no_grad()
def prototypes(encoder: Encoder, images: Images) -> Tensor:
    """Return an untrained head ``[10, 256]``: the mean feature of each class."""
    features = encoder(images.pixels)
    return torch.stack([features[images.labels == c].mean(0) for c in range(N_CLASSES)])


@torch.no_grad()
def accuracy(encoder: Encoder, head: Tensor, images: Images) -> float:
    """Return the percentage of images whose class has the largest logit."""
    right = logits(encoder(images.pixels), head).argmax(1) == images.labels
    return 100 * right.double().mean().item()


def save(encoder: Encoder, directory: Path) -> None:
    """Write ``model.safetensors`` and ``config.json``, laid out as Hugging Face checkpoints are."""
    directory.mkdir(parents=True, exist_ok=True)
    config = {
        "model_type": "tallies-demo",
        "hidden_size": WIDTH,
        "intermediate_size": HIDDEN,
        "num_hidden_layers": N_BLOCKS,
        "dtype": "float32",
    }
    (directory / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    save_file(encoder.state_dict(), directory / "model.safetensors", metadata={"format": "pt"})


def load(directory: Path) -> Encoder:
    """Read the encoder in a checkpoint directory, from any number of shards.

    Raises:
        RuntimeError: A tensor is missing, unknown or of another shape.
    """
    encoder = Encoder()
    state: dict[str, Tensor] = {}
    for shard in sorted(directory.glob("*.safetensors")):
        state |= load_file(shard)
    encoder.load_state_dict(state)
    return encoder
