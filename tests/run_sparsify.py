"""What mergekit and PEFT make of task vectors when the random numbers are given to them.

Run by test_random_parity with the Python that has both, which may lack tallies:
``run_sparsify.py CASES.json ARRAYS.npz OUT.npz``. A case names the tool, its arguments, and the
arrays of the task vector and of the numbers in [0, 1) below whose chances entries stay; what comes
out is the sparse task vector and, where they differ, the chances.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from mergekit.sparsify import RescaleNorm, SparsificationMethod, sparsify
from peft.utils.merge_utils import prune

cases, arrays, out = sys.argv[1:]
found = {}
with np.load(arrays) as given, open(cases, encoding="utf-8") as file:
    for name, case in json.load(file).items():
        numbers = torch.from_numpy(given[f"{name}.numbers"])
        chances: list[Any] = []

        def bernoulli(probabilities: Any, numbers: Any = numbers, seen: Any = chances) -> Any:
            seen.append(probabilities.clone())
            drawn = numbers.reshape(probabilities.shape) < probabilities
            return drawn.to(probabilities.dtype)

        before: Callable[..., Any] = torch.bernoulli
        torch.bernoulli = bernoulli
        x = torch.from_numpy(given[f"{name}.x"])
        if case["tool"] == "peft":
            found[name] = prune(x, case["density"], "random", rescale=True).numpy()
        else:
            norm = RescaleNorm.l1 if case["rescale"] else None
            found[name] = sparsify(
                x,
                case["density"],
                SparsificationMethod(case["method"]),
                epsilon=case["epsilon"],
                rescale_norm=norm,
            ).numpy()
        torch.bernoulli = before
        if chances:
            found[f"{name}.chances"] = chances[0].numpy().reshape(x.shape)
np.savez(out, **found)
