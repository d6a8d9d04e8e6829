"""Reading checkpoints and laying out new ones, held against the stock safetensors library."""

from __future__ import annotations

import copy
import json
import math
import os
import subprocess
import sys
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import safetensors
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save

from tallies.checkpoint.checkpoint import Checkpoint
from tallies.checkpoint.json_text import MAX_HEADER_BYTES
from tallies.checkpoint.layout import (
    ALIGNMENT,
    INDEX_NAME,
    Entry,
    header,
    index_json,
    layout_shards,
    tensor_bytes,
)
from tallies.checkpoint.opening import open_model
from tallies.checkpoint.quantised import refuse_quantised
from tallies.checkpoint.safetensors import read_header
from tallies.checkpoint.tied import tied_pairs
from tallies.errors import InputError, StorageError
from tallies.messages import show
from tallies.sizes import parse_size
from tallies.spec.dtypes import DTYPES, FLOATS
from tests.support import corrupt

TORCH = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U64": torch.uint64,
    "U32": torch.uint32,
    "U16": torch.uint16,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}

text = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
tensor_names = text.filter(lambda name: name != "__metadata__")
shapes = st.lists(st.integers(0, 5), max_size=4).map(tuple)
metadatas = st.dictionaries(text, text, max_size=3)
entries: st.SearchStrategy[list[Entry]] = st.lists(
    st.tuples(tensor_names, st.sampled_from(sorted(DTYPES)), shapes),
    max_size=8,
    unique_by=lambda entry: entry[0],
)


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file to be written over and over."""
    return tmp_path_factory.mktemp("scratch") / "model.safetensors"


def filler(tensors: Sequence[Entry]) -> list[bytes]:
    """Data for each tensor, different ones for each."""
    return [
        bytes((17 * i + j) % 256 for j in range(tensor_bytes(tensor)))
        for i, tensor in enumerate(tensors)
    ]


def write(path: Path, tensors: Sequence[Entry], metadata: dict[str, str] | None = None) -> None:
    """A file as the library lays it out."""
    head, offsets = header(tensors, metadata)
    data = filler(tensors)
    content = bytearray(head.ljust(len(head) + sum(map(len, data)), b"\xee"))
    for offset, part in zip(offsets, data, strict=True):
        content[offset : offset + len(part)] = part
    path.write_bytes(content)


def write_model(root: Path, tensors: Sequence[Entry], config: object = None) -> Checkpoint:
    write(root / "model.safetensors", tensors)
    if config is not None:
        (root / "config.json").write_text(json.dumps(config))
    return Checkpoint.open(root)


def stock_read(content: bytes) -> dict[str, tuple[str, tuple[int, ...], bytes]]:
    """dtype, shape and data of each tensor, as the stock library reads them."""
    tensors = safetensors.deserialize(content)  # type: ignore[no-untyped-call]
    return {
        name: (value["dtype"], tuple(value["shape"]), bytes(value["data"]))
        for name, value in tensors
    }


def assert_plain(error: BaseException) -> None:
    """One line that a terminal can show."""
    message = str(error)
    assert message.isprintable()
    assert len(message) < 2000


# Agreement with the stock library


@given(entries, metadatas)
def test_reads_what_the_stock_library_writes(
    scratch: Path, tensors: list[Entry], metadata: dict[str, str]
) -> None:
    data = filler(tensors)
    stock = {
        name: torch.tensor(list(part), dtype=torch.uint8).view(TORCH[dtype]).reshape(shape)
        for (name, dtype, shape), part in zip(tensors, data, strict=True)
    }
    content = save(stock, metadata or None)
    scratch.write_bytes(content)
    checkpoint = Checkpoint.open(scratch)
    assert checkpoint.metadata == metadata
    assert checkpoint.n_bytes == sum(map(len, data))
    assert list(checkpoint.tensors) == sorted((t[0] for t in tensors), key=str.encode)
    for (name, dtype, shape), part in zip(tensors, data, strict=True):
        tensor = checkpoint.tensors[name]
        assert (tensor.name, tensor.dtype, tensor.shape) == (name, dtype, shape)
        assert (tensor.path, tensor.n_bytes) == (scratch, len(part))
        assert tensor.n_elements * DTYPES[dtype] == len(part)
        assert content[tensor.offset : tensor.offset + tensor.n_bytes] == part


@given(entries, metadatas)
def test_stock_library_reads_what_header_lays_out(
    scratch: Path, tensors: list[Entry], metadata: dict[str, str]
) -> None:
    write(scratch, tensors, metadata)
    content = scratch.read_bytes()
    expected = {t[0]: (t[1], t[2], d) for t, d in zip(tensors, filler(tensors), strict=True)}
    assert stock_read(content) == expected
    with safetensors.safe_open(scratch, framework="numpy") as file:
        assert (file.metadata() or {}) == metadata
    checkpoint = Checkpoint.open(scratch)
    for name, (dtype, shape, data) in expected.items():
        tensor = checkpoint.tensors[name]
        assert (tensor.dtype, tensor.shape) == (dtype, shape)
        assert content[tensor.offset : tensor.offset + tensor.n_bytes] == data


@pytest.mark.parametrize("case", corrupt.FILES.values(), ids=corrupt.FILES.keys())
def test_broken_file_is_refused(tmp_path: Path, case: corrupt.BrokenFile) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(case.content)
    for place in (path, tmp_path):
        with pytest.raises(InputError) as caught:
            Checkpoint.open(place)
        assert str(caught.value).startswith(f"{path}: ")
        assert case.message in str(caught.value)
        assert_plain(caught.value)
    if case.stock:
        with pytest.raises(safetensors.SafetensorError):
            stock_read(case.content)
    else:
        stock_read(case.content)


def agree_or_refuse(path: Path, content: bytes) -> None:
    """Either we refuse in one line, or the stock library reads the same tensors."""
    path.write_bytes(content)
    try:
        tensors, _ = read_header(path)
    except InputError as error:
        assert_plain(error)
        return
    assert stock_read(content) == {
        t.name: (t.dtype, t.shape, content[t.offset : t.offset + t.n_bytes]) for t in tensors
    }


@given(st.binary(max_size=200))
def test_random_bytes(scratch: Path, content: bytes) -> None:
    agree_or_refuse(scratch, content)
    agree_or_refuse(scratch, corrupt.file_bytes(content))


numbers = st.integers(-1, 17) | st.sampled_from([-0.0, 1.0, 1e999, 2**31, 2**63, 2**64, 10**30])
odd_json = st.recursive(
    st.none() | st.booleans() | numbers | st.sampled_from(["", "F32", "4"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.just("dtype"), inner),
    max_leaves=4,
)
SOUND: dict[str, Any] = {
    "a": corrupt.entry(0, 4, shape=[1]),
    "b": corrupt.entry(4, 16, dtype="BF16", shape=[2, 3]),
    "c": corrupt.entry(16, 16, dtype="I64", shape=[0, 7]),
    "__metadata__": {"format": "pt"},
}
places = st.sampled_from(
    [(name, key, i) for name in "abc" for key in SOUND["a"] for i in (0, 1, None)]
    + [("__metadata__", "format", None)]
    + [(name, None, None) for name in SOUND]
)


def n_items(value: object) -> int:
    return len(value) if isinstance(value, list) else 0


@st.composite
def odd_headers(draw: st.DrawFn) -> tuple[object, bytes]:
    """The header of a sound file of 16 bytes, some of its values, at any depth, replaced."""
    root = {"": copy.deepcopy(SOUND)}
    for place in draw(st.lists(places, max_size=3)):
        at: Any = root
        last: Any = ""
        for step in place:
            inner = at[last]
            if step in (inner if isinstance(inner, dict) else range(n_items(inner))):
                at, last = inner, step
        at[last] = draw(numbers if isinstance(at[last], int) else odd_json)
    return root[""], bytes(draw(st.sampled_from([16, 15, 17, 0, 4])))


@given(odd_headers())
def test_odd_headers(scratch: Path, case: tuple[object, bytes]) -> None:
    agree_or_refuse(scratch, corrupt.file_bytes(*case))


@given(entries, st.data())
def test_damaged_bytes(scratch: Path, tensors: list[Entry], data: st.DataObject) -> None:
    write(scratch, tensors, {"format": "pt"})
    content = bytearray(scratch.read_bytes())
    alphabet = st.binary(min_size=1, max_size=2) | st.sampled_from([b'"', b"-", b"0", b"[", b"\\"])
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(content) - 1))
        replaced = data.draw(st.integers(0, 2))
        content[at : at + replaced] = data.draw(alphabet)
    agree_or_refuse(scratch, bytes(content))


@given(entries.filter(len), st.data())
def test_truncated_file_is_refused(
    scratch: Path, tensors: list[Entry], data: st.DataObject
) -> None:
    write(scratch, tensors)
    content = scratch.read_bytes()
    scratch.write_bytes(content[: data.draw(st.integers(0, len(content) - 1))])
    with pytest.raises(InputError, match="truncated: has "):
        read_header(scratch)


# Directories


@pytest.mark.parametrize("case", corrupt.DIRECTORIES.values(), ids=corrupt.DIRECTORIES.keys())
def test_broken_directory_is_refused(tmp_path: Path, case: tuple[Any, str]) -> None:
    make, message = case
    root = tmp_path / "model"
    root.mkdir()
    make(root)
    with pytest.raises(InputError) as caught:
        Checkpoint.open(root)
    assert message in str(caught.value)
    assert str(caught.value).startswith(str(root))
    assert_plain(caught.value)


@given(entries.filter(lambda tensors: len(tensors) > 1), st.integers(1, 200))
def test_shards_read_back(
    tmp_path_factory: pytest.TempPathFactory, tensors: list[Entry], max_shard_bytes: int
) -> None:
    root = tmp_path_factory.mktemp("shards")
    shards = layout_shards(tensors, max_shard_bytes)
    for shard in shards:
        write(root / shard.name, shard.tensors, {"format": "pt", "part": shard.name})
    if len(shards) > 1:
        (root / INDEX_NAME).write_bytes(index_json(shards))
    checkpoint = Checkpoint.open(os.fspath(root))
    assert checkpoint.path == root
    assert checkpoint.files == tuple(root / shard.name for shard in shards)
    assert checkpoint.metadata == {"format": "pt", "part": shards[0].name}
    assert list(checkpoint.tensors) == sorted(t[0] for t in tensors)
    for name, dtype, shape in tensors:
        tensor = checkpoint.tensors[name]
        assert (tensor.dtype, tensor.shape) == (dtype, shape)
    assert checkpoint.n_bytes == sum(tensor_bytes(tensor) for tensor in tensors)


def test_shards_in_a_folder_and_other_files(tmp_path: Path) -> None:
    (tmp_path / "part").mkdir()
    corrupt.write_file(tmp_path / "part" / "one.safetensors", "b")
    corrupt.write_file(tmp_path / "two.safetensors", "a", "c")
    corrupt.write_file(tmp_path / "consolidated.safetensors", "x")
    places = {"a": "./two.safetensors", "b": "part/one.safetensors", "c": "two.safetensors"}
    corrupt.write_index(tmp_path, places)
    checkpoint = Checkpoint.open(tmp_path)
    assert {name: tensor.path for name, tensor in checkpoint.tensors.items()} == {
        name: tmp_path / place for name, place in places.items()
    }


def test_hub_cache_of_links(tmp_path: Path) -> None:
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshots" / "main"
    blobs.mkdir()
    snapshot.mkdir(parents=True)
    corrupt.write_file(blobs / "1a", "a")
    corrupt.write_file(blobs / "2b", "b")
    (blobs / "3c").write_text('{"model_type": "llama"}')
    (snapshot / "model-1.safetensors").symlink_to("../../blobs/1a")
    (snapshot / "model-2.safetensors").symlink_to("../../blobs/2b")
    (snapshot / "config.json").symlink_to("../../blobs/3c")
    corrupt.write_index(snapshot, {"a": "model-1.safetensors", "b": "model-2.safetensors"})
    checkpoint = Checkpoint.open(snapshot)
    assert [tensor.path.name for tensor in checkpoint.tensors.values()] == [
        "model-1.safetensors",
        "model-2.safetensors",
    ]
    assert checkpoint.config() == {"model_type": "llama"}
    assert checkpoint.auxiliary_files() == [Path("config.json")]
    assert Checkpoint.open(snapshot / "model-2.safetensors").tensors.keys() == {"b"}


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("", "'': expected a directory"),
        ("absent", "no such file or directory; expected a directory or a .safetensors file"),
        ("model\0", "no such file or directory"),
        ("x" * 5000, "no such file or directory"),
        ("model+adapter", "merge the adapter into its model first"),
        ("model.gguf", "expected a .safetensors file or a directory; convert"),
        ("blob", "expected a .safetensors file or a directory"),
        (INDEX_NAME, "is an index; give the directory that holds it"),
        ("adapter_model.safetensors", "is an adapter"),
    ],
)
def test_path_of_another_kind(
    tmp_path: Path, name: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for existing in ("model.gguf", "blob", INDEX_NAME, "adapter_model.safetensors"):
        (tmp_path / existing).write_bytes(b"{}")
    with pytest.raises(InputError) as caught:
        Checkpoint.open(name)
    assert message in str(caught.value)


def test_a_plus_in_a_name_is_no_adapter(tmp_path: Path) -> None:
    root = tmp_path / "c++"
    root.mkdir()
    assert write_model(root, [("a", "F32", (1,))]).tensors.keys() == {"a"}


def test_a_pipe_is_refused_without_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "model.safetensors")
    with pytest.raises(InputError, match="expected a directory or a"):
        Checkpoint.open(tmp_path / "model.safetensors")
    with pytest.raises(InputError, match="holds no"):
        Checkpoint.open(tmp_path)


def test_unreadable_file_is_a_storage_error(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="cannot be read"):
        read_header(tmp_path)


def test_denied_access_is_a_storage_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def deny(path: Path, *_: object) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    checkpoint = write_model(tmp_path, [], {})
    with monkeypatch.context() as patch:
        patch.setattr("os.scandir", deny)
        with pytest.raises(StorageError, match="cannot be read: Permission denied"):
            Checkpoint.open(tmp_path)
        with pytest.raises(StorageError, match="cannot be read: Permission denied"):
            checkpoint.auxiliary_files()
    monkeypatch.setattr("tallies.checkpoint.json_text.open", deny, raising=False)
    with pytest.raises(StorageError, match=r"config\.json: cannot be read: Permission denied"):
        checkpoint.config()


def test_file_that_shrinks_is_a_storage_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes((100).to_bytes(8, "little") + b"{}")
    monkeypatch.setattr("os.fstat", lambda _: SimpleNamespace(st_size=1000))
    with pytest.raises(StorageError, match="shrank while it was read"):
        read_header(path)


def test_fifty_thousand_tensors_in_shards(tmp_path: Path) -> None:
    tensors = [
        (f"model.layers.{i // 800}.mlp.experts.{i % 800}.down_proj.weight", "BF16", (1, 2))
        for i in range(50_000)
    ]
    shards = layout_shards(tensors, 50_000)
    assert len(shards) == 4
    for shard in shards:
        write(tmp_path / shard.name, shard.tensors)
    (tmp_path / INDEX_NAME).write_bytes(index_json(shards))
    checkpoint = Checkpoint.open(tmp_path)
    assert [*checkpoint.tensors] == sorted(name for name, _, _ in tensors)


def test_import_needs_neither_numpy_nor_torch() -> None:
    code = (
        "import sys, tallies.checkpoint.checkpoint, tallies.checkpoint.layout; "
        "print(sorted({'numpy', 'torch', 'safetensors'} & sys.modules.keys()))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout == "[]\n"


# What lies beside the weights


def test_auxiliary_files(tmp_path: Path) -> None:
    kept = [
        "README.md",
        "chat_template.jinja",
        "config.json",
        "merges.txt",
        "original/params.json",
        "original/tokenizer.model",
        "tokenizer.json",
    ]
    left = [
        ".gitattributes",
        ".cache/huggingface/download/config.json.metadata",
        "original/.hidden",
        "original/consolidated.00.pth",
        "tallies.json",
        "model-1.safetensors",
        "model-1.SAFETENSORS",
        "model.safetensors.index.fp16.json",
        "pytorch_model-00001-of-00002.bin",
        "pytorch_model.bin.index.json",
        "tf_model.h5",
        "flax_model.msgpack.index.json",
        "onnx/model.onnx",
        "onnx/model.onnx_data",
        *(f"weights.{suffix}" for suffix in ("pt", "ckpt", "gguf", "npz", "pkl")),
    ]
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret.json").write_text("{}")
    root = tmp_path / "model"
    for name in kept + left:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("{}")
    corrupt.write_file(root / "model-1.safetensors", "a")
    corrupt.write_index(root, {"a": "model-1.safetensors"})
    (root / "folder").symlink_to(outside)
    (root / "vocab.json").symlink_to(outside / "secret.json")
    checkpoint = Checkpoint.open(root)
    assert checkpoint.auxiliary_files() == sorted(map(Path, [*kept, "vocab.json"]))
    alone = Checkpoint.open(root / "model-1.safetensors")
    assert alone.auxiliary_files() == []
    assert alone.config() == {}

    (root / "lost.json").symlink_to(outside / "nothing")
    with pytest.raises(InputError, match=r"lost\.json: is a link to nothing"):
        checkpoint.auxiliary_files()


def test_config(tmp_path: Path) -> None:
    assert write_model(tmp_path, []).config() == {}
    path = tmp_path / "config.json"
    checkpoint = Checkpoint.open(tmp_path)
    path.write_text('{"time_step_limit": [0.0, Infinity], "n": 1, "n": %s}' % ("9" * 5000))
    assert checkpoint.config() == {"time_step_limit": [0.0, math.inf], "n": math.inf}
    for broken in ("[]", "", "[" * 100_000, "{}}"):
        path.write_text(broken)
        with pytest.raises(InputError, match=r"config\.json: "):
            checkpoint.config()


def test_files_beyond_the_bound_are_not_read(tmp_path: Path) -> None:
    checkpoint = write_model(tmp_path, [], {})
    os.truncate(tmp_path / "config.json", MAX_HEADER_BYTES + 1)
    with pytest.raises(InputError, match=f"expected JSON of at most {MAX_HEADER_BYTES} bytes"):
        checkpoint.config()


# What cannot be merged


@pytest.mark.parametrize("dtype", ["F8_E4M3", "F8_E5M2"])
@pytest.mark.parametrize(
    ("name", "scale"),
    [
        ("a.weight", "a.input_scale"),
        ("a.weight", "a.scale_weight"),
        ("a.weight", "a.scale"),
    ],
)
def test_scales_of_other_names_are_refused_across_shards(
    tmp_path: Path, dtype: str, name: str, scale: str
) -> None:
    write(tmp_path / "1.safetensors", [(name, dtype, (2, 2)), ("b.weight", dtype, (1,))])
    write(tmp_path / "2.safetensors", [(scale, "F32", (1,))])
    places = {name: "1.safetensors", "b.weight": "1.safetensors", scale: "2.safetensors"}
    corrupt.write_index(tmp_path, places)
    with pytest.raises(InputError) as caught:
        open_model(str(tmp_path))
    assert str(caught.value) == (
        f"{tmp_path / '1.safetensors'}: tensor {name!r} is {dtype} with a scale tensor {scale!r}; "
        "scales of this name are not supported; dequantise the checkpoint to BF16 first"
    )


def test_plain_fp8_passes_unless_configured(tmp_path: Path) -> None:
    tensors = [
        ("a.weight", "F8_E4M3", (2,)),
        ("norm.scale", "F32", (2,)),
        ("b", "F32", ()),
        ("b_scale", "F32", ()),
    ]
    write_model(tmp_path, tensors)
    open_model(str(tmp_path))
    write_model(tmp_path, tensors, {"quantization_config": None})
    open_model(str(tmp_path))
    write_model(tmp_path, tensors, {"quantization_config": {"quant_method": "fp8"}})
    with pytest.raises(InputError, match=r"a\.weight.*with a quantization_config \('fp8'\)"):
        open_model(str(tmp_path))


@pytest.mark.parametrize(
    ("name", "tool"),
    [
        ("h.0.q.SCB", "bitsandbytes"),
        ("h.0.q.weight.absmax", "bitsandbytes"),
        ("h.0.q.weight.nested_quant_map", "bitsandbytes"),
        ("h.0.q.weight.quant_state.bitsandbytes__nf4", "bitsandbytes"),
        ("h.0.q.qweight", "GPTQ or AWQ"),
        ("h.0.q.qzeros", "GPTQ or AWQ"),
        ("h.0.q.weight_packed", "compressed-tensors"),
    ],
)
def test_quantised_names_are_refused(tmp_path: Path, name: str, tool: str) -> None:
    checkpoint = write_model(tmp_path, [("a.weight", "F16", (2,)), (name, "I32", (2,))])
    with pytest.raises(InputError, match=rf"tensor '{name}' was written by {tool}; .*original"):
        refuse_quantised(checkpoint)


@pytest.mark.parametrize(
    ("name", "scale"),
    [("a.weight", "a.weight_scale"), ("a.down_proj_blocks", "a.down_proj_scales")],
)
def test_scaled_bytes_are_refused(tmp_path: Path, name: str, scale: str) -> None:
    for dtype in ("I8", "U8"):
        checkpoint = write_model(tmp_path, [(name, dtype, (2,)), (scale, "U8", (1,))])
        with pytest.raises(
            InputError, match=f"'{name}' is {dtype} with the scale tensor '{scale}'"
        ):
            refuse_quantised(checkpoint)


@pytest.mark.parametrize(
    ("config", "found"),
    [
        ({"quantization_config": {"quant_method": "gptq"}}, r"quantization_config \('gptq'\)"),
        ({"text_config": {"quantization_config": {"bits": 4}}}, r"quantization_config \(None\)"),
        ({"compression_config": "x"}, r"compression_config \('x'\)"),
    ],
)
def test_quantised_configuration_is_refused(tmp_path: Path, config: object, found: str) -> None:
    checkpoint = write_model(tmp_path, [("a.weight", "F16", (2,))], config)
    with pytest.raises(InputError, match=rf"config\.json: has a {found}; .* or remove the key"):
        refuse_quantised(checkpoint)


def test_plain_weights_are_not_quantised(tmp_path: Path) -> None:
    tensors = [
        ("a.weight", "BF16", (2,)),
        ("a.weight_scale", "BF16", (1,)),
        ("mask", "U8", (2,)),
        ("scale", "F32", (1,)),
        ("x.mask", "I8", (2,)),
        ("x.scale", "F32", (1,)),
        ("absmax", "F32", (1,)),
    ]
    config: dict[str, object] = {
        "quantization_config": None,
        "text_config": {"quantization_config": {}},
    }
    refuse_quantised(write_model(tmp_path, tensors, config))


# Tied tensors

TIED = {"tie_word_embeddings": True}


@pytest.mark.parametrize(
    ("names", "pairs"),
    [
        (["lm_head.weight", "model.embed_tokens.weight"], [(0, 1)]),
        (["lm_head.weight", "transformer.wte.weight"], [(0, 1)]),
        (["lm_head.weight", "transformer.word_embeddings.weight"], [(0, 1)]),
        (["output.weight", "tok_embeddings.weight"], [(0, 1)]),
        (["embed_out.weight", "gpt_neox.embed_in.weight"], [(0, 1)]),
        (
            ["lm_head.weight", "encoder.embed_tokens.weight", "shared.weight"],
            [(0, 2)],
        ),
        (
            [
                "talker.lm_head.weight",
                "thinker.lm_head.weight",
                "talker.model.embed_tokens.weight",
                "thinker.model.embed_tokens.weight",
            ],
            [(0, 2), (1, 3)],
        ),
        (["h.0.output.weight", "wte.weight"], []),
        (["my_lm_head.weight", "wte.weight"], []),
        (["lm_head.weight", "other_wte.weight"], []),
        (["lm_head.weight"], []),
    ],
)
def test_tied_pairs(tmp_path: Path, names: list[str], pairs: list[tuple[int, int]]) -> None:
    checkpoint = write_model(tmp_path, [(name, "BF16", (4, 2)) for name in names], TIED)
    assert tied_pairs(checkpoint) == [(names[a], names[b]) for a, b in pairs]


@pytest.mark.parametrize(
    ("config", "tied"),
    [
        (TIED, True),
        ({"text_config": TIED}, True),
        ({"tie_word_embeddings": False, "llm_config": TIED}, True),
        ({"tie_word_embeddings": False}, False),
        ({"tie_word_embeddings": "yes"}, False),
        ({"vision_config": TIED}, False),
        ({"text_config": None}, False),
        ({}, False),
    ],
)
def test_tied_by_configuration_only(tmp_path: Path, config: object, tied: bool) -> None:
    tensors = [("lm_head.weight", "F32", (4, 2)), ("embed_tokens.weight", "F32", (4, 2))]
    assert bool(tied_pairs(write_model(tmp_path, tensors, config))) is tied


@pytest.mark.parametrize(("dtype", "shape"), [("F32", (2, 4)), ("F32", (5, 2)), ("F16", (4, 2))])
def test_tied_only_if_alike(tmp_path: Path, dtype: str, shape: tuple[int, ...]) -> None:
    tensors = [("lm_head.weight", "F32", (4, 2)), ("embed_tokens.weight", dtype, shape)]
    assert tied_pairs(write_model(tmp_path, tensors, TIED)) == []


# Layout


@given(entries, metadatas, st.randoms())
def test_header_is_aligned_and_canonical(
    tensors: list[Entry], metadata: dict[str, str], random: Any
) -> None:
    head, offsets = header(tensors, metadata)
    assert len(head) % ALIGNMENT == 0
    end = len(head)
    sizes = [tensor_bytes(tensor) for tensor in tensors]
    for offset, size, (_, dtype, _) in sorted(zip(offsets, sizes, tensors, strict=True)):
        assert offset % DTYPES[dtype] == 0
        assert offset == end
        end += size
    order = random.sample(range(len(tensors)), len(tensors))
    shuffled = dict(random.sample(sorted(metadata.items()), len(metadata)))
    assert header([tensors[i] for i in order], shuffled) == (head, [offsets[i] for i in order])


def test_header_bytes() -> None:
    head, offsets = header([("a", "U8", (3,)), ("é", "F32", (2,)), ("c", "F32", ())], {"b": "1"})
    text = (
        '{"__metadata__":{"b":"1"},"c":{"dtype":"F32","shape":[],"data_offsets":[0,4]},'
        '"é":{"dtype":"F32","shape":[2],"data_offsets":[4,12]},'
        '"a":{"dtype":"U8","shape":[3],"data_offsets":[12,15]}}'
    )
    assert head == (184 + 64).to_bytes(8, "little") + text.encode().ljust(184 + 64)
    assert offsets == [256 + 12, 256 + 4, 256]
    assert header([]) == ((56).to_bytes(8, "little") + b"{}".ljust(56), [])


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ([("a", "F32", (1,)), ("a", "U8", (1,))], "tensor 'a': expected a name of its own"),
        ([("__metadata__", "F32", (1,))], "tensor '__metadata__': expected a name of its own"),
        ([("a", "F4", (2,))], "tensor 'a': dtype 'F4'"),
        ([("a", "F32", (-1,))], r"tensor 'a': shape \(-1,\)"),
    ],
)
def test_header_refuses(tensors: list[Entry], message: str) -> None:
    with pytest.raises(InputError, match=message):
        header(tensors)


def test_header_beyond_the_limit_of_readers() -> None:
    with pytest.raises(InputError, match="write smaller shards"):
        header([("x" * MAX_HEADER_BYTES, "U8", ())])


@given(entries, st.integers(1, 300))
def test_shards_are_full_and_in_order(tensors: list[Entry], max_shard_bytes: int) -> None:
    shards = layout_shards(tensors, max_shard_bytes)
    assert [t for shard in shards for t in shard.tensors] == sorted(
        tensors, key=lambda tensor: tensor[0].encode()
    )
    n = len(shards)
    assert [shard.name for shard in shards] == (
        [f"model-{i + 1:05d}-of-{n:05d}.safetensors" for i in range(n)]
        if n > 1
        else ["model.safetensors"]
    )
    for shard in shards:
        assert shard.n_bytes == sum(tensor_bytes(t) for t in shard.tensors)
        assert shard.n_bytes <= max_shard_bytes or len(shard.tensors) == 1
    for shard, following in pairwise(shards):
        assert shard.n_bytes + tensor_bytes(following.tensors[0]) > max_shard_bytes


def test_shards_by_example() -> None:
    sizes = {"a": 4, "b": 6, "c": 1, "d": 30, "e": 2, "f": 8}
    shards = layout_shards([(name, "U8", (size,)) for name, size in sizes.items()], 10)
    assert ["".join(t[0] for t in shard.tensors) for shard in shards] == ["ab", "c", "d", "ef"]
    assert [shard.n_bytes for shard in shards] == [10, 1, 30, 10]
    for refused in (0, -1):
        with pytest.raises(InputError, match="expected at least one byte"):
            layout_shards([], refused)


def test_index_bytes() -> None:
    shards = layout_shards([("b", "U8", (2,)), ("a", "U8", (1,)), ("c", "U8", (3,))], 3)
    assert index_json(shards).decode() == (
        "{\n"
        '  "metadata": {\n'
        '    "total_size": 6\n'
        "  },\n"
        '  "weight_map": {\n'
        '    "a": "model-00001-of-00002.safetensors",\n'
        '    "b": "model-00001-of-00002.safetensors",\n'
        '    "c": "model-00002-of-00002.safetensors"\n'
        "  }\n"
        "}\n"
    )


@pytest.mark.parametrize(
    ("size", "n_bytes"),
    [
        (1, 1),
        ("1", 1),
        ("123456", 123456),
        ("5GB", 5 * 10**9),
        ("1GiB", 2**30),
        ("256MiB", 2**28),
        ("1 TiB", 2**40),
        (" 2 tb ", 2 * 10**12),
        ("7kB", 7000),
        ("7KiB", 7168),
        ("1.5GiB", 3 * 2**29),
        ("0.3GB", 300_000_000),
        ("0.0015KB", 1),
    ],
)
def test_parse_size(size: str | int, n_bytes: int) -> None:
    assert parse_size(size) == n_bytes


@pytest.mark.parametrize(
    "size",
    [
        *(0, -1, 2**63, True, 1.5, None, b"1GB", "", "GB", "-1GB", "0GB", "0.1", "5G", "5B", "1e9"),
        *("1,5GB", "5 G B", "1GBs", "٣GB", "1GB\n1GB", "9" * 5000, "9999999999TB", "auto"),
    ],
)
def test_parse_size_refuses(size: Any) -> None:
    with pytest.raises(InputError, match="expected such as '5GB', '1GiB', '256MiB' or 1000000"):
        parse_size(size)


def test_floats_are_dtypes() -> None:
    assert {name for name in DTYPES if "F" in name} == FLOATS


@given(st.text() | odd_json)
def test_show_is_one_short_line(value: object) -> None:
    assert show(value).isprintable()
    assert len(show(value)) < 500
