"""How many bits a store takes, with the tensors of CLIP ViT-B/32, against the paper's formula."""

from __future__ import annotations

import json
import math
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from .support import child
from .support.harness import Row, note, table
from .support.runs import size, tensor_files

N_TASKS = 20
_MOST_OF_FORMULA = 1.01
_WIDTH, _LAYERS, _EMBEDDING = 768, 12, 512
_TEXT_WIDTH, _TOKENS, _POSITIONS = 512, 49408, 77
# Random numbers are drawn for so many elements and repeated: values do not change a size.
_BLOCK_ELEMENTS = 1 << 20

Shapes = Mapping[str, tuple[int, ...]]


def _image_encoder() -> Shapes:
    shapes: dict[str, tuple[int, ...]] = {
        "visual.class_embedding": (_WIDTH,),
        "visual.conv1.weight": (_WIDTH, 3, 32, 32),
        "visual.positional_embedding": (50, _WIDTH),
        "visual.proj": (_WIDTH, _EMBEDDING),
    }
    for norm in ("ln_pre", "ln_post"):
        shapes |= {f"visual.{norm}.{kind}": (_WIDTH,) for kind in ("weight", "bias")}
    for layer in range(_LAYERS):
        block = f"visual.transformer.resblocks.{layer}."
        for name, n_out, n_in in (
            ("attn.in_proj_", 3 * _WIDTH, _WIDTH),
            ("attn.out_proj.", _WIDTH, _WIDTH),
            ("mlp.c_fc.", 4 * _WIDTH, _WIDTH),
            ("mlp.c_proj.", _WIDTH, 4 * _WIDTH),
        ):
            shapes |= {f"{block}{name}weight": (n_out, n_in), f"{block}{name}bias": (n_out,)}
        for norm in ("ln_1", "ln_2"):
            shapes |= {f"{block}{norm}.{kind}": (_WIDTH,) for kind in ("weight", "bias")}
    return shapes


TRAINED = _image_encoder()
"""The image encoder: 87,849,216 parameters."""

FROZEN: Shapes = {
    "logit_scale": (),
    "ln_final.weight": (_TEXT_WIDTH,),
    "ln_final.bias": (_TEXT_WIDTH,),
    "positional_embedding": (_POSITIONS, _TEXT_WIDTH),
    "text_projection": (_TEXT_WIDTH, _EMBEDDING),
    "token_embedding.weight": (_TOKENS, _TEXT_WIDTH),
}
"""The rest of CLIP when the text is encoded once: 25,599,489 parameters."""


def n_parameters(shapes: Shapes) -> int:
    """Elements of all tensors."""
    return sum(math.prod(shape) for shape in shapes.values())


def measure(
    directory: Path, trained: Shapes, frozen: Shapes, n_threads: int, n_tasks: int = N_TASKS
) -> list[Row]:
    """Rows of a store of tall whose shared vector is float32, and bfloat16.

    All tasks are one directory under several names. All files are removed again. RuntimeError
    where the report does not count the parameters as they are.
    """
    home = directory / "sizes"
    shutil.rmtree(home, ignore_errors=True)
    try:
        base, tasks = _models(home, trained, frozen, n_tasks)
        return [
            _measure(home / "store", base, tasks, dtype, trained, frozen, n_threads)
            for dtype in ("F32", "BF16")
        ]
    finally:
        shutil.rmtree(home, ignore_errors=True)


def _models(
    home: Path, trained: Shapes, frozen: Shapes, n_tasks: int
) -> tuple[Path, Mapping[str, Path]]:
    note(f"{n_tasks} tasks of {n_parameters(trained):,} trained parameters")
    noise = np.random.default_rng(0).standard_normal(_BLOCK_ELEMENTS, np.float32)
    zeros = {name: np.zeros(shape, np.float32) for name, shape in {**trained, **frozen}.items()}
    base, expert = home / "base", home / "expert"
    for path in (base, expert):
        path.mkdir(parents=True)
    save_file(zeros, base / "model.safetensors")
    tuned = {name: np.resize(noise, shape) for name, shape in trained.items()}
    save_file({**zeros, **tuned}, expert / "model.safetensors")
    tasks = {f"task-{i + 1}": home / f"expert-{i + 1}" for i in range(n_tasks)}
    for path in tasks.values():
        path.symlink_to(expert, target_is_directory=True)
    return base, tasks


def _measure(
    store: Path,
    base: Path,
    tasks: Mapping[str, Path],
    dtype: str,
    trained: Shapes,
    frozen: Shapes,
    n_threads: int,
) -> Row:
    tallies = (sys.executable, "-m", "tallies")
    command = [
        *(*tallies, "pack", "--base", str(base), "--out", str(store), "--overwrite"),
        *(word for name, path in tasks.items() for word in ("--task", f"{name}={path}")),
        *("--param", f"shared_dtype={dtype}", "--threads", str(n_threads), "--json"),
    ]
    ended = child.run(command)
    report = json.loads(ended.output)
    child.run([*tallies, "verify", str(store), "--json"])
    n_trained, n_frozen = n_parameters(trained), n_parameters(frozen)
    formula = (64 + len(tasks)) * n_trained + 32 * n_frozen
    wanted = (n_trained, n_frozen, formula)
    found = (
        report["parameters_trained"],
        report["parameters_frozen"],
        report["paper_bits"]["store"],
    )
    if found != wanted:
        raise RuntimeError(
            f"the report counts {found} trained and frozen parameters and bits of the formula, "
            f"expected {wanted}"
        )
    whole = [*tensor_files(base), *(path for path in store.rglob("*") if path.is_file())]
    case: dict[str, str | int] = {
        "job": "size of tall",
        "shared": dtype,
        "parameters": n_trained + n_frozen,
        "tasks": len(tasks),
        "threads": n_threads,
    }
    facts = {
        "base_and_store_bits": 8 * size(whole),
        "expert_bits": 8 * report["expert_bytes"],
        "formula_bits": formula,
        "of_formula": 8 * size(whole) / formula,
        "ratio": report["ratio"],
        "bits_per_parameter_and_task": report["bits_per_parameter_and_task"],
        **({"target_of_formula": _MOST_OF_FORMULA} if dtype == "F32" else {}),
        "peak_bytes": ended.peak_bytes,
    }
    return Row(case, [ended.seconds], report["bytes_read"] + report["n_bytes"], facts)


def show(rows: Sequence[Row]) -> str:
    """The rows as a table. Gbit are 10^9 bits; the formula is (64 + T) P' + 32 F."""
    head = ["job", "shared", "tasks", "Gbit", "formula", "of formula", "target", "times less"]
    body = []
    for row in rows:
        facts = row.facts
        target = facts.get("target_of_formula")
        body.append(
            [
                *(str(row.case[axis]) for axis in ("job", "shared", "tasks")),
                *(f"{facts[key] / 1e9:.3f}" for key in ("base_and_store_bits", "formula_bits")),
                f"{facts['of_formula']:.4f}",
                f"{target}" if target else "-",
                f"{facts['ratio']:.2f}",
            ]
        )
    return table(head, body)
