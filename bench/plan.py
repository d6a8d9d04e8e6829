"""Times the plan of a merge of the largest models, whose headers are there and whose data are not.

python -m bench.plan [--repeat N] [--layers N] [--name NAME]

The base and two experts have the shapes of DeepSeek V3 in bfloat16, 671e9 parameters in shards of
10 GB. The shards are sparse: they take the space of their headers.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from .support import child
from .support.harness import Row, note, save, table

_MODELS = ("base", "one", "two")
_SHARD_BYTES = 10 * 10**9
_DENSE_LAYERS = 3
_EXPERTS = 257


def tensors(n_layers: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    """The names and shapes of a model."""
    hidden, inner, small, vocabulary = 7168, 18432, 2048, 129280
    yield "model.embed_tokens.weight", (vocabulary, hidden)
    for layer in range(n_layers):
        prefix = f"model.layers.{layer}."
        yield f"{prefix}input_layernorm.weight", (hidden,)
        yield f"{prefix}self_attn.q_a_proj.weight", (1536, hidden)
        yield f"{prefix}self_attn.q_b_proj.weight", (24576, 1536)
        yield f"{prefix}self_attn.kv_a_proj_with_mqa.weight", (576, hidden)
        yield f"{prefix}self_attn.kv_b_proj.weight", (32768, 512)
        yield f"{prefix}self_attn.o_proj.weight", (hidden, 16384)
        if layer < _DENSE_LAYERS:
            yield from _mlp(f"{prefix}mlp.", hidden, inner)
            continue
        yield f"{prefix}mlp.gate.weight", (256, hidden)
        for expert in range(_EXPERTS):
            yield from _mlp(f"{prefix}mlp.experts.{expert}.", hidden, small)
    yield "model.norm.weight", (hidden,)
    yield "lm_head.weight", (vocabulary, hidden)


def _mlp(prefix: str, hidden: int, inner: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield f"{prefix}gate_proj.weight", (inner, hidden)
    yield f"{prefix}up_proj.weight", (inner, hidden)
    yield f"{prefix}down_proj.weight", (hidden, inner)


def write(directory: Path, n_layers: int) -> int:
    """Write the headers of a model in files as long as the model's, and return their number."""
    directory.mkdir()
    shards: list[dict[str, object]] = [{}]
    ends = [0]
    for name, shape in tensors(n_layers):
        n_bytes = 2
        for size in shape:
            n_bytes *= size
        if ends[-1] + n_bytes > _SHARD_BYTES:
            shards.append({})
            ends.append(0)
        place = [ends[-1], ends[-1] + n_bytes]
        shards[-1][name] = {"dtype": "BF16", "shape": shape, "data_offsets": place}
        ends[-1] += n_bytes
    placed = {}
    for number, (shard, end) in enumerate(zip(shards, ends, strict=True), 1):
        file = f"model-{number:05}-of-{len(shards):05}.safetensors"
        placed |= dict.fromkeys(shard, file)
        text = json.dumps(shard).encode()
        with open(directory / file, "wb") as out:
            out.write(len(text).to_bytes(8, "little") + text)
            out.truncate(8 + len(text) + end)
    index = {"metadata": {"total_size": sum(ends)}, "weight_map": placed}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index))
    return len(shards)


def run(repeat: int, n_layers: int) -> list[Row]:
    """The row of the plan of three models."""
    n_tensors = sum(1 for _ in tensors(n_layers))
    row = Row({"models": len(_MODELS), "tensors": n_tensors})
    with tempfile.TemporaryDirectory() as name:
        base, *experts = (Path(name) / model for model in _MODELS)
        shards = [write(path, n_layers) for path in (base, *experts)]
        command = [sys.executable, "-m", "tallies", "plan", "--method", "ties", "--base", str(base)]
        command += [word for path in experts for word in ("--model", str(path))]
        for _ in range(repeat):
            ended = child.run(command)
            if f"{n_tensors} merged" not in ended.output:
                raise RuntimeError(f"the plan does not merge all tensors: {ended.output}")
            row.samples.append(ended.seconds)
            row.facts |= {
                "shards": shards[0],
                "cpu_seconds": ended.cpu_seconds,
                "peak_bytes": ended.peak_bytes,
            }
    return [row]


def show(rows: Sequence[Row]) -> str:
    """The rows as a table."""
    body = [
        [
            f"{row.case['models']} of {row.case['tensors']} tensors in {row.facts['shards']} files",
            f"{row.seconds:.2f}",
            f"{row.facts['cpu_seconds']:.2f}",
            f"{row.facts['peak_bytes'] / 2**20:.0f}",
        ]
        for row in rows
    ]
    return table(["plan of models", "s", "CPU s", "peak MiB"], body)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the benchmark that the command line asks for."""
    parser = argparse.ArgumentParser(prog="python -m bench.plan", description=__doc__)
    parser.add_argument("--repeat", type=int, default=5, help="samples; default: 5")
    parser.add_argument("--layers", type=int, default=61, help="of each model; default: 61")
    parser.add_argument("--name", default="plan", help="of the result; default: plan")
    asked = parser.parse_args(arguments)
    rows = run(asked.repeat, asked.layers)
    print(show(rows))
    note(f"written: {save(asked.name, rows, {'repeat': asked.repeat}).name}")


if __name__ == "__main__":
    main()
