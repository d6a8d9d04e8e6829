"""The benchmark of adapters: its models, and the distance of two results."""

from __future__ import annotations

from pathlib import Path

import ml_dtypes
import numpy as np

import tallies
from bench.lora import most_ulps
from bench.support import adapters, checkpoints
from bench.support.checkpoints import Llama
from tests.support.checkpoints import write

SMALL = Llama(
    num_hidden_layers=1,
    vocab_size=64,
    hidden_size=32,
    num_attention_heads=2,
    num_key_value_heads=1,
    head_dim=16,
    intermediate_size=48,
)


def test_the_distance_counts_roundings(tmp_path: Path) -> None:
    x = np.array([1.0, -1.0, 0.0, -0.0, 2.0], np.float32)
    one = write(tmp_path / "one", {"w": x.astype(ml_dtypes.bfloat16)})
    near = write(tmp_path / "near", {"w": x * np.float32(1 + 2.0**-7)})
    far = write(tmp_path / "far", {"w": x - np.float32(4)})
    large = write(tmp_path / "large", {"w": np.full(5, 512, np.float32)})
    assert most_ulps(one, write(tmp_path / "same", {"w": x}), one) == 0
    assert most_ulps(one, near, one) == 1
    assert most_ulps(one, far, one) == 256
    assert most_ulps(one, far, large) == 1


def test_an_adapter_comes_out_of_the_models(tmp_path: Path) -> None:
    base, expert = checkpoints.ensure(tmp_path, SMALL, n_experts=1)
    (made,) = adapters.ensure(tmp_path, SMALL, base, 1, 4)
    assert tallies.inspect(made, fingerprints=False)
    report = tallies.extract_lora(expert, base, tmp_path / "out", rank=4)
    assert len(report.matrices) == 7
