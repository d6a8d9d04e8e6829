"""Updates as other tools make them, and as they take them; written from a reading of their code.

``docs/patches.md`` names the versions that were read.
"""

from __future__ import annotations

import json
import zlib
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import xxhash
import zstandard
from safetensors import safe_open
from safetensors.numpy import save
from safetensors.torch import save_file

State = dict[str, torch.Tensor]


def flat_bytes(tensor: torch.Tensor) -> Any:
    """The bytes of a tensor as slime's trainer takes them."""
    return tensor.contiguous().view(-1).view(torch.uint8).numpy().copy()


def trl_file(path: Path, old: State, new: State, encoding: str, *, anchor: bool = False) -> Path:
    """An update file of TRL: a sparse one, or an anchor."""
    stored: State = {}
    n_changed = n_elements = 0
    names = []
    for name, tensor in new.items():
        value = tensor.to(torch.bfloat16)
        n_elements += value.numel()
        names.append(name)
        if anchor:
            stored[name] = value.clone()
            n_changed += value.numel()
            continue
        mask = old[name].view(torch.int16) != tensor.view(torch.int16)
        at = mask.flatten().nonzero(as_tuple=True)[0]
        n_changed += at.numel()
        positions = at.to(torch.int32)
        if encoding == "gap_delta":
            gaps = torch.diff(at, prepend=torch.tensor([-1])) - 1
            wide = at.numel() > 0 and int(gaps.max()) > 0xFFFF
            positions = gaps.to(torch.uint32 if wide else torch.uint16)
        suffixes = (".indices", ".values") if encoding == "indices" else (".idx", ".val")
        stored[name + suffixes[0]] = positions
        stored[name + suffixes[1]] = value.flatten()[at].contiguous()
    metadata = {
        "format": "sparse_weight_patch",
        "version": "1",
        "sparse": str(not anchor),
        "model_version": "7",
        "num_changed_params": str(len(names)),
        "total_changed_elements": str(n_changed),
        "total_elements": str(n_elements),
        "sparsity": str(1.0 - n_changed / max(n_elements, 1)),
    }
    if encoding == "indices":
        metadata["changed_params"] = json.dumps(names)
    else:
        metadata["encoding"] = encoding
    save_file(stored, path, metadata=metadata)
    return path


def take_trl_file(path: Path, model: State) -> None:
    """Change a model as TRL's receiver does."""
    with safe_open(path, framework="pt", device="cpu") as file:
        metadata = file.metadata()
        assert metadata["sparse"] == "True"
        if "changed_params" in metadata:
            for name in json.loads(metadata["changed_params"]):
                at = file.get_tensor(f"{name}.indices").long()
                model[name].view(-1)[at] = file.get_tensor(f"{name}.values")
            return
        for name in sorted(key[:-4] for key in file.keys() if key.endswith(".val")):  # noqa: SIM118
            at = file.get_tensor(f"{name}.idx")
            if metadata["encoding"] == "gap_delta":
                assert at.dtype in (torch.uint16, torch.uint32)
                at = torch.cumsum(at.long() + 1, dim=0) - 1
            values = file.get_tensor(f"{name}.val")
            model[name].view(-1).index_copy_(0, at.long(), values)


def hashed(algorithm: str, data: Any) -> str:
    if algorithm == "adler32":
        return f"{zlib.adler32(data):08x}"
    return str(xxhash.xxh3_128(data).hexdigest())


def delta_version(
    root: Path, number: int, old: State, new: State, encoding: str, algorithm: str, n_files: int = 1
) -> Path:
    """A version directory of slime or miles, its tensors dealt out to the ranks' files."""
    path = root / f"weight_v{number:06d}"
    path.mkdir(parents=True)
    held: list[tuple[dict[str, Any], dict[str, str]]] = [({}, {}) for _ in range(n_files)]
    for i, name in enumerate(new):
        before, after = flat_bytes(old[name]), flat_bytes(new[name])
        differs = before != after
        if not differs.any():
            continue
        if encoding == "xor":
            delta = before ^ after
        else:
            at = np.flatnonzero(differs).astype("<u4")
            head = np.array([at.size], "<u4").view(np.uint8)
            delta = np.concatenate([head, at.view(np.uint8), after[differs]])
        frame = zstandard.ZstdCompressor(level=1).compress(delta)
        frames, sums = held[i % n_files]
        frames[name] = np.frombuffer(frame, np.uint8)
        sums[name] = hashed(algorithm, after)
    full = [one for one in held if one[0]]
    weight_map = {}
    for i, (frames, sums) in enumerate(full):
        file = f"model-{i:05d}-of-{len(full):05d}.safetensors"
        (path / file).write_bytes(save(frames, metadata=sums))
        weight_map |= dict.fromkeys(frames, file)
    facts = {
        "version": f"{number:06d}",
        "base_version": f"{number - 1:06d}",
        "delta_encoding": encoding,
        "compression_format": "zstd",
        "checksum_format": algorithm,
    }
    index = {"metadata": facts, "weight_map": weight_map}
    (path / "model.safetensors.index.json").write_text(json.dumps(index))
    return path


def take_delta_version(path: Path, model: State, applied: int) -> None:
    """Change a model as SGLang's receiver does, which checks every tensor."""
    facts = json.loads((path / "model.safetensors.index.json").read_text())["metadata"]
    assert int(facts["base_version"]) == applied
    assert facts["compression_format"] == "zstd"
    for file in sorted(path.glob("*.safetensors")):
        with safe_open(file, framework="np") as frames:
            sums = frames.metadata()
            for name in frames.keys():  # noqa: SIM118
                packed = frames.get_tensor(name).tobytes()
                delta = np.frombuffer(zstandard.ZstdDecompressor().decompress(packed), np.uint8)
                data = model[name].view(-1).view(torch.uint8).numpy()
                if facts["delta_encoding"] == "xor":
                    data ^= delta
                else:
                    n = int.from_bytes(delta[:4].tobytes(), "little")
                    at = np.frombuffer(delta[4 : 4 + 4 * n].tobytes(), "<u4")
                    data[at] = delta[4 + 4 * n :]
                assert hashed(facts["checksum_format"], data) == sums[name]


class CheckpointWeightPatch(NamedTuple):
    """The fields of vLLM's class."""

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    values: torch.Tensor
    indices: torch.Tensor | None = None


class SparseWeightPatch(NamedTuple):
    """The fields of vLLM's class for the transfer between processes."""

    name: str
    indices: torch.Tensor
    values: torch.Tensor
    full_shape: tuple[int, ...]


def vllm_patches(old: State, new: State) -> list[CheckpointWeightPatch]:
    """Patches as a trainer makes them for vLLM: absolute values at flat positions."""
    found = []
    for name, tensor in new.items():
        word = {2: torch.int16, 4: torch.int32}[tensor.element_size()]
        at = (old[name].view(word) != tensor.view(word)).view(-1).nonzero(as_tuple=True)[0]
        if at.numel():
            values, shape = tensor.view(-1)[at], tuple(tensor.shape)
            one = CheckpointWeightPatch(name, shape, tensor.dtype, values, at.to(torch.int32))
            found.append(one)
    return found


def take_vllm_patches(patches: list[Any], model: State) -> None:
    """Change a model as vLLM's loader does, whose unchanged elements are NaN on the way."""
    for name, shape, dtype, values, indices in patches:
        assert indices is not None and indices.dtype in (torch.int32, torch.int64)
        staged = torch.full((model[name].numel(),), float("nan"), dtype=dtype)
        staged.index_copy_(0, indices.long(), values)
        staged = staged.view(shape)
        torch.where(staged.isnan(), model[name], staged, out=model[name])
