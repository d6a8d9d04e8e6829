"""Limit the threads of linear algebra."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager


@contextmanager
def single_threads(n_workers: int) -> Iterator[ThreadPoolExecutor]:
    """Yield a pool of workers, in each of which torch computes on one thread."""
    import torch

    before = torch.get_num_threads()
    try:
        with ThreadPoolExecutor(
            n_workers, initializer=torch.set_num_threads, initargs=(1,)
        ) as pool:
            yield pool
    finally:
        torch.set_num_threads(before)
