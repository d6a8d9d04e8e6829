"""Jobs done with the hostile files of each format, and the good files that they come from."""

from __future__ import annotations

import contextlib
import io
import json
import random
import re
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from click.testing import CliRunner

import tallies
from tallies.checkpoint.adapters.opening import open_adapter
from tallies.checkpoint.checkpoint import Checkpoint
from tallies.checkpoint.json_text import object_checksum
from tallies.checkpoint.safetensors import read_header
from tallies.cli import group
from tallies.engine.fingerprints import content, tensor_fingerprint
from tallies.recipe.config import MergeConfig
from tests.fuzz import cases
from tests.fuzz.cases import Files

Run = Callable[[Path], object]


def _nothing(files: Files, rng: random.Random) -> None:
    """Such files have no checksum."""


@dataclass(frozen=True)
class Target:
    """A format: good folders, what reads a folder, and how its checksums are made right."""

    seeds: Callable[[Path], list[Files]]
    run: Run
    sign: Callable[[Files, random.Random], None] = _nothing


def attempt(*steps: Callable[[], object]) -> None:
    """Take steps that may each be refused."""
    for step in steps:
        with contextlib.suppress(tallies.InputError, tallies.StorageError):
            step()


def model(seed: int = 0) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    embed, norm = rng.standard_normal((5, 4)), rng.standard_normal(4)
    return {
        "model.embed_tokens.weight": embed.astype(np.float32),
        "model.layers.0.self_attn.q_proj.weight": rng.standard_normal((4, 4)).astype(np.float16),
        "model.norm.weight": norm.astype(np.float32),
    }


CONFIG = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "vocab_size": 5}


def save(path: Path, tensors: Mapping[str, Any]) -> None:
    from safetensors.numpy import save_file

    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(dict(tensors), path)


def checkpoint(folder: Path, seed: int = 0) -> Path:
    save(folder / "model.safetensors", model(seed))
    (folder / "config.json").write_text(json.dumps(CONFIG))
    return folder


def _header_seeds(room: Path) -> list[Files]:
    save(room / "model.safetensors", model())
    return [cases.read(room)]


def _header(folder: Path) -> None:
    attempt(
        lambda: Checkpoint.open(folder / "model.safetensors"),
        lambda: tallies.inspect(folder / "model.safetensors", threads=1),
    )


def _index_seeds(room: Path) -> list[Files]:
    names = list(model())
    for number in (0, 1):
        shard = {name: model()[name] for name in names[number::2]}
        save(room / f"model-0000{number + 1}-of-00002.safetensors", shard)
    place = {
        name: f"model-0000{number % 2 + 1}-of-00002.safetensors"
        for number, name in enumerate(names)
    }
    index = {"metadata": {"total_size": 200}, "weight_map": place}
    (room / "model.safetensors.index.json").write_text(json.dumps(index))
    return [cases.read(room)]


def _index(folder: Path) -> None:
    attempt(lambda: Checkpoint.open(folder), lambda: tallies.verify(folder, threads=1))


def _configuration_seeds(room: Path) -> list[Files]:
    checkpoint(room)
    words = {word: number for number, word in enumerate("abcde")}
    tokenizer = {
        "version": "1.0",
        "added_tokens": [{"id": 4, "content": "e", "special": True}],
        "model": {"type": "BPE", "vocab": words, "merges": []},
    }
    (room / "tokenizer.json").write_text(json.dumps(tokenizer))
    (room / "tokenizer_config.json").write_text(json.dumps({"added_tokens_decoder": {}}))
    (room / "generation_config.json").write_text(json.dumps({"eos_token_id": 4}))
    return [cases.read(room)]


def _configuration(folder: Path) -> None:
    request: dict[str, Any] = {
        "merge_method": "linear",
        "models": [
            {"model": str(one), "parameters": {"weight": 0.5}}
            for one in (folder, folder.parent / "base")
        ],
    }
    for more in ({}, {"tokenizer": {"source": "union"}}):
        attempt(lambda: tallies.plan(request | more))  # noqa: B023


def _store_seeds(room: Path) -> list[Files]:
    base, a, b = (checkpoint(room / name, seed) for seed, name in enumerate(("base", "a", "b")))
    found = []
    (room / "adapter").mkdir()
    _adapter_seeds(room / "adapter")
    adapted = f"{base}+{room / 'adapter'}"
    for number, options in enumerate(
        ({"codec": "tall"}, {"codec": "lossless"}, {"codec": "magnitude", "density": 0.3},
         {"codec": "bitdelta"}, {"codec": "twin", "fraction": 0.5},
         {"codec": "tsv_c", "fraction": 0.5}, {"codec": "sparse", "density": 0.5},
         {"codec": "sparse", "density": 0.5, "values": "int8"}, {"codec": "lora"})
    ):  # fmt: skip
        tasks = {"a": adapted} if options["codec"] == "lora" else {"a": a, "b": b}
        tallies.pack(base, tasks, room / str(number), threads=1, **options)
        found.append(cases.read(room / str(number)))
    return found


def _store_sign(files: Files, rng: random.Random) -> None:
    try:
        data = json.loads(files["store.json"])
        if rng.random() < 0.5:
            _sign_tensors(files, data)
        data["checksum"] = object_checksum({key: data[key] for key in data.keys() - {"checksum"}})
        files["store.json"] = json.dumps(data).encode()
    except (ValueError, TypeError, KeyError, AttributeError):
        return


def _sign_tensors(files: Files, data: dict[str, Any]) -> None:
    """State the fingerprints that the tensors have, so that damaged ones are decoded."""
    with tempfile.TemporaryDirectory() as room:
        for file, sums in data["checksums"].items():
            if file not in files:
                continue
            path = Path(room) / "one.safetensors"
            path.write_bytes(files[file])
            with contextlib.suppress(tallies.InputError, tallies.StorageError):
                for one in read_header(path)[0]:
                    sums[one.name] = tensor_fingerprint(one, content(one))


def _store(folder: Path) -> None:
    base = folder.parent / "base"

    def restore() -> None:
        store = tallies.Store.open(folder, base=base)
        for task in store.tasks[:3]:
            attempt(
                lambda: store.load(task),  # noqa: B023
                lambda: store.unpack(task, folder.parent / "out", overwrite=True, threads=1),  # noqa: B023
            )

    attempt(restore, lambda: tallies.inspect(folder, threads=1))


PATCH = "patch.safetensors"


def _patch_seeds(room: Path) -> list[Files]:
    old, new = checkpoint(room / "old"), checkpoint(room / "new")
    changed = model()
    for name, one in changed.items():
        one.reshape(-1)[:: 2 if "q_proj" in name else 7] += 1
    save(new / "model.safetensors", changed | {"added": np.arange(3, dtype=np.float32)})
    found = []
    for number, options in enumerate(({}, {"values": "difference"}, {"coder": "zstd"})):
        for name in (PATCH, "folder"):
            place = room / str(number) / name
            place.parent.mkdir(exist_ok=True)
            tallies.make_patch(old, new, place, threads=1, **options)
        found += [{PATCH: (room / str(number) / PATCH).read_bytes()}]
        found += [cases.read(room / str(number) / "folder")]
    return found


def _patch_sign(files: Files, rng: random.Random) -> None:
    from tests.fuzz.mutate import tree

    def signed(text: str) -> str:
        data = json.loads(text)
        if rng.random() < 0.5:
            data = tree(data, rng)
        data.pop("checksum", None)
        return json.dumps(data | {"checksum": object_checksum(data)})

    try:
        if "patch.json" in files:
            files["patch.json"] = signed(files["patch.json"].decode()).encode()
            return
        data = files[PATCH]
        begin = 8 + int.from_bytes(data[:8], "little")
        head = json.loads(data[8:begin])
        head["__metadata__"]["tallies.patch"] = signed(head["__metadata__"]["tallies.patch"])
        text = json.dumps(head).encode()
        files[PATCH] = len(text).to_bytes(8, "little") + text + data[begin:]
    except (ValueError, TypeError, KeyError, AttributeError):
        return


def _patch(folder: Path) -> None:
    patch = folder / PATCH if (folder / PATCH).exists() else folder
    base, out = folder.parent / "base", folder.parent / "out"
    for patches, undo in ((patch, False), (patch, True), ([patch, patch], False)):
        attempt(
            lambda: tallies.apply_patch(patches, base, out, undo=undo, overwrite=True, threads=1)  # noqa: B023
        )
    attempt(lambda: tallies.verify(patch, threads=1))


def _adapter_seeds(room: Path) -> list[Files]:
    found = []
    module = "base_model.model.model.layers.0.self_attn.q_proj"
    for dora in (False, True):
        tensors = {
            f"{module}.lora_A.weight": np.ones((2, 4), np.float32),
            f"{module}.lora_B.weight": np.ones((4, 2), np.float32),
        }
        if dora:
            tensors[f"{module}.lora_magnitude_vector"] = np.ones(4, np.float32)
        save(room / "adapter_model.safetensors", tensors)
        config = {
            "peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["q_proj"],
            "bias": "none", "use_dora": dora, "use_rslora": False, "fan_in_fan_out": False,
            "rank_pattern": {}, "alpha_pattern": {"q_proj": 3}, "modules_to_save": None,
        }  # fmt: skip
        (room / "adapter_config.json").write_text(json.dumps(config))
        found.append(cases.read(room))
    return found


def _adapter(folder: Path) -> None:
    base = folder.parent / "base"
    attempt(
        lambda: open_adapter(folder),
        lambda: tallies.merge(
            {
                "merge_method": "linear",
                "models": [{"model": f"{base}+{folder}", "parameters": {"weight": 1.0}}],
            },
            folder.parent / "out",
            overwrite=True,
            threads=1,
        ),
    )


def _torch_seeds(room: Path) -> list[Files]:
    import torch

    tensors = {name: torch.from_numpy(one) for name, one in model().items()}
    torch.save(tensors, room / "pytorch_model.bin")
    return [cases.read(room), {"pytorch_model.bin": _older_torch_file(tensors)}]


def _older_torch_file(tensors: Mapping[str, Any]) -> bytes:
    """Return an older torch file of tensors, in which numbers stand for the addresses of storages.

    Storages are written in the order of their addresses: copies are made until they ascend.
    """
    import torch

    key, made = re.compile(rb"X(....)([0-9]{6,})(?=[^0-9])", re.DOTALL), []
    while True:
        made.append({name: one.clone() for name, one in tensors.items()})
        file = io.BytesIO()
        torch.save(made[-1], file, _use_new_zipfile_serialization=False)
        keys = list(dict.fromkeys(found[2] for found in key.finditer(file.getvalue())))
        if keys == sorted(keys):
            break
    numbers = {one: b"X\7\0\0\0%07d" % number for number, one in enumerate(keys)}
    return key.sub(lambda found: numbers[found[2]], file.getvalue())


def _torch(folder: Path) -> None:
    attempt(lambda: Checkpoint.open(folder), lambda: tallies.verify(folder, threads=1))


COMMAND_LINES = (
    ("merge", "recipe.yaml", "--dry-run"),
    ("merge", "recipe.yaml", "--dry-run", "--json", "--param", "density=0.4"),
    ("plan", "recipe.yaml", "--semantics", "mergekit"),
)


def _command(folder: Path) -> None:
    """Plan a recipe as the command line does, whose paths begin at the recipe's directory."""
    for command, recipe, *more in COMMAND_LINES:
        line = [command, str(folder / recipe), *more]
        attempt(lambda: CliRunner().invoke(group, line, catch_exceptions=False))  # noqa: B023


def _command_seeds(room: Path) -> list[Files]:
    texts = [text.replace("case", "../base") for text in RECIPES]
    texts += [text.replace(": base", ": org/model@v1") for text in RECIPES[:1]]
    return [{"recipe.yaml": text.encode()} for text in texts]


RECIPES = (
    "merge_method: ties\nbase_model: base\nmodels:\n  - model: case\n    parameters:\n"
    "      weight: [0, 0.5, 1]\n      density: 0.5\nparameters:\n  normalize: true\n"
    "dtype: float32\n",
    "merge_method: slerp\nbase_model: base\nslices:\n  - sources:\n      - model: base\n"
    "        layer_range: [0, 1]\n      - model: base\n        layer_range: [0, 1]\nparameters:\n"
    "  t:\n    - filter: self_attn\n      value: [0, 1]\n    - value: 0.5\n"
    "tokenizer_source: union\n",
    "merge_method: linear\nname: first\nmodels:\n  - model: base\n    parameters: {weight: 1.0}\n"
    "---\nmerge_method: task_arithmetic\nbase_model: first\nmodels:\n  - model: base\n"
    "out_dtype: bfloat16\nchat_template: auto\n",
)


def _recipe_seeds(room: Path) -> list[Files]:
    return [{"recipe.yaml": text.replace("case", "base").encode()} for text in RECIPES]


def _recipe(folder: Path) -> None:
    path = folder / "recipe.yaml"
    attempt(lambda: MergeConfig.load(path), lambda: tallies.plan(path))


TARGETS = {
    "header": Target(_header_seeds, _header),
    "index": Target(_index_seeds, _index),
    "configuration": Target(_configuration_seeds, _configuration),
    "store": Target(_store_seeds, _store, _store_sign),
    "patch": Target(_patch_seeds, _patch, _patch_sign),
    "adapter": Target(_adapter_seeds, _adapter),
    "torch_file": Target(_torch_seeds, _torch),
    "recipe": Target(_recipe_seeds, _recipe),
    "command": Target(_command_seeds, _command),
}
