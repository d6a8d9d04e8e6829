"""Pairs of models, and patches with something wrong in them that their checksums do not tell."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save

from tallies.checkpoint.json_text import object_checksum
from tallies.engine.fingerprints import content_of, tensor_fingerprint
from tallies.patches.growing import Form
from tests.reference.patches import read
from tests.support.checkpoints import DTYPES, Array, Model

CHANGED = ("BF16", "F32", "I64", "F8_E4M3", "U8", "F16")


def bits(model: Model) -> Model:
    """The tensors as unsigned integers of their bits, flat."""
    return {name: np.ravel(one).view(f"u{one.itemsize}") for name, one in model.items()}


def tensor(rng: np.random.Generator, dtype: str, shape: tuple[int, ...]) -> Array:
    """Random bits, among them NaN and infinities."""
    of_type = DTYPES[dtype]
    n = int(np.prod(shape, dtype=int))
    return rng.integers(0, 256, n * of_type.itemsize, np.uint8).view(of_type).reshape(shape)


def altered(rng: np.random.Generator, old: Array, share: float) -> Array:
    """A copy in which about this share of the elements has other bits."""
    new = np.array(old)
    patterns = new.reshape(-1).view(f"u{new.itemsize}")
    patterns[rng.random(patterns.size) < share] ^= patterns.dtype.type(rng.integers(1, 128))
    return new


def pair(seed: int = 0, *, n: int = 3000) -> tuple[Model, Model]:
    """Two models of the same tensors, of several dtypes and shares of changes."""
    rng = np.random.default_rng(seed)
    old = {f"t{i}.{dtype}": tensor(rng, dtype, (n + i,)) for i, dtype in enumerate(CHANGED)}
    old |= {"empty": tensor(rng, "F32", (0, 4)), "scalar": tensor(rng, "F32", ())}
    old |= {"same": tensor(rng, "BF16", (7, 11)), "wide": tensor(rng, "BF16", (3, 70_000))}
    shares = dict(zip(old, (0.0, 0.01, 0.2, 1.0, 0.5, 0.002), strict=False))
    new = {name: altered(rng, one, shares.get(name, 0.01)) for name, one in old.items()}
    return old, new | {"same": old["same"]}


def reshaped(model: Model) -> Model:
    """A model with a tensor more, one less, one of another dtype and one of another shape."""
    new = dict(model)
    del new["scalar"]
    new["added"] = np.arange(5, dtype=np.float32)
    with np.errstate(over="ignore"):  # which not every processor notices
        new["t0.BF16"] = new["t0.BF16"].astype(np.float16)
    new["same"] = new["same"][:3]
    return new


def forge(path: Path, change: Callable[[dict[str, Any], dict[str, Array]], object]) -> Path:
    """Change the manifest and the entries of a patch that is one file, and sign it again."""
    manifest, entries = read(path)
    shapes = {name: one.shape for name, one in entries.items()}
    change(manifest, entries)
    for name, one in entries.items():
        shape = (one.size // 2, 2) if name.endswith(".blocks") else shapes.get(name, one.shape)
        if np.prod(shape, dtype=int) != one.size:
            shape = one.shape
        entries[name] = one = one.reshape(shape)
        if name in manifest["stored"]:
            form = Form(f"U{8 * one.itemsize}", one.shape)
            manifest["stored"][name]["fingerprint"] = tensor_fingerprint(
                form, content_of(one.tobytes())
            )
    manifest.pop("checksum")
    manifest["checksum"] = object_checksum(manifest)
    text = json.dumps(manifest, ensure_ascii=False)
    path.write_bytes(save(entries, {"tallies.patch": text}))
    return path
