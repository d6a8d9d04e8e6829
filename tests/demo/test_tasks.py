"""The tasks of the demo: the split, the views, the noise."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from sklearn.datasets import load_digits

from tallies.demo.tasks import TASKS, Images, generator, plain, shift, split
from tests.demo import SEED


def test_importing_the_demo_imports_no_heavy_library() -> None:
    heavy = "{'torch', 'sklearn', 'numpy', 'safetensors'}"
    code = f"import sys, tallies.demo; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_split_holds_every_digit_exactly_once(images: tuple[Images, Images, Images]) -> None:
    assert [len(part.labels) for part in images] == [1100, 200, 497]
    digits = load_digits()
    expected = sorted(
        (int(label), *(pixels.flatten() / 16).tolist())
        for pixels, label in zip(digits.images, digits.target, strict=True)
    )
    got = sorted(
        (int(label), *pixels.flatten().tolist())
        for part in images
        for pixels, label in zip(part.pixels, part.labels, strict=True)
    )
    assert got == expected


def test_split_depends_on_the_seed_alone(images: tuple[Images, Images, Images]) -> None:
    assert torch.equal(split(SEED)[2].pixels, images[2].pixels)
    assert not torch.equal(split(SEED + 1)[2].pixels, images[2].pixels)


def test_tasks_show_the_same_digits_in_eight_ways() -> None:
    pixels = torch.rand(5, 8, 8, generator=generator(SEED, "test"))
    views = [plain(pixels), *(view(pixels) for view in TASKS.values())]
    assert len(views) == 9
    for i, seen in enumerate(views):
        assert seen.shape == pixels.shape
        assert seen.min() >= 0
        assert seen.max() <= 1
        assert not any(torch.equal(seen, other) for other in views[:i])


@pytest.mark.parametrize("task", ["rot90", "jigsaw", "roll"])
def test_rearranging_tasks_lose_no_pixel(task: str) -> None:
    pixels = torch.rand(3, 8, 8, generator=generator(SEED, "test"))
    seen = TASKS[task](pixels)
    assert torch.equal(seen.flatten(1).sort().values, pixels.flatten(1).sort().values)


@pytest.mark.parametrize(
    ("task", "first_row"),
    [
        ("rot90", [7, 15, 23, 31, 39, 47, 55, 63]),
        ("mirror", [-6, -5, -4, -3, -2, -1, 0, 1]),
        ("invert", [1, 0, -1, -2, -3, -4, -5, -6]),
        ("check", [0, -7, 16, -23, 32, -39, 48, -55]),
        ("roll", [36, 37, 38, 39, 32, 33, 34, 35]),
        ("rot180", [-62, 62, -60, 60, -58, 58, -56, 56]),
    ],
)
def test_tasks_on_a_ramp(task: str, first_row: list[int]) -> None:
    ramp = torch.arange(64.0).reshape(1, 8, 8)
    assert TASKS[task](ramp)[0, 0].tolist() == first_row


def test_shift_moves_by_at_most_a_pixel_in_every_direction() -> None:
    dot = torch.zeros(400, 8, 8)
    dot[:, 3, 4] = 1
    moved = shift(dot, generator(SEED, "test"))
    assert torch.equal(moved.sum((1, 2)), torch.ones(400))
    places = {tuple(place) for _, *place in moved.nonzero().tolist()}
    assert places == {(row, column) for row in (2, 3, 4) for column in (3, 4, 5)}


def test_images_are_seen_alike_from_equal_generators(images: tuple[Images, Images, Images]) -> None:
    val = images[1]
    first = val.seen(plain, generator(SEED, "val", "roll"))
    assert torch.equal(first.pixels, val.seen(plain, generator(SEED, "val", "roll")).pixels)
    assert not torch.equal(first.pixels, val.seen(plain, generator(SEED, "test", "roll")).pixels)
    assert torch.equal(first.labels, val.labels)
