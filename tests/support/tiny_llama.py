"""A tiny Llama for the tests of benchmarks, and a way to spoil a tensor of a file."""

from __future__ import annotations

from pathlib import Path

from bench import merge
from bench.support import checkpoints
from tallies.checkpoint.checkpoint import Checkpoint

TINY = checkpoints.Llama(
    num_hidden_layers=2,
    vocab_size=300,
    hidden_size=64,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=16,
    intermediate_size=96,
)


def settings(directory: Path) -> merge.Settings:
    return merge.Settings(directory=directory, n_threads=2, repeat=1, cold=False)


def spoil(path: Path, name: str) -> None:
    """Change the first bit of a tensor."""
    info = Checkpoint.open(path).tensors[name]
    with open(info.path, "r+b") as file:
        file.seek(info.offset)
        first = file.read(1)
        file.seek(info.offset)
        file.write(bytes([first[0] ^ 1]))
