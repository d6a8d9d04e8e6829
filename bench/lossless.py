"""Times lossless stores beside ZipNN and plain copies, and byte coders on planes of weights.

python -m bench.lossless [--elements N] [--repeat N] [--directory DIR] [--name NAME]

Everything runs on one thread. Rates are of the processor time of this process, which other programs
disturb less than the clock. Weights are Gaussian in bfloat16; a fine-tune differs from them by
Gaussian steps, as sums of many steps of AdamW do. ZipNN, isal and deflate are measured where they
are installed.
"""

from __future__ import annotations

import argparse
import importlib
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from safetensors.numpy import load_file, save_file

from tallies import Store, pack
from tallies.coding import BLOCK, Fields, decode, encode
from tests.reference.fields import split

from .support.harness import Row, note, save, table

_SPREAD = np.float32(0.02)
_STEPS = (1e-4, 2e-4, 4e-4)
"""Standard deviations of what fine-tunes differ by."""
_ROWS = 1024
_SETTINGS: dict[str, Any] = {
    "strategy": 1,
    "window_log": 17,
    "hash_log": 6,
    "min_match": 7,
    "target_length": 0,
}


def models(n_elements: int) -> dict[str, Any]:
    """A base and fine-tunes of it, by name."""
    draw = np.random.default_rng(0)
    n_elements = -(-n_elements // _ROWS) * _ROWS
    base = _SPREAD * draw.standard_normal(n_elements, np.float32)
    base = base.astype(ml_dtypes.bfloat16)
    found = {"base": base}
    for step in _STEPS:
        moved = base.astype(np.float32) + np.float32(step) * draw.standard_normal(
            n_elements, np.float32
        )
        found[f"step {step:g}"] = moved.astype(ml_dtypes.bfloat16)
    return found


def _timed(run: Callable[[], object], repeat: int) -> list[float]:
    samples = []
    for _ in range(repeat):
        start = time.process_time()
        run()
        samples.append(time.process_time() - start)
    return samples


def _module(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError:
        note(f"{name} is not installed: not measured")
        return None


def _coders() -> dict[str, tuple[Callable[[bytes], bytes], Callable[[bytes], bytes]]]:
    """Functions that code and decode one plane, by name."""
    found: dict[str, Any] = {}
    zstd = _module("zstandard")
    for level in (-1, 1, 3, 5):
        coder, decoder = zstd.ZstdCompressor(level=level), zstd.ZstdDecompressor()
        found[f"zstandard {level}"] = coder.compress, decoder.decompress
    settings = zstd.ZstdCompressionParameters(**_SETTINGS, write_content_size=1)
    coder, decoder = zstd.ZstdCompressor(compression_params=settings), zstd.ZstdDecompressor()
    found["zstandard, few matches"] = coder.compress, decoder.decompress
    if (isal := _module("isal.isal_zlib")) is not None:
        for level in (0, 1):
            found[f"isal {level}"] = (
                lambda data, level=level: isal.compress(data, level),
                isal.decompress,
            )
    if (deflate := _module("deflate")) is not None:
        found["libdeflate 1"] = (
            lambda data: bytes(deflate.deflate_compress(data, 1)),
            lambda data: bytes(deflate.deflate_decompress(data, BLOCK)),
        )
    return found


def coders(weights: dict[str, Any], repeat: int) -> list[Row]:
    """Rows of byte coders on the planes that have something to code."""
    base, tuned = weights["base"], weights[f"step {_STEPS[-1]:g}"]
    planes = {
        "exponents": split(base[: 64 * BLOCK], "float")[1],
        "differences": split(tuned[: 64 * BLOCK], "difference", base[: 64 * BLOCK])[0],
    }
    rows = []
    for plane, data in planes.items():
        blocks = [data[first : first + BLOCK].tobytes() for first in range(0, data.size, BLOCK)]
        for name, (code, back) in _coders().items():
            coded = [code(block) for block in blocks]
            if [back(one) for one in coded] != blocks:
                raise RuntimeError(f"{name}: decodes to other bytes")
            ratio = data.size / sum(map(len, coded))
            for what, run in (
                ("code", lambda code=code, blocks=blocks: [code(one) for one in blocks]),
                ("decode", lambda back=back, coded=coded: [back(one) for one in coded]),
            ):
                samples = _timed(run, repeat)
                case = {"what": what, "of": plane, "by": name}
                rows.append(Row(case, samples, data.size, {"ratio": ratio}))
    return rows


def frames(weights: dict[str, Any], repeat: int) -> list[Row]:
    """Rows of coding in memory."""
    base, rows = weights["base"].view(np.uint16), []
    for name, array in weights.items():
        values = array.view(np.uint16)
        fields, other = (Fields.DIFFERENCE, base) if name != "base" else (Fields.FLOAT, None)
        coded = encode(values, 2, fields, base=other)
        out = np.empty_like(values)

        def back(
            coded: Any = coded, fields: Any = fields, other: Any = other, out: Any = out
        ) -> None:
            decode(coded.frames, coded.sizes, out.size, 2, fields, base=other, out=out)

        back()
        if not np.array_equal(out, values):
            raise RuntimeError(f"{name}: decodes to other elements")
        facts = {"ratio": values.nbytes / coded.n_bytes}
        for what, run in (
            ("encode", lambda v=values, f=fields, o=other: encode(v, 2, f, base=o)),
            ("decode", back),
        ):
            case = {"what": what, "of": name, "by": "frames in memory"}
            rows.append(Row(case, _timed(run, repeat), values.nbytes, facts))
    return rows


def stores(weights: dict[str, Any], root: Path, repeat: int) -> list[Row]:
    """Rows of packing and unpacking files, and of ZipNN on the same file."""
    for name, array in weights.items():
        (root / name).mkdir()
        part = -(-array.size // _ROWS // 8) * _ROWS
        tensors = {f"layer.{i}": array[i * part : (i + 1) * part] for i in range(8)}
        save_file(
            {key: one.reshape(-1, _ROWS) for key, one in tensors.items() if one.size},
            root / name / "model.safetensors",
        )
    cases: list[tuple[str, str, int, Callable[[], object], Callable[[], float]]] = []
    for name in weights:
        model, store, out = root / name, root / f"{name} store", root / f"{name} out"
        base = None if name == "base" else root / "base"
        n_bytes = (model / "model.safetensors").stat().st_size

        def packing(model: Path = model, base: Path | None = base, store: Path = store) -> None:
            shutil.rmtree(store, ignore_errors=True)
            pack(base, {"task": model}, store, codec="lossless", threads=1)

        def unpacking(store: Path = store, out: Path = out) -> None:
            shutil.rmtree(out, ignore_errors=True)
            Store.open(store, check_base=False).unpack("task", out, threads=1)

        def ratio(n_bytes: int = n_bytes, store: Path = store) -> float:
            return n_bytes / (store / "tasks" / "task.safetensors").stat().st_size

        cases += [
            ("pack", name, n_bytes, packing, ratio),
            ("unpack", name, n_bytes, unpacking, ratio),
        ]
    if (zipnn := _module("zipnn")) is not None:
        file, packed, back = (root / "base" / "model.safetensors", root / "znn", root / "back")
        coder = zipnn.ZipNN(bytearray_dtype="bfloat16", threads=1)
        n_bytes = file.stat().st_size
        cases += [
            (
                "pack",
                "base, by ZipNN",
                n_bytes,
                lambda: packed.write_bytes(coder.compress(bytearray(file.read_bytes()))),
                lambda: n_bytes / packed.stat().st_size,
            ),
            (
                "unpack",
                "base, by ZipNN",
                n_bytes,
                lambda: back.write_bytes(coder.decompress(packed.read_bytes())),
                lambda: n_bytes / packed.stat().st_size,
            ),
        ]
    rows = [
        Row({"what": what, "of": name, "by": "files"}, n_bytes=n_bytes)
        for what, name, n_bytes, *_ in cases
    ]
    for number in range(repeat + 1):
        for row, (_, _, _, run, ratio) in zip(rows, cases, strict=True):
            (sample,) = _timed(run, 1)
            row.facts["ratio"] = ratio()
            if number:
                row.samples.append(sample)
    for name, array in weights.items():
        found = load_file(root / f"{name} out" / "model.safetensors")
        whole = np.concatenate([found[key].ravel() for key in sorted(found)])
        if whole.tobytes() != array.tobytes():
            raise RuntimeError(f"{name}: unpacks to other elements")
    return rows


def show(rows: Sequence[Row]) -> str:
    """The rows as a table."""
    return table(
        ["what", "of", "by", "ratio", "GB/s of a core", "noise"],
        [
            [
                *(str(row.case[axis]) for axis in ("what", "of", "by")),
                f"{row.facts['ratio']:.3f}",
                f"{row.gb_per_second:.2f}",
                f"{row.noise:.0%}",
            ]
            for row in rows
        ],
    )


def run(n_elements: int, repeat: int, directory: Path | None = None) -> list[Row]:
    """All rows."""
    weights = models(n_elements)
    rows = coders(weights, repeat) + frames(weights, repeat)
    with tempfile.TemporaryDirectory(dir=directory) as root:
        return rows + stores(weights, Path(root), repeat)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the benchmark that the command line asks for."""
    parser = argparse.ArgumentParser(prog="python -m bench.lossless", description=__doc__)
    parser.add_argument("--elements", type=int, default=1 << 27, help="default: 2^27")
    parser.add_argument("--repeat", type=int, default=5, help="samples; default: 5")
    parser.add_argument("--directory", type=Path, help="for files; default: the system's temporary")
    parser.add_argument("--name", default="lossless", help="of the result; default: lossless")
    asked = parser.parse_args(arguments)
    rows = run(asked.elements, asked.repeat, asked.directory)
    print(show(rows))
    settings = {"elements": asked.elements, "repeat": asked.repeat, "time": "processor"}
    note(f"written: {save(asked.name, rows, settings).name}")


if __name__ == "__main__":
    main()
