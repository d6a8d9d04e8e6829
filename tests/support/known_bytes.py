"""Results of a small fixed case of every method and codec, as SHA-256.

``python -m tests.support.known_bytes`` prints two groups of them for each way of working, and for
one way again. Those of ``everywhere`` are the
same on every machine: the models come from whole numbers alone, and neither a function of the
system's library, nor a matrix decomposition, nor a compressed store is among the jobs, since other
versions of those libraries give other bytes. Those of ``here`` are the same in every way on one
machine.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import ml_dtypes
import numpy as np

from tallies import merge, pack
from tests.support.checkpoints import Array, write

FILE: Final = Path(__file__).with_suffix(".json")
DTYPES: Final = {"bf16": np.dtype(ml_dtypes.bfloat16), "f16": np.dtype(np.float16)}
SHAPES: Final = {"embed": (60, 32), "norm": (33,), "out": (64, 48), "scalar": ()}
WAYS: Final[list[dict[str, Any]]] = [
    {"threads": 1, "max_memory": "1GiB"},
    {"threads": 2, "max_memory": "64KiB", "max_shard_size": 4000},
    {"threads": 7, "max_memory": "1MiB"},
]
METHODS: Final[list[tuple[str, str, dict[str, Any]]]] = [
    ("ties", "paper", {"density": 0.3, "scope": "model"}),
    ("ties", "paper", {"density": 0.3, "scope": "tensor", "equal": "first"}),
    ("ties", "mergekit", {"density": 0.3}),
    ("ties", "peft", {"density": 0.3, "weight": 1.0, "majority_sign_method": "frequency"}),
    ("ties", "fusionbench", {"density": 0.3, "merge_func": "max"}),
    ("consensus_ties", "paper", {"density": 0.3}),
    ("consensus_ta", "paper", {}),
    ("breadcrumbs", "paper", {}),
    ("breadcrumbs_ties", "mergekit", {"density": 0.6, "gamma": 0.1}),
    ("dare_linear", "mergekit", {"density": 0.6}),
    ("dare_ties", "paper", {"density": 0.6}),
    ("della", "paper", {}),
    ("sce", "mergekit", {}),
    ("pcb", "paper", {}),
    ("ram", "paper", {}),
    ("magmax", "paper", {}),
    ("emr", "paper", {}),
    ("task_arithmetic", "mergekit", {}),
    ("linear", "mergekit", {"weight": 1.0}),
    ("model_stock", "mergekit", {}),
]
CODECS: Final = ("tall", "emr", "magnitude", "sparse", "bitdelta")

METHODS_HERE: Final[list[tuple[str, str, dict[str, Any]]]] = [
    ("della_linear", "mergekit", {"density": 0.6}),
    ("ramplus", "paper", {}),
    ("metagpt", "paper", {}),
    ("codiemb", "paper", {}),
    ("slerp", "paper", {"t": 0.3}),
    ("nuslerp", "paper", {}),
    ("multislerp", "paper", {}),
    ("karcher", "paper", {}),
    ("nearswap", "paper", {"t": 0.01}),
    ("arcee_fusion", "paper", {}),
    ("passthrough", "paper", {"scale": 0.3}),
    ("iso_c", "paper", {}),
    ("iso_cts", "paper", {}),
    ("tsv_m", "paper", {}),
    ("star", "paper", {}),
    ("wudi", "paper", {"steps": 20}),
    ("wudi", "paper", {"solver": "closed_form"}),
    ("doge", "paper", {"steps": 20}),
]
CODECS_HERE: Final = ("lossless", "twin", "tsv_c")
N_MODELS: Final = {"passthrough": 1, "arcee_fusion": 1, "nearswap": 1, "slerp": 1, "nuslerp": 2}
MATRICES: Final = ("iso_c", "iso_cts", "tsv_m", "star", "wudi", "doge", "twin", "tsv_c")
LEAST_OF_MATRICES: Final = "80MiB"
"""The library of matrices takes 64 MiB by itself, which a budget must hold."""

WITHOUT_BASE: Final = ("linear", "passthrough", "karcher")


def values(key: str, shape: tuple[int, ...], step: float) -> Array:
    """Return multiples of a step that follow from a key, with equal magnitudes among them."""
    n = int(np.prod(shape))
    data = b"".join(hashlib.sha256(f"{key} {i}".encode()).digest() for i in range(n // 16 + 1))
    whole = np.frombuffer(data, "<u2")[:n].astype(np.int64) % 513 - 256
    return (whole * step).astype(np.float32).reshape(shape)


def models(root: Path, dtype: np.dtype[Any]) -> list[str]:
    """Write a base and three experts, and return their paths."""
    base = {name: values(f"base {name}", shape, 2.0**-6) for name, shape in SHAPES.items()}
    paths = [write(root / "base", {name: one.astype(dtype) for name, one in base.items()})]
    for expert in ("a", "b", "c"):
        changed = {
            name: (one + values(f"{expert} {name}", SHAPES[name], 2.0**-9)).astype(dtype)
            for name, one in base.items()
        }
        paths.append(write(root / expert, changed))
    return [str(path) for path in paths]


def digest(path: Path) -> str:
    """Return the hash of all tensors below a directory, by name, however they lie in files."""
    found: dict[str, bytes] = {}
    for file in sorted(path.rglob("*.safetensors")):
        data = file.read_bytes()
        n = int.from_bytes(data[:8], "little")
        for name, entry in json.loads(data[8 : 8 + n]).items():
            if name != "__metadata__":
                first, end = entry.pop("data_offsets")
                head = json.dumps([name, entry], sort_keys=True).encode()
                # Files of a store have tensors of the same name; shards of a model have none.
                place = file.name if path.name == "store" else ""
                found[f"{place} {name}"] = head + data[8 + n + first : 8 + n + end]
    whole = hashlib.sha256()
    for name in sorted(found):
        whole.update(found[name])
    return whole.hexdigest()


def budget(name: str, max_memory: str) -> str:
    """Return a budget, or the least that a method or codec of matrices works in."""
    is_small = name in MATRICES and max_memory != WAYS[0]["max_memory"]
    return LEAST_OF_MATRICES if is_small else max_memory


def results(
    way: Mapping[str, Any],
    methods: Sequence[tuple[str, str, Mapping[str, Any]]],
    codecs: Sequence[str],
    dtypes: Iterable[str],
) -> Iterator[tuple[str, str]]:
    """Yield the name of each job and the hash of its result."""
    way = dict(way)
    max_memory = way.pop("max_memory")
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        for key in dtypes:
            base, *experts = models(root / key, DTYPES[key])
            for method, semantics, parameters in methods:
                recipe: dict[str, Any] = {
                    "merge_method": method,
                    "semantics": semantics,
                    "base_model": base,
                    "models": [{"model": path} for path in experts[: N_MODELS.get(method)]],
                    "parameters": parameters,
                }
                if method in WITHOUT_BASE:
                    del recipe["base_model"]
                out = root / "out"
                merge(recipe, out, overwrite=True, **way, max_memory=budget(method, max_memory))
                shown = ",".join(f"{name}={value}" for name, value in parameters.items())
                yield f"{key} {method} {semantics} {shown}".strip(), digest(out)
            tasks = dict(zip("abc", experts, strict=True))
            for codec in codecs:
                store = root / key / "store"
                limits = {"threads": way["threads"], "max_memory": budget(codec, max_memory)}
                pack(base, tasks, store, codec=codec, overwrite=True, **limits)
                yield f"{key} store {codec}", digest(store)


def groups(way: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    """Return the hashes of both groups, in one way of working."""
    return {
        "everywhere": dict(results(way, METHODS, CODECS, DTYPES)),
        "here": dict(results(way, METHODS_HERE, CODECS_HERE, ["bf16"])),
    }


if __name__ == "__main__":
    print(json.dumps([groups(way) for way in (*WAYS, WAYS[1])]))
