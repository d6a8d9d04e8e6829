"""Shows the progress of a run: through the caller's function, or as a bar on standard error."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any, ParamSpec, TypeVar, cast

from ..errors import InputError
from ..messages import show
from .usage import Progress

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


def with_progress(
    label: str,
) -> Callable[[Callable[Arguments, Result]], Callable[Arguments, Result]]:
    """Let a function take True and False as its ``progress`` too.

    Args:
        label: The word before the bar.

    Returns:
        A decorator; the function inside finds a function in the place of True as its ``progress``.
    """

    def decorate(function: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
        @wraps(function)
        def run(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
            options = cast(dict[str, Any], kwargs)
            with shown(options.pop("progress", None), label) as options["progress"]:
                return function(*args, **kwargs)

        return run

    return decorate


@contextmanager
def shown(progress: Progress, label: str) -> Iterator[Progress]:
    """Yield a function of the bytes moved for True, and what else is given as it is.

    Args:
        progress: The argument of a front door.
        label: The word before the bar.
    """
    if progress is True:
        with _bar(label) as moved:
            yield moved
    elif callable(progress) or progress is None or progress is False:
        yield progress
    else:
        raise InputError(
            f"progress: found {show(progress)}, expected True, False or a function of the bytes "
            "done and the bytes in all"
        )


def is_bar(progress: Progress) -> bool:
    """Return True for the function that stands for True inside a function ``with_progress``."""
    return bool(getattr(progress, "shows_bar", False))


@contextmanager
def _bar(label: str) -> Iterator[Progress]:
    """Show one bar that counts bytes, with the rate and the time left."""
    from tqdm import tqdm

    with tqdm(total=0, unit="B", unit_scale=True, desc=label, file=sys.stderr) as bar:

        def moved(done: int, whole: int) -> None:
            bar.total = whole
            bar.update(done - bar.n)

        moved.shows_bar = True  # type: ignore[attr-defined]
        yield moved
