"""Dtypes of a result, and the files beside its tensors."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from tallies import merge
from tallies.spec.dtypes import named
from tests.reference.linear import linear
from tests.reference.ties import ties_model
from tests.support import checkpoints
from tests.support.checkpoints import Model, assert_holds, data_bytes, write
from tests.support.merges import OUT_DTYPES, dyadic, f32, request

# Dtypes.


@pytest.mark.parametrize("out_dtype", list(OUT_DTYPES))
@pytest.mark.parametrize("method", ["linear", "ties"])
def test_every_output_dtype_of_every_input_dtype(
    tmp_path: Path, method: str, out_dtype: str
) -> None:
    rng = np.random.default_rng(2)
    kinds = list(OUT_DTYPES.values())
    base = {f"{i}": dyadic(rng, 100).astype(kind) for i, kind in enumerate(kinds)}
    # The experts' dtypes are those of other tensors of the base.
    experts = [
        {f"{i}": dyadic(rng, 100).astype(kinds[(i + shift) % len(kinds)]) for i in range(len(base))}
        for shift in (1, 3)
    ]
    paths = [write(tmp_path / str(i), model) for i, model in enumerate([base, *experts])]
    made = request(method, paths[1:], base=paths[0], out_dtype=out_dtype)
    merge(made, tmp_path / "out", nonfinite="propagate")
    kind = OUT_DTYPES[out_dtype]
    if method == "ties":
        expected = ties_model(base, experts, 0.2, out_dtype=kind)
    else:
        rows = {name: [expert[name] for expert in experts] for name in base}
        expected = {name: linear(rows[name], out_dtype=kind) for name in base}
    assert_holds(tmp_path / "out", expected)
    # dtype means the same; the report says what came out.
    del made["out_dtype"]
    report = merge({**made, "dtype": out_dtype}, tmp_path / "dtype", nonfinite="propagate")
    assert_holds(tmp_path / "dtype", expected)
    assert report.output.dtypes == {named(out_dtype): len(base)}


# Files beside the tensors.


AUXILIARY = {
    "config.json": b'{"model_type": "tiny"}\n',
    "tokenizer.json": b"{}",
    "tokenizer.model": bytes(range(256)),
    "NOTICE.md": "\N{GREEK SMALL LETTER LAMDA}\r\n".encode(),
    "1_Pooling/config.json": b'{"dimension": 3}',
    "assets/deep/vocab.txt": b"",
}

LEFT = {
    "pytorch_model.bin": b"x",
    "model.onnx": b"x",
    "tallies.json": b"{}",
    ".gitattributes": b"x",
    ".cache/x": b"x",
}


def with_files(root: Path, model: Model, files: Mapping[str, bytes]) -> Path:
    write(root, model)
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    return root


def test_files_beside_the_tensors_are_copied_byte_for_byte(tmp_path: Path) -> None:
    base = with_files(tmp_path / "base", {"w": f32(1, 2)}, {**AUXILIARY, **LEFT})
    expert = with_files(tmp_path / "expert", {"w": f32(3, 5)}, {"only_expert.json": b"{}"})
    report = merge(request("task_arithmetic", [expert], base=base), tmp_path / "out")
    found = data_bytes(tmp_path / "out")
    assert {**AUXILIARY, checkpoints.FILE: found[checkpoints.FILE]} == found
    assert sorted(report.auxiliary_files) == sorted(AUXILIARY)
    donated = merge(
        request("task_arithmetic", [expert], base=base, files_from=str(expert)), tmp_path / "other"
    )
    assert donated.auxiliary_files == ["only_expert.json"]
    assert data_bytes(tmp_path / "other").keys() == {checkpoints.FILE, "only_expert.json"}


def test_without_a_base_the_first_model_gives_the_files(tmp_path: Path) -> None:
    models = [with_files(tmp_path / str(i), {"w": f32(i)}, {f"{i}.json": b"{}"}) for i in range(2)]
    assert merge(request("linear", models), tmp_path / "out").auxiliary_files == ["0.json"]


def test_a_single_file_has_none(tmp_path: Path) -> None:
    (tmp_path / "other.json").write_text("{}")
    models = [write(tmp_path / f"{i}.safetensors", {"w": f32(i)}) for i in range(2)]
    assert merge(request("linear", models), tmp_path / "out").auxiliary_files == []
    assert data_bytes(tmp_path / "out").keys() == {checkpoints.FILE}
