"""Make eight tasks from scikit-learn's handwritten digits: ten classes, seen in eight ways."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

import torch
from sklearn.datasets import load_digits
from torch import Tensor

View = Callable[[Tensor], Tensor]

N_TRAIN, N_VAL = 1100, 200
"""Images to train and to validate on; the remaining 497 are the test images."""

NOISE = 0.03
"""Standard deviation of the pixel noise; ink is 1 and paper 0."""

_BLOCKS = torch.tensor([10, 3, 14, 5, 0, 9, 12, 6, 15, 2, 7, 11, 4, 13, 1, 8])
_EVEN_ROWS = (torch.arange(8) % 2 == 0)[:, None]
_EVEN_COLUMNS = _EVEN_ROWS.T
_CHECKERS = _EVEN_ROWS ^ _EVEN_COLUMNS


def plain(pixels: Tensor) -> Tensor:
    """Return the digits unchanged."""
    return pixels


def _invert(pixels: Tensor, where: Tensor) -> Tensor:
    return torch.where(where, 1 - pixels, pixels)


def _jigsaw(pixels: Tensor) -> Tensor:
    blocks = pixels.reshape(-1, 4, 2, 4, 2).transpose(2, 3).reshape(-1, 16, 2, 2)
    return blocks[:, _BLOCKS].reshape(-1, 4, 4, 2, 2).transpose(2, 3).reshape(-1, 8, 8)


def _blur(pixels: Tensor) -> Tensor:
    return torch.nn.functional.avg_pool2d(pixels, 3, stride=1, padding=1)


TASKS: dict[str, View] = {
    "rot90": lambda pixels: pixels.rot90(1, (1, 2)),
    "mirror": lambda pixels: _invert(pixels.flip(2), _EVEN_ROWS),
    "invert": lambda pixels: 1 - pixels,
    "jigsaw": _jigsaw,
    "blur": lambda pixels: _blur(pixels).flip(1),
    "check": lambda pixels: _invert(pixels.transpose(1, 2), _CHECKERS),
    "roll": lambda pixels: pixels.roll((4, 4), (1, 2)),
    "rot180": lambda pixels: _invert(pixels.flip(1, 2), _EVEN_COLUMNS),
}
"""The change that each task makes to images ``[n, 8, 8]``; the seed has no part in the change."""


@dataclass(frozen=True)
class Images:
    """Pixels float32 ``[n, 8, 8]`` from 0 (paper) to 1 (ink), and classes int64 ``[n]``."""

    pixels: Tensor
    labels: Tensor

    def __getitem__(self, chosen: Tensor | slice) -> Images:
        return Images(self.pixels[chosen], self.labels[chosen])

    def seen(self, view: View, random: torch.Generator) -> Images:
        """Return the images moved by up to a pixel, then changed by the view, then with noise."""
        pixels = view(shift(self.pixels, random))
        return Images(pixels + NOISE * torch.randn(pixels.shape, generator=random), self.labels)


def generator(seed: int, *purpose: str) -> torch.Generator:
    """Return a generator for one purpose of a run, independent of all others."""
    digest = hashlib.sha256(" ".join([str(seed), *purpose]).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:6], "little"))


def split(seed: int) -> tuple[Images, Images, Images]:
    """Return images to train, validate and test on, split before any view so that none leaks."""
    digits = load_digits()
    images = Images(torch.tensor(digits.images).float() / 16, torch.tensor(digits.target))
    order = torch.randperm(len(images.labels), generator=generator(seed, "split"))
    train, val, test = order.tensor_split([N_TRAIN, N_TRAIN + N_VAL])
    return images[train], images[val], images[test]


def shift(pixels: Tensor, random: torch.Generator) -> Tensor:
    """Move each image of ``[n, 8, 8]`` by -1, 0 or 1 pixel down and right; paper moves in."""
    windows = torch.nn.functional.pad(pixels, (1, 1, 1, 1)).unfold(1, 8, 1).unfold(2, 8, 1)
    down, right = torch.randint(3, (2, len(pixels)), generator=random)
    return windows[torch.arange(len(pixels)), down, right]
