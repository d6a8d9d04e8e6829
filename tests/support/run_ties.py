"""Merge the task vectors of a .npz file with peft and fusion_bench, into another file.

Run by test_ties_parity with the Python that has both, which may lack tallies. The cases come as
JSON {"name": [tool, number of experts, arguments]} on standard input. Only one
module of fusion_bench is loaded: its package imports whatever it may need.
"""

from __future__ import annotations

import functools
import importlib.util
import json
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import torch


@functools.cache
def fusion_bench() -> Any:
    found = importlib.util.find_spec("fusion_bench")
    assert found is not None and found.submodule_search_locations is not None
    file = Path(found.submodule_search_locations[0]) / "method/ties_merging/ties_merging_utils.py"
    for name in ("fusion_bench", "fusion_bench.utils", "fusion_bench.utils.type"):
        sys.modules[name] = types.ModuleType(name)
    sys.modules["fusion_bench.utils.type"].StateDictType = dict  # type: ignore[attr-defined]
    spec = importlib.util.spec_from_file_location("ties_merging_utils", file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def by_peft(rows: torch.Tensor, arguments: dict[str, Any]) -> torch.Tensor:
    from peft.utils.merge_utils import ties

    weights = torch.tensor(arguments.pop("weights"))
    return ties(list(rows), weights, **arguments)


def by_fusion_bench(rows: torch.Tensor, arguments: dict[str, Any]) -> torch.Tensor:
    scale = arguments.pop("scale")
    return scale * fusion_bench().ties_merging(rows, **arguments)


tools = {"peft": by_peft, "fusionbench": by_fusion_bench}
stacks = np.load(sys.argv[1])
sys.stdout = sys.stderr
results = {
    f"{name}/{key}": tools[tool](torch.from_numpy(stacks[key][:n]), dict(arguments)).numpy()
    for name, (tool, n, arguments) in json.load(sys.stdin).items()
    for key in stacks
}
np.savez(sys.argv[2], **results)
