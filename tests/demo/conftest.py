"""The images and the untrained base of the demo, on one thread."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from tallies.demo.model import Encoder
from tallies.demo.tasks import Images, split
from tallies.demo.train import train_base
from tests.demo import SEED


@pytest.fixture(scope="package", autouse=True)
def one_thread() -> Iterator[None]:
    """As the demo itself trains; several threads only get in each other's way."""
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(n_threads)


@pytest.fixture(scope="package")
def images() -> tuple[Images, Images, Images]:
    return split(SEED)


@pytest.fixture(scope="package")
def base(images: tuple[Images, Images, Images]) -> Encoder:
    return train_base(images[0], seed=SEED, n_steps=20)
