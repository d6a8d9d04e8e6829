"""Synthetic checkpoints with the shapes of Llama models: a base and experts close to it."""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt

N_EXPERTS = 3

Words = npt.NDArray[np.uint16]
"""bfloat16 as bits."""

# Every tensor is pieced together from one block of noise: drawing each value takes minutes.
_BLOCK_ELEMENTS = 1 << 24
_PIECE_ELEMENTS = 1 << 20
# Fine-tuning moves a weight by a few units in the last place of bfloat16 (2^-13 at 0.02), so that
# the task vectors are rich in zeros and in equal magnitudes, as real ones are.
_BASE_SPREAD = 0.02
_TUNING_SPREAD = 2e-4


@dataclass(frozen=True)
class Llama:
    """The sizes of a model; by default those of Llama 3.2 1B, with 1.236e9 parameters."""

    num_hidden_layers: int = 16
    vocab_size: int = 128256
    hidden_size: int = 2048
    num_attention_heads: int = 32
    num_key_value_heads: int = 8
    head_dim: int = 64
    intermediate_size: int = 8192

    def resized(self, n_parameters: float) -> Llama:
        """The same with the number of layers that comes closest to ``n_parameters``, at least 1."""
        one, two = (replace(self, num_hidden_layers=n).n_parameters for n in (1, 2))
        n_layers = 1 + round((n_parameters - one) / (two - one))
        return replace(self, num_hidden_layers=max(1, n_layers))

    @property
    def n_parameters(self) -> int:
        """Elements of all tensors."""
        return sum(math.prod(shape) for shape in self.shapes().values())

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Names and shapes of the tensors; the output layer is the embedding."""
        hidden, inner = self.hidden_size, self.intermediate_size
        queries = self.num_attention_heads * self.head_dim
        keys = self.num_key_value_heads * self.head_dim
        embedding = (self.vocab_size, hidden)
        shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": embedding}
        for layer in range(self.num_hidden_layers):
            shapes |= {
                f"model.layers.{layer}.{name}.weight": shape
                for name, shape in {
                    "input_layernorm": (hidden,),
                    "mlp.down_proj": (hidden, inner),
                    "mlp.gate_proj": (inner, hidden),
                    "mlp.up_proj": (inner, hidden),
                    "post_attention_layernorm": (hidden,),
                    "self_attn.k_proj": (keys, hidden),
                    "self_attn.o_proj": (hidden, queries),
                    "self_attn.q_proj": (queries, hidden),
                    "self_attn.v_proj": (keys, hidden),
                }.items()
            }
        return shapes | {"model.norm.weight": (hidden,)}

    def config(self) -> dict[str, Any]:
        """The content of config.json."""
        return {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "torch_dtype": "bfloat16",
            "tie_word_embeddings": True,
            **asdict(self),
        }


def ensure(
    directory: Path,
    llama: Llama,
    shard_bytes: int = 10**9,
    seed: int = 0,
    n_experts: int = N_EXPERTS,
) -> list[Path]:
    """The base and the experts as Hugging Face directories of bfloat16, made if they are not there.

    Experts are the base plus noise, rounded. The layers' norms are close to 1, where the noise is
    below half a unit in the last place: few of their elements differ from the base's.
    """
    paths = [directory / "base", *(directory / f"expert-{i + 1}" for i in range(n_experts))]
    marker = directory / "complete.json"
    made_of = {**llama.config(), "shard_bytes": shard_bytes, "seed": seed}
    if n_experts != N_EXPERTS:
        made_of["n_experts"] = n_experts
    if marker.exists() and json.loads(marker.read_text()) == made_of:
        return paths
    shutil.rmtree(directory, ignore_errors=True)
    for path, block, norms in zip(paths, *_noise(llama, seed, n_experts), strict=True):
        path.mkdir(parents=True)
        (path / "config.json").write_text(json.dumps(llama.config(), indent=2))
        _write_model(path, llama.shapes(), block, norms, shard_bytes, seed)
    # Otherwise the first measurements would share the disk with what is still being written.
    os.sync()
    marker.write_text(json.dumps(made_of))
    return paths


def _noise(llama: Llama, seed: int, n_experts: int) -> tuple[list[Words], list[Words]]:
    """For the base and each expert: a block of weights, and the weights of a norm."""
    draw = np.random.default_rng(seed)
    n = min(_BLOCK_ELEMENTS, llama.n_parameters)
    base = np.float32(_BASE_SPREAD) * draw.standard_normal(n, np.float32)
    blocks, norms = [], []
    for tuning in (0.0, *[_TUNING_SPREAD] * n_experts):
        noise = np.float32(tuning) * draw.standard_normal(n, np.float32)
        # The expert is tuned from the weights that the base's file holds.
        model = _rounded(base) + noise
        blocks.append(_words(model))
        norms.append(_words(1 + model[: llama.hidden_size]))
    return blocks, norms


def _rounded(values: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    return values.astype(ml_dtypes.bfloat16).astype(np.float32)


def _words(values: npt.NDArray[np.float32]) -> Words:
    return values.astype(ml_dtypes.bfloat16).view(np.uint16)


def _write_model(
    path: Path,
    shapes: dict[str, tuple[int, ...]],
    block: Words,
    norms: Words,
    shard_bytes: int,
    seed: int,
) -> None:
    shards: list[list[str]] = [[]]
    room = shard_bytes
    for name in shapes:
        n_bytes = 2 * math.prod(shapes[name])
        if shards[-1] and n_bytes > room:
            shards.append([])
            room = shard_bytes
        shards[-1].append(name)
        room -= n_bytes
    files = [f"model-{i + 1:05}-of-{len(shards):05}.safetensors" for i in range(len(shards))]
    # The pieces are drawn alike for all models: tensors of experts lie close to the base's.
    draw = np.random.default_rng(seed)
    for file, names in zip(files, shards, strict=True):
        with open(path / file, "wb", buffering=0) as out:
            out.write(_header({name: shapes[name] for name in names}))
            for name in names:
                for piece in _pieces(shapes[name], block, norms, draw):
                    out.write(piece.data)
    weight_map = {name: f for f, names in zip(files, shards, strict=True) for name in names}
    total = 2 * sum(math.prod(shape) for shape in shapes.values())
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (path / "model.safetensors.index.json").write_text(json.dumps(index, indent=2))


def _pieces(
    shape: tuple[int, ...], block: Words, norms: Words, draw: np.random.Generator
) -> Iterator[Words]:
    if len(shape) == 1:
        yield norms
        return
    left = math.prod(shape)
    while left > 0:
        n = min(_PIECE_ELEMENTS, left)
        first = int(draw.integers(block.size - n + 1))
        yield block[first : first + n]
        left -= n


def _header(shapes: dict[str, tuple[int, ...]]) -> bytes:
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    at = 0
    for name, shape in shapes.items():
        end = at + 2 * math.prod(shape)
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [at, end]}
        at = end
    text = json.dumps(header, separators=(",", ":")).encode()
    # The padding that the safetensors library writes.
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text
