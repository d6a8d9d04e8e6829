"""The formats of weight files: by which names they go, and who reads them."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from .safetensors import read_header
from .tensors import TensorInfo
from .weight_names import SAFETENSORS, TORCH

_TRAINING: Final = re.compile(
    r"(?:training_args|optimizer|scheduler|scaler|rng_state|random_states)[\w-]*\.\w+\Z"
    r"|.*(?:_optim_states|_model_states)\.pt\Z"
)
"""Files that trainers leave beside the weights."""

_OTHERS: Final = re.compile(r"openvino_.*\.bin\Z")
"""Files of other formats whose names end as those of torch do."""


@dataclass(frozen=True)
class Format:
    """A format of weight files."""

    suffixes: tuple[str, ...]
    """The ends of its files' names."""
    usual_name: str
    """The name of the one file of a model that is not split."""
    read: Callable[[Path], tuple[list[TensorInfo], dict[str, str]]]
    """Reads the tensors and the metadata of a file."""

    def has_weights(self, name: str) -> bool:
        """Tell if a file of this name may hold a model's weights."""
        return name.endswith(self.suffixes) and not (_TRAINING.match(name) or _OTHERS.match(name))


def is_training_state(name: str) -> bool:
    """Tell if a file has, by its name, the state of a training run."""
    return bool(_TRAINING.match(name))


def _read_torch_file(path: Path) -> tuple[list[TensorInfo], dict[str, str]]:
    # Five modules that only models in this format need.
    from .torch_file import read_torch_file

    return read_torch_file(path)


FORMATS: Final = (
    Format((SAFETENSORS,), "model.safetensors", read_header),
    Format(TORCH, "pytorch_model.bin", _read_torch_file),
)
"""In the order in which a directory with several is read."""


def format_of(path: Path) -> Format:
    """Return the format of a file by its name."""
    return next(form for form in FORMATS if path.name.endswith(form.suffixes))
