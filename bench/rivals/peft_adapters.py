"""Adapters merged by PEFT: the rival of ``bench.lora``.

python -m bench.rivals.peft_adapters unload|ties OUT BASE ADAPTER... [--threads N] [--rank R]

Prints, as JSON, the seconds from the first file to the result, without the imports.
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from collections.abc import Sequence
from pathlib import Path

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

DENSITY = 0.2


def unload(base: Path, adapter: Path, out: Path, dtype: torch.dtype) -> None:
    """Merge an adapter into its base and save the model."""
    model = AutoModelForCausalLM.from_pretrained(base, dtype=dtype)
    PeftModel.from_pretrained(model, str(adapter)).merge_and_unload().save_pretrained(out)


def ties(base: Path, adapters: Sequence[Path], out: Path, rank: int) -> None:
    """Merge adapters to one by ``ties_svd``."""
    with torch.no_grad():
        model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
        first, *others = adapters
        wrapped = PeftModel.from_pretrained(model, str(first), adapter_name=first.name)
        for one in others:
            wrapped.load_adapter(str(one), adapter_name=one.name)
        wrapped.add_weighted_adapter(
            [one.name for one in adapters],
            [1.0] * len(adapters),
            "merged",
            combination_type="ties_svd",
            svd_rank=rank,
            density=DENSITY,
        )
        wrapped.save_pretrained(str(out), selected_adapters=["merged"])


def main() -> None:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(prog="python -m bench.rivals.peft_adapters")
    parser.add_argument("job", choices=["unload", "ties"])
    parser.add_argument("paths", nargs="+", type=Path)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--dtype", default="bfloat16")
    asked = parser.parse_args()
    out, base, *adapters = asked.paths
    warnings.simplefilter("ignore")
    torch.set_num_threads(asked.threads)
    start = time.perf_counter()
    if asked.job == "unload":
        unload(base, adapters[0], out, getattr(torch, asked.dtype))
    else:
        ties(base, adapters, out, asked.rank)
    print(json.dumps({"seconds": time.perf_counter() - start}))


if __name__ == "__main__":
    main()
