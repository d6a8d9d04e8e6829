"""Show progress on standard error."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from ..engine.usage import Progress


@contextmanager
def bar(label: str, asked: bool | None, quiet: bool) -> Iterator[Progress | None]:
    """Show one bar that counts bytes, with the rate and the time left.

    Args:
        label: The word before the bar.
        asked: True and False show and hide the bar; None shows it on a terminal only.
        quiet: Hides the bar in any case.

    Yields:
        The function that takes the bytes done and the bytes in all, or None without a bar.
    """
    if quiet or not (sys.stderr.isatty() if asked is None else asked):
        yield None
        return
    from tqdm import tqdm

    with tqdm(total=0, unit="B", unit_scale=True, desc=label, file=sys.stderr) as shown:

        def moved(done: int, whole: int) -> None:
            shown.total = whole
            shown.update(done - shown.n)

        yield moved
