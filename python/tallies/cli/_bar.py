"""Progress on standard error."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from ..engine.usage import Progress


@contextmanager
def bar(label: str, asked: bool | None, quiet: bool) -> Iterator[Progress | None]:
    """One bar by bytes, with the rate and the time left; by default on a terminal only."""
    if quiet or not (sys.stderr.isatty() if asked is None else asked):
        yield None
        return
    from tqdm import tqdm

    with tqdm(total=0, unit="B", unit_scale=True, desc=label, file=sys.stderr) as shown:

        def moved(done: int, whole: int) -> None:
            shown.total = whole
            shown.update(done - shown.n)

        yield moved
