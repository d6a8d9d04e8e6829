"""The formats of weight files: by which names they go, and who reads them."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from .safetensors import read_header
from .tensors import TensorInfo

_TRAINING: Final = re.compile(
    r"(?:training_args|optimizer|scheduler|scaler|rng_state|random_states)[\w-]*\.\w+\Z"
)
"""Files that trainers leave beside the weights."""


@dataclass(frozen=True)
class Format:
    """A format of weight files."""

    suffixes: tuple[str, ...]
    """The ends of its files' names."""
    usual_name: str
    """The name of the one file of a model that is not split."""
    read: Callable[[Path], tuple[list[TensorInfo], dict[str, str]]]
    """Reads the tensors and the metadata of a file."""
    others_are_strangers: bool = False
    """True if files beside the one of the usual name are no weights of the model."""

    def has_weights(self, name: str) -> bool:
        """Tell if a file of this name may hold a model's weights."""
        return name.endswith(self.suffixes) and not _TRAINING.match(name)

    def is_index(self, name: str) -> bool:
        """Tell if a file of this name says which file holds which tensor."""
        return name.endswith(tuple(f"{suffix}.index.json" for suffix in self.suffixes))

    def is_of_a_model(self, name: str) -> bool:
        """Tell if a file of this name holds weights, or is an index of such files."""
        return self.has_weights(name) or self.is_index(name)

    def is_usual(self, name: str) -> bool:
        """Tell if a file has the usual name of a model's one file or of its index."""
        return name in (self.usual_name, f"{self.usual_name}.index.json")


def _read_torch_file(path: Path) -> tuple[list[TensorInfo], dict[str, str]]:
    # Five modules that only models in this format need.
    from .torch_file import read_torch_file

    return read_torch_file(path)


FORMATS: Final = (
    Format((".safetensors",), "model.safetensors", read_header),
    Format((".bin", ".pt", ".pth"), "pytorch_model.bin", _read_torch_file, True),
)
"""In the order in which a directory with several is read."""

SUFFIXES: Final = tuple(suffix for form in FORMATS for suffix in form.suffixes)


def format_of(path: Path) -> Format:
    """Return the format of a file by its name."""
    return next(form for form in FORMATS if path.name.endswith(form.suffixes))
