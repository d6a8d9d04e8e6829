"""Loads a task of a store and prints, as JSON, the seconds that took and a checksum.

python -m bench.support.load STORE TASK [--threads N]
"""

from __future__ import annotations

import argparse
import json
import time

import torch

from tallies import Store

from .store_check import digest


def main() -> None:
    """Time ``Store.open(...).load(...)``; that the base is the right one is seen while loading."""
    parser = argparse.ArgumentParser(prog="python -m bench.support.load", description=__doc__)
    parser.add_argument("store")
    parser.add_argument("task")
    parser.add_argument("--threads", type=int)
    asked = parser.parse_args()
    start = time.perf_counter()
    store = Store.open(asked.store, check_base=False)
    tensors = store.load(asked.task, framework="torch", threads=asked.threads)
    seconds = time.perf_counter() - start
    content = {name: tensor.view(torch.uint8).numpy() for name, tensor in tensors.items()}
    print(json.dumps({"seconds": seconds, "digest": digest(content)}))


if __name__ == "__main__":
    main()
