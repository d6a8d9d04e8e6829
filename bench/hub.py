"""Times the plan of models of the hub, and counts the bytes that the plan takes from there.

python -m bench.hub [--repeat N] [--layers N] [--name NAME]

The hub is a server on this machine that speaks the real one's paths. Its models have the shapes of
Llama 3 70B in bfloat16, in shards of 5 GB whose tensors are not there.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from tests.support.hub import Body, Hub, asked_at, serving

from .support import child
from .support.harness import Row, note, save, table

_MODELS = ("org/base", "org/one", "org/two")
_REQUEST = ("--method", "ties", "--base", "org/base", "--model", "org/one", "--model", "org/two")
_SHARD_BYTES = 5 * 10**9


def tensors(n_layers: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    """The names and shapes of the model."""
    hidden, inner, key_value, vocabulary = 8192, 28672, 1024, 128256
    yield "model.embed_tokens.weight", (vocabulary, hidden)
    for layer in range(n_layers):
        prefix = f"model.layers.{layer}."
        yield f"{prefix}input_layernorm.weight", (hidden,)
        yield f"{prefix}post_attention_layernorm.weight", (hidden,)
        for name, n_rows in (("q", hidden), ("k", key_value), ("v", key_value), ("o", hidden)):
            yield f"{prefix}self_attn.{name}_proj.weight", (n_rows, hidden)
        for name, shape in (
            ("gate", (inner, hidden)),
            ("up", (inner, hidden)),
            ("down", (hidden, inner)),
        ):
            yield f"{prefix}mlp.{name}_proj.weight", shape
    yield "model.norm.weight", (hidden,)
    yield "lm_head.weight", (vocabulary, hidden)


def files(n_layers: int) -> dict[str, Body | bytes]:
    """The files of a model: shards with their headers, an index and small files."""
    shards: list[dict[str, object]] = [{}]
    end = 0
    for name, shape in tensors(n_layers):
        n_bytes = 2
        for size in shape:
            n_bytes *= size
        if end + n_bytes > _SHARD_BYTES:
            shards.append({})
            end = 0
        shards[-1][name] = {
            "dtype": "BF16",
            "shape": list(shape),
            "data_offsets": [end, end + n_bytes],
        }
        end += n_bytes
    found: dict[str, Body | bytes] = {}
    placed = {}
    total = 0
    for number, shard in enumerate(shards, 1):
        file = f"model-{number:05}-of-{len(shards):05}.safetensors"
        placed |= dict.fromkeys(shard, file)
        n_bytes = max(entry["data_offsets"][1] for entry in shard.values())  # type: ignore[index]
        text = json.dumps({"__metadata__": {"format": "pt"}, **shard}).encode()
        start = len(text).to_bytes(8, "little") + text
        found[file] = Body(start, len(start) + n_bytes)
        total += n_bytes
    index = {"metadata": {"total_size": total}, "weight_map": placed}
    config = {"model_type": "llama", "hidden_size": 8192, "vocab_size": 128256, "dtype": "bfloat16"}
    return found | {
        "model.safetensors.index.json": json.dumps(index, indent=2).encode(),
        "config.json": json.dumps(config, indent=2).encode(),
        "tokenizer.json": Body(b"{", 9_085_698),
        "tokenizer_config.json": b"{}" + b" " * 50_000,
        "README.md": b"# A model\n" * 2000,
    }


def run(repeat: int, n_layers: int) -> list[Row]:
    """The row of the plan of three models; each sample begins with an empty cache."""
    row = Row({"models": len(_MODELS), "layers": n_layers})
    hub = Hub()
    for number, name in enumerate(_MODELS):
        hub.model(name, files(n_layers) | {"number.txt": str(number).encode()})
    with serving(hub) as address:
        for _ in range(repeat):
            with tempfile.TemporaryDirectory() as home, asked_at(address, Path(home)):
                hub.n_bytes, before = 0, len(hub.requests)
                ended = child.run([sys.executable, "-m", "tallies", "plan", *_REQUEST])
            if f"{2 + 9 * n_layers + 1} merged" not in ended.output:
                raise RuntimeError(f"the plan does not merge all tensors: {ended.output}")
            row.samples.append(ended.seconds)
            row.facts |= {
                "bytes_from_the_hub": hub.n_bytes,
                "requests": len(hub.requests) - before,
                "shards": sum(".safetensors" in name for name in files(n_layers)) - 1,
                "peak_bytes": ended.peak_bytes,
            }
    return [row]


def show(rows: Sequence[Row]) -> str:
    """The rows as a table."""
    body = [
        [
            f"{row.case['models']} of {row.facts['shards']} shards",
            f"{row.seconds:.2f}",
            f"{row.facts['bytes_from_the_hub'] / 1e6:.2f}",
            str(row.facts["requests"]),
            f"{row.facts['peak_bytes'] / 2**20:.0f}",
        ]
        for row in rows
    ]
    return table(["plan of models", "s", "MB from the hub", "requests", "peak MiB"], body)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the benchmark that the command line asks for."""
    parser = argparse.ArgumentParser(prog="python -m bench.hub", description=__doc__)
    parser.add_argument("--repeat", type=int, default=5, help="samples; default: 5")
    parser.add_argument("--layers", type=int, default=80, help="of each model; default: 80")
    parser.add_argument("--name", default="hub", help="of the result; default: hub")
    asked = parser.parse_args(arguments)
    rows = run(asked.repeat, asked.layers)
    print(show(rows))
    note(f"written: {save(asked.name, rows, {'repeat': asked.repeat}).name}")


if __name__ == "__main__":
    main()
