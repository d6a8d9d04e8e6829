"""Files of ``torch.save``: what is read, and what is refused before any tensor data is read."""

from __future__ import annotations

import argparse
import collections
import io
import json
import math
import os
import pickle
import struct
import zipfile
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

import tallies
from tallies.checkpoint import strided
from tallies.checkpoint.checkpoint import Checkpoint
from tallies.checkpoint.data import chunks, read_range, same_bytes
from tallies.checkpoint.opening import as_model
from tallies.errors import InputError, StorageError, TalliesError
from tallies.inspection.checkpoints import inspect
from tallies.inspection.verify import verify
from tests.support.checkpoints import data_bytes

State = dict[str, torch.Tensor]

DTYPES = [
    torch.float64,
    torch.float32,
    torch.float16,
    torch.bfloat16,
    torch.float8_e4m3fn,
    torch.float8_e5m2,
    torch.int64,
    torch.int32,
    torch.int16,
    torch.int8,
    torch.uint64,
    torch.uint32,
    torch.uint16,
    torch.uint8,
    torch.bool,
]

SAVED = io.BytesIO()
torch.save({"a": torch.arange(6.0), "b": torch.arange(6).reshape(2, 3).t()}, SAVED)


def stored_bytes(tensor: torch.Tensor) -> bytes:
    """The elements in row-major order."""
    plain = torch.empty(tensor.shape, dtype=tensor.dtype)
    plain.copy_(tensor.detach())
    return plain.reshape(-1).view(torch.uint8).numpy().tobytes() if plain.numel() else b""


def assert_reads(path: Path, expected: Mapping[str, torch.Tensor]) -> None:
    found = Checkpoint.open(path).tensors
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert found[name].shape == tuple(tensor.shape)
        assert b"".join(chunks(found[name])) == stored_bytes(tensor), name


@st.composite
def states(draw: st.DrawFn) -> State:
    """Tensors that are views: transposed, sliced, expanded, of one storage, or empty."""
    state = {}
    for i in range(draw(st.integers(1, 4))):
        shape = draw(st.lists(st.integers(0, 5), max_size=4))
        n = math.prod(shape)
        raw = torch.tensor(list(draw(st.binary(min_size=n, max_size=n))), dtype=torch.uint8)
        tensor = raw.to(draw(st.sampled_from(DTYPES))).reshape(shape)
        for _ in range(draw(st.integers(0, 2))):
            if tensor.dim() == 0:
                break
            match draw(st.sampled_from(["permute", "slice", "expand", "select"])):
                case "permute":
                    tensor = tensor.permute(draw(st.permutations(range(tensor.dim()))))
                case "slice":
                    d = draw(st.integers(0, tensor.dim() - 1))
                    begin, step = draw(st.integers(0, 2)), draw(st.integers(1, 3))
                    tensor = tensor[(slice(None),) * d + (slice(begin, None, step),)]
                case "expand":
                    tensor = tensor.unsqueeze(0).expand(draw(st.integers(1, 3)), *tensor.shape)
                case "select":
                    if tensor.shape[0]:
                        tensor = tensor[draw(st.integers(0, tensor.shape[0] - 1))]
        state[f"t{i}"] = tensor
    if draw(st.booleans()):
        state["again"] = state["t0"]
    return state


@settings(max_examples=150, deadline=None)
@given(
    states(),
    st.sampled_from([None, "state_dict", "model", "model_state_dict", "module"]),
    st.sampled_from([dict, collections.OrderedDict]),
    st.integers(2, 5),
    st.sampled_from([8, 64, 1 << 22]),
)
def test_views_are_read_in_order(
    tmp_path_factory: pytest.TempPathFactory,
    state: State,
    wrapper: str | None,
    kind: Callable[[State], Any],
    protocol: int,
    block_bytes: int,
) -> None:
    path = tmp_path_factory.mktemp("views") / "model.pt"
    content = kind(state)
    if wrapper:
        content = {"epoch": 3, wrapper: content, "history": [1.5, {"lr": (1, None)}]}
    torch.save(content, path, pickle_protocol=protocol)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(strided, "_BLOCK_BYTES", block_bytes)
        patch.setattr(strided, "_PAGE_BYTES", min(block_bytes, 4096))
        assert_reads(path, state)


def test_large_views(tmp_path: Path) -> None:
    """Blocks end within rows, and stretches are read with and without what lies between."""
    wide = torch.randn(3000, 1100)
    state = {
        "transposed": wide.t(),
        "column": wide[:, 7],
        "every_other": wide[::2, ::3],
        "channels_last": torch.randn(70, 60, 16, 16).to(memory_format=torch.channels_last),
    }
    torch.save(state, tmp_path / "model.bin")
    assert_reads(tmp_path / "model.bin", state)
    found = Checkpoint.open(tmp_path / "model.bin").tensors
    assert read_range(found["transposed"], 40 * 12000, 10 * 12000) == stored_bytes(wide.t()[40:50])
    assert read_range(found["column"], 0, 12000) == stored_bytes(wide[:, 7])


def test_parameters_and_metadata(tmp_path: Path) -> None:
    module = torch.nn.Sequential(torch.nn.BatchNorm1d(2), torch.nn.Linear(2, 3))
    torch.save(module.state_dict(), tmp_path / "module.pth")
    assert_reads(tmp_path / "module.pth", module.state_dict())
    parameters = dict(module.named_parameters())
    torch.save(parameters, tmp_path / "parameters.pth")
    assert_reads(tmp_path / "parameters.pth", parameters)


@pytest.mark.parametrize("stem", ["modèle", "a model.v1", "模型", "x" * 200])
def test_names_of_files(tmp_path: Path, stem: str) -> None:
    """The archive's top directory is named after the file."""
    state = {"a": torch.arange(5.0)}
    torch.save(state, tmp_path / f"{stem}.pt")
    assert_reads(tmp_path / f"{stem}.pt", state)


def test_archives_of_other_writers(tmp_path: Path) -> None:
    """Headers in the form for files beyond 4 GiB, and a comment behind the directory."""
    path = tmp_path / "model.pt"
    with zipfile.ZipFile(path, "w") as made:
        made.comment = b"a comment"
        for name, data in (("m/data.pkl", tensor_pickle()), ("m/data/0", bytes(range(16)))):
            with made.open(name, "w", force_zip64=True) as entry:
                entry.write(data)
    (tensor,) = Checkpoint.open(path).tensors.values()
    assert b"".join(chunks(tensor)) == bytes(range(16))


def test_pieces_of_two_tensors_of_one_size_fit(tmp_path: Path) -> None:
    wide = torch.randn(700, 900)
    torch.save({"plain": wide, "transposed": wide.t().contiguous().t()}, tmp_path / "a.pt")
    tensors = Checkpoint.open(tmp_path / "a.pt").tensors
    assert tensors["transposed"].strides is not None
    assert same_bytes(tensors["plain"], tensors["transposed"])


# Models


def model(seed: int) -> State:
    made = torch.Generator().manual_seed(seed)
    embedding = torch.randn(64, 32, generator=made)
    return {
        "conv.weight": torch.randn(8, 4, 3, 3, generator=made).to(
            memory_format=torch.channels_last
        ),
        "empty": torch.empty(0, 3),
        "ids": torch.arange(6).reshape(2, 3).t(),
        "linear.weight": torch.randn(300, 200, generator=made).bfloat16().t(),
        "lm_head.weight": embedding,
        "model.embed_tokens.weight": embedding,
        "scalar": torch.tensor(2.5) * seed,
    }


def write_as(path: Path, kind: str, state: State) -> Path:
    path.mkdir()
    (path / "config.json").write_text(json.dumps({"tie_word_embeddings": True}))
    if kind == "safetensors":
        save_file(
            {name: one.contiguous().clone() for name, one in state.items()},
            path / "model.safetensors",
        )
    elif kind == "file":
        torch.save(state, path / "pytorch_model.bin")
    else:
        names = list(state)
        parts = {f"pytorch_model-0000{i + 1}-of-00002.bin": names[i::2] for i in range(2)}
        for file, part in parts.items():
            torch.save({name: state[name] for name in part}, path / file)
        weight_map = {name: file for file, part in parts.items() for name in part}
        (path / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return path


@pytest.mark.parametrize("kind", ["file", "shards"])
@pytest.mark.parametrize("method", ["ties", "dare_linear", "linear", "tsv_m", "breadcrumbs"])
def test_merges_as_safetensors_do(tmp_path: Path, kind: str, method: str) -> None:
    results = []
    for form in ("safetensors", kind):
        paths = [write_as(tmp_path / f"{form}-{i}", form, model(i)) for i in range(3)]
        recipe: dict[str, Any] = {
            "merge_method": method,
            "models": [{"model": str(path)} for path in paths[1:]],
        }
        if method != "linear":
            recipe["base_model"] = str(paths[0])
        tallies.merge(recipe, tmp_path / f"out-{form}", max_shard_size="40KB", seed=3)
        results.append(data_bytes(tmp_path / f"out-{form}"))
    assert results[0] == results[1]
    assert any(name.startswith("model-") for name in results[0])


@pytest.mark.parametrize("codec", ["tall", "magnitude", "sparse", "bitdelta", "tsv_c"])
def test_packs_as_safetensors_do(tmp_path: Path, codec: str) -> None:
    results = []
    for form in ("safetensors", "file"):
        base, *experts = (write_as(tmp_path / f"{form}-{i}", form, model(i)) for i in range(3))
        store = tmp_path / f"store-{form}"
        tallies.pack(base, {"x": experts[0], "y": experts[1]}, store, codec=codec)
        tallies.Store.open(store, base=base).unpack("y", tmp_path / f"out-{form}")
        results.append(data_bytes(tmp_path / f"out-{form}"))
    assert results[0] == results[1]


def test_looks_as_safetensors_do(tmp_path: Path) -> None:
    plain = write_as(tmp_path / "plain", "safetensors", model(1))
    saved = write_as(tmp_path / "saved", "file", model(1))
    assert inspect(saved)["fingerprint"] == inspect(plain)["fingerprint"]
    assert verify(saved)["tensors"] == len(model(1))
    broken = model(1)
    broken["linear.weight"][3, 5] = float("nan")
    torch.save(broken, saved / "pytorch_model.bin")
    with pytest.raises(InputError, match=r"linear\.weight' has 1 NaN .* element 905"):
        verify(saved)


def test_names_of_one_storage_are_tied(tmp_path: Path) -> None:
    shared = torch.randn(4, 3)
    state = {"decoder.embed_tokens.weight": shared, "head.weight": shared, "other": shared.t()}
    torch.save(state, tmp_path / "model.pt")
    tied = as_model(Checkpoint.open(tmp_path / "model.pt")).tied
    assert tied == {"head.weight": "decoder.embed_tokens.weight"}


def test_which_files_are_the_model(tmp_path: Path) -> None:
    for name in ("optimizer.pt", "scheduler.pt", "training_args.bin", "rng_state.pth"):
        (tmp_path / name).write_bytes(b"x")
    torch.save({"a": torch.zeros(2)}, tmp_path / "pytorch_model.bin")
    (tmp_path / "other.bin").write_bytes(b"x")
    assert Checkpoint.open(tmp_path).files == (tmp_path / "pytorch_model.bin",)
    save_file({"b": torch.zeros(2)}, tmp_path / "value_head.safetensors")
    assert Checkpoint.open(tmp_path).files == (tmp_path / "pytorch_model.bin",)
    save_file({"c": torch.zeros(2)}, tmp_path / "model.safetensors")
    (tmp_path / "value_head.safetensors").unlink()
    assert Checkpoint.open(tmp_path).files == (tmp_path / "model.safetensors",)
    assert Checkpoint.open(tmp_path).auxiliary_files() == []


# Refusals


class Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {EVIDENCE}",)


EVIDENCE = "/tmp/tallies-test-evidence"


def saved(content: object, **options: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer, **options)
    return buffer.getvalue()


def archive(pickled: bytes, *more: tuple[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    """A zip of a hand-written pickle and some entries."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as made:
        for name, data in (("archive/data.pkl", pickled), *more):
            made.writestr(name, data)
    return buffer.getvalue()


def tensor_pickle(
    *,
    key: object = "0",
    n: object = 4,
    offset: object = 0,
    shape: object = (4,),
    strides: object = (1,),
) -> bytes:
    """The pickle of one float32 tensor with such numbers, as the protocol's text."""

    class Storage:
        pass

    class Tensor:
        def __reduce__(self) -> tuple[Any, ...]:
            hooks: Any = collections.OrderedDict()
            arguments = (Storage(), offset, shape, strides, False, hooks)
            return torch._utils._rebuild_tensor_v2, arguments

    class Pickler(pickle.Pickler):
        def persistent_id(self, value: object) -> object:
            is_storage = isinstance(value, Storage)
            return ("storage", torch.FloatStorage, key, "cpu", n) if is_storage else None

    buffer = io.BytesIO()
    Pickler(buffer, 2).dump({"a": Tensor()})
    return buffer.getvalue()


FOUR = ("archive/data/0", bytes(16))


def edited(data: bytes, old: bytes, new: bytes) -> bytes:
    assert len(old) == len(new)
    assert old in data
    return data.replace(old, new)


def with_twice_an_entry() -> bytes:
    buffer = io.BytesIO(archive(tensor_pickle(), FOUR))
    with pytest.warns(UserWarning), zipfile.ZipFile(buffer, "a") as made:
        made.writestr("archive/data/0", bytes(16))
    return buffer.getvalue()


def with_overlap() -> bytes:
    """The directory gives an entry the header of another one's bytes."""
    inner = archive(b"", ("archive/data/0", bytes(16)))
    header = inner[inner.index(b"PK\3\4", 4) : inner.index(b"PK\1\2")]
    data = archive(tensor_pickle(), ("archive/data/1", header), FOUR)
    at = data.index(header)
    end = data.index(b"PK\1\2")
    directory = bytearray(data[end:])
    place = directory.index(b"archive/data/0") - 4
    struct.pack_into("<I", directory, place, at)
    return data[:end] + bytes(directory)


def cyclic() -> bytes:
    content: dict[str, Any] = {"epoch": []}
    content["epoch"].append(content["epoch"])
    content["state_dict"] = {"a": 1}
    return pickle.dumps(content, 2)


def globals_of(*names: str) -> list[tuple[str, bytes]]:
    return [(name, f"c{name.replace(' ', chr(10))}\n.".encode()) for name in names]


REFUSED: dict[str, tuple[Callable[[], bytes], str]] = {
    "nothing": (lambda: b"", "begins with b''"),
    "another format": (lambda: b"GGUF\3\0\0\0", "begins with b'GGUF"),
    "a Git LFS pointer": (
        lambda: b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n",
        "is a Git LFS pointer.*git lfs pull",
    ),
    "a legacy pickle": (
        lambda: saved({"a": torch.zeros(2)}, _use_new_zipfile_serialization=False),
        "is a pickle of the legacy format.*torch.save",
    ),
    "a plain pickle": (lambda: pickle.dumps({"a": 1}), "legacy format"),
    "a zip without data.pkl": (
        lambda: archive(b"").replace(b"data.pkl", b"data.txt"),
        "holds 'archive/data.txt', expected a zip archive of torch.save",
    ),
    "compressed": (
        lambda: archive(tensor_pickle(), FOUR, method=zipfile.ZIP_DEFLATED),
        "is compressed, expected stored bytes",
    ),
    "a name that is absolute": (
        lambda: archive(tensor_pickle(), ("/etc/passwd", b"x")),
        "'/etc/passwd' leads outside",
    ),
    "a name of the parent": (
        lambda: archive(tensor_pickle(), ("archive/../../x", b"x")),
        "leads outside the archive",
    ),
    "a name of a drive": (
        lambda: archive(tensor_pickle(), ("C:archive/x", b"x")),
        "leads outside the archive",
    ),
    "an entry twice": (with_twice_an_entry, "'archive/data/0' appears twice"),
    "entries that overlap": (with_overlap, "overlaps|has no header of its own"),
    "another byte order": (
        lambda: archive(tensor_pickle(), FOUR, ("archive/byteorder", b"big")),
        "byte order b'big'",
    ),
    "a storage that is absent": (lambda: archive(tensor_pickle()), "'data/0' is absent"),
    "a storage that leads outside": (
        lambda: archive(tensor_pickle(key="../../etc/passwd"), FOUR),
        "'data/../../etc/passwd' is absent",
    ),
    "a storage of another size": (
        lambda: archive(tensor_pickle(n=5), FOUR),
        "has 16 bytes, expected 20",
    ),
    "a storage of no size": (lambda: archive(tensor_pickle(n=-1), FOUR), "of -1 elements"),
    "a view beyond the storage": (
        lambda: archive(tensor_pickle(offset=1), FOUR),
        "reach byte 20 of a storage of 16",
    ),
    "strides beyond the storage": (
        lambda: archive(tensor_pickle(shape=(2, 2), strides=(3, 1)), FOUR),
        "reach byte 20 of a storage of 16",
    ),
    "a negative stride": (
        lambda: archive(tensor_pickle(strides=(-1,)), FOUR),
        "expected non-negative integers",
    ),
    "a size too few strides": (
        lambda: archive(tensor_pickle(shape=(2, 2)), FOUR),
        "with 1 strides",
    ),
    "huge sizes": (
        lambda: archive(tensor_pickle(shape=(2**40, 2**40), strides=(0, 0)), FOUR),
        r"beyond 2\*\*63 bytes",
    ),
    "huge numbers": (lambda: archive(tensor_pickle(shape=(2**80,)), FOUR), "expected non-negative"),
    "numbers that are none": (
        lambda: archive(tensor_pickle(shape=("4",)), FOUR),
        "expected non-negative integers",
    ),
    "a program": (lambda: saved({"a": Evil()}), "names 'posix.system', which was not run"),
    "a module": (lambda: saved(torch.nn.Linear(2, 2)), "names 'torch.nn.modules.linear.Linear'"),
    "arguments beside": (
        lambda: saved({"model": {"a": torch.zeros(2)}, "args": argparse.Namespace(x=1)}),
        "names 'argparse.Namespace'",
    ),
    "tensors beside": (
        lambda: saved({"model": {"a": torch.zeros(2)}, "optimizer": [{"m": torch.zeros(2)}]}),
        r"tensors in entry 'optimizer' beside .*torch.load\(FILE\)\['model'\]",
    ),
    "a number among tensors": (
        lambda: saved({"a": torch.zeros(2), "epoch": 3}),
        "entry 'epoch' is an int, expected a tensor",
    ),
    "dicts of dicts": (lambda: saved({"net": {"a": torch.zeros(2)}}), "entry 'net' is a dict"),
    "a list": (lambda: saved([torch.zeros(2)]), "holds a list, expected a state dict"),
    "a tensor": (lambda: saved(torch.zeros(2)), "holds a tensor, expected a state dict"),
    "complex": (
        lambda: saved({"a": torch.zeros(2, dtype=torch.complex64)}),
        "torch.ComplexFloatStorage, which is not supported",
    ),
    "sparse": (lambda: saved({"a": torch.eye(3).to_sparse()}), "_rebuild_sparse_tensor"),
    "no data at all": (lambda: saved({"a": torch.empty(2, device="meta")}), "_rebuild_meta_tensor"),
    "a cycle": (lambda: archive(cyclic()), "entry 'a' of 'state_dict' is an int"),
    "itself": (lambda: archive(b"\x80\x02}q\0X\5\0\0\0modelh\0s."), "wrappers in wrappers"),
    "deep containers": (
        lambda: archive(b"\x80\x02" + b"]" * 200_000 + b"a" * 199_999 + b"."),
        "holds a list",
    ),
    "a deep key": (
        lambda: archive(b"\x80\x02})" + b"\x85" * 200_000 + b"Ns."),
        "has a key that is a tuple",
    ),
    "a key twice": (
        lambda: archive(b"\x80\x02}(X\1\0\0\0aNX\1\0\0\0aNu."),
        "has the key 'a' twice",
    ),
    "a pickle that ends early": (lambda: archive(b"\x80\x02}"), "ends early"),
    "a pickle of nothing": (lambda: archive(b""), "ends early"),
    "an empty stack": (lambda: archive(b"\x80\x02."), "empty stack"),
    "a value that was not stored": (lambda: archive(b"\x80\x02h\7."), "which it did not store"),
    "a huge memo": (lambda: archive(b"\x80\x02Nr\xff\xff\xff\x7f."), "holds a NoneType"),
    "a call without arguments": (
        lambda: archive(b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n)R."),
        "with 0 arguments",
    ),
    "a call of a number": (lambda: archive(b"\x80\x02K\1)R."), "calls 1, expected tensors"),
    "a storage of another kind": (
        lambda: archive(b"\x80\x02(X\7\0\0\0storageX\1\0\0\0aX\1\0\0\0bNK\1tQ."),
        "storage of type 'a'",
    ),
    "an object": (lambda: archive(b"\x80\x02)\x81."), "instruction NEWOBJ"),
}
REFUSED |= {
    f"the name {name}": (partial(archive, b"\x80\x02" + text), "which was not run")
    for name, text in globals_of(
        "os system",
        "builtins eval",
        "builtins getattr",
        "torch load",
        "torch.hub load",
        "numpy array",
    )
}


@pytest.mark.parametrize("case", REFUSED.values(), ids=REFUSED.keys())
def test_refused(tmp_path: Path, case: tuple[Callable[[], bytes], str]) -> None:
    make, message = case
    path = tmp_path / "model.pt"
    path.write_bytes(make())
    with pytest.raises(InputError, match=message) as caught:
        Checkpoint.open(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 600
    assert not os.path.exists(EVIDENCE)


def test_script_is_refused(tmp_path: Path) -> None:
    with pytest.warns(DeprecationWarning):
        script = torch.jit.script(torch.nn.Linear(2, 2))
        torch.jit.save(script, tmp_path / "m.pt")
    with pytest.raises(InputError, match="is a TorchScript archive"):
        Checkpoint.open(tmp_path / "m.pt")


@pytest.mark.parametrize("length", range(0, len(SAVED.getvalue()), 37))
def test_truncated_is_refused(tmp_path: Path, length: int) -> None:
    path = tmp_path / "model.pt"
    path.write_bytes(SAVED.getvalue()[:length])
    with pytest.raises(InputError, match=r"model\.pt: "):
        Checkpoint.open(path)


@settings(max_examples=400, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, len(SAVED.getvalue()) - 1), st.integers(1, 255)), max_size=4)
)
def test_damage_never_escapes(
    tmp_path_factory: pytest.TempPathFactory, flips: list[tuple[int, int]]
) -> None:
    """A file with flipped bits reads, or is refused in a line."""
    data = bytearray(SAVED.getvalue())
    for at, bits in flips:
        data[at] ^= bits
    path = tmp_path_factory.mktemp("damage") / "model.pt"
    path.write_bytes(data)
    try:
        for tensor in Checkpoint.open(path).tensors.values():
            assert tensor.offset + (tensor.n_bytes if tensor.strides is None else 0) <= len(data)
            b"".join(chunks(tensor))
    except TalliesError as error:
        assert "\n" not in str(error)


def test_a_view_of_a_file_cut_off_while_it_is_read(tmp_path: Path) -> None:
    torch.save({"a": torch.randn(100, 100).t()}, tmp_path / "model.pt")
    (tensor,) = Checkpoint.open(tmp_path / "model.pt").tensors.values()
    os.truncate(tmp_path / "model.pt", tensor.offset + 1000)
    with pytest.raises(StorageError, match="'a' ends early"):
        list(chunks(tensor))
