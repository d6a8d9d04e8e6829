"""Merge task vectors with mergekit, PEFT and fusion_bench, given their random numbers.

Run by test_random_parity with the Python that has them, which may lack tallies:
``run_sparsify.py CASES.json ARRAYS.npz OUT.npz``. A case names the tool, its arguments, and the
arrays of the task vector and of the numbers in [0, 1) below whose chances entries stay; what comes
out is the sparse task vector, or what its rows merge to, and, where they differ, the chances. Only
these modules of fusion_bench are loaded: its package imports whatever it may need.
"""

from __future__ import annotations

import importlib.util
import json
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mergekit.sparsify import RescaleNorm, SparsificationMethod, sparsify
from peft.utils.merge_utils import prune


def fusion_bench(path: str) -> Any:
    """That module of the package."""
    package = importlib.util.find_spec("fusion_bench")
    assert package is not None and package.submodule_search_locations is not None
    for name in ("fusion_bench", "fusion_bench.utils", "fusion_bench.utils.type"):
        sys.modules[name] = types.ModuleType(name)
    sys.modules["fusion_bench.utils.type"].StateDictType = dict  # type: ignore[attr-defined]
    file = Path(package.submodule_search_locations[0]) / path
    spec = importlib.util.spec_from_file_location(file.stem, file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    for name in ("fusion_bench", "fusion_bench.utils", "fusion_bench.utils.type"):
        del sys.modules[name]
    return module


def fusion_bench_drop(x: torch.Tensor, case: dict[str, Any]) -> torch.Tensor:
    """One task vector without what is dropped, or with a trim the TIES merge of its rows."""
    drop = fusion_bench("method/dare/utils.py").param_random_drop_
    drop(x, 1 - case["density"], case["rescale"])
    if "trim" not in case:
        return x
    ties = fusion_bench("method/ties_merging/ties_merging_utils.py").ties_merging
    return 0.5 * ties(x, reset_thresh=case["trim"], merge_func=case["func"])  # type: ignore[no-any-return]


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

        before: tuple[Callable[..., Any], ...] = torch.bernoulli, torch.rand_like
        torch.bernoulli = bernoulli
        torch.rand_like = lambda x, numbers=numbers: 1 - numbers
        x = torch.from_numpy(given[f"{name}.x"])
        if case["tool"] == "peft":
            found[name] = prune(x, case["density"], "random", rescale=True).numpy()
        elif case["tool"] == "fusionbench":
            found[name] = fusion_bench_drop(x, case).numpy()
        else:
            norm = RescaleNorm.l1 if case["rescale"] else None
            found[name] = sparsify(
                x,
                case["density"],
                SparsificationMethod(case["method"]),
                epsilon=case["epsilon"],
                rescale_norm=norm,
            ).numpy()
        torch.bernoulli, torch.rand_like = before
        if chances:
            found[f"{name}.chances"] = chances[0].numpy().reshape(x.shape)
np.savez(out, **found)
