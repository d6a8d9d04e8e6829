"""Every method in each of its semantics, and merges of them by way of files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tallies import merge, methods
from tests.support.checkpoints import Model, read, write

PAIRS = [(name, one) for name in methods.names() for one in methods.get(name).semantics]
"""Every method in each of its semantics."""

Rows = Sequence[float] | npt.NDArray[Any]


def f32(values: Rows) -> npt.NDArray[np.float32]:
    return np.array(values, np.float32)


def merged(
    root: Path,
    method: str,
    base: Model,
    experts: Sequence[Model],
    own: Sequence[Mapping[str, Any]] = (),
    *,
    semantics: str = "paper",
    threads: int = 2,
    **parameters: Any,
) -> Model:
    """Merge these models by way of files, with the base where the method can have one.

    A weight is 1, a density 0.2 and others 0.5 if they must be given. Parameters that the method
    does not have are left out.
    """
    known = methods.get(method).parameters(semantics)
    if "weight" in known:
        parameters.setdefault("weight", 1.0)
    for key, parameter in known.items():
        if parameter.default is None:
            parameters.setdefault(key, {"density": 0.2}.get(key, 0.5))
    recipe = {
        "merge_method": method,
        "semantics": semantics,
        "models": [
            {
                "model": str(write(root / f"{i}", expert)),
                "parameters": {name: value for name, value in given.items() if name in known},
            }
            for i, (expert, given) in enumerate(
                zip(experts, own or [{}] * len(experts), strict=True)
            )
        ],
        "parameters": {name: value for name, value in parameters.items() if name in known},
    }
    if methods.get(method).forms_task_vectors(has_base=True):
        recipe["base_model"] = str(write(root / "base", base))
    merge(recipe, root / "out", threads=threads)
    return read(root / "out")
