"""Train small models, merge and pack them through the command line, and test the results."""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable
from pathlib import Path

from ..errors import InputError, StorageError

DEFAULT_DIRECTORY = "tallies-demo"

_MARKER = "demo.json"
_LIBRARIES = {"torch": "torch", "sklearn": "scikit-learn", "safetensors": "safetensors"}


def run(
    directory: str | os.PathLike[str] | None = None,
    *,
    seed: int = 0,
    echo: Callable[[str], None] = print,
    base_steps: int = 250,
    expert_steps: int = 300,
) -> None:
    """Train a base and eight experts, merge and pack them, and print how good each result is.

    Takes about half a minute of one processor core. The same seed gives the same accuracies on the
    same machine, whatever its number of cores.

    Args:
        directory: The directory of the checkpoints, ``tallies-demo`` by default. The directory must
            be new, empty or an earlier demo's, whose files are overwritten.
        seed: The seed of the images' split and noise, and of the training.
        echo: The function that takes each line of output, without its newline.
        base_steps: Training steps of the base; fewer give a quick look at the machinery.
        expert_steps: Training steps of each expert.

    Raises:
        InputError: Torch, scikit-learn or safetensors is missing, or the directory holds files of
            something else.
        StorageError: The directory cannot be made, or a command failed to read or write.
    """
    _require_libraries()
    path = _claim(Path(directory or DEFAULT_DIRECTORY), seed)
    from . import pipeline

    pipeline.run(path, seed, echo, base_steps=base_steps, expert_steps=expert_steps)


def _require_libraries() -> None:
    for module, package in _LIBRARIES.items():
        try:
            importlib.import_module(module)
        except ImportError as error:
            raise InputError(
                f"the demo needs {package}, which cannot be imported ({error}): "
                "pip install '.[demo]' in a checkout of tallies"
            ) from error


def _claim(directory: Path, seed: int) -> Path:
    """Make the directory and mark it as a demo's, or refuse it."""
    marker = directory / _MARKER
    try:
        if directory.exists() and not directory.is_dir():
            raise InputError(f"{directory}: is a file, expected a directory; name another one")
        if directory.is_dir() and any(directory.iterdir()) and not marker.is_file():
            raise InputError(
                f"{directory}: holds files that are not a demo's (no {_MARKER}), expected a new or "
                "empty directory; name another one"
            )
        directory.mkdir(parents=True, exist_ok=True)
        marker.write_text(f'{{"made_by": "tallies demo", "seed": {seed}}}\n')
    except OSError as error:
        raise StorageError(f"{directory}: {error.strerror}; name another directory") from error
    return directory
