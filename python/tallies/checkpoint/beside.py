"""Sort what lies beside the weights of a model: small files to copy, and what is left out."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from ..errors import InputError
from .formats import is_training_state
from .json_text import refuse_unreadable
from .parts import Part
from .pointers import refuse_pointer_file
from .weight_names import SAFETENSORS, SUFFIXES, WeightName, parse_name

TOKENIZER_FILES: Final = (
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
    *("vocab.json", "merges.txt", "vocab.txt", "tokenizer.model", "spiece.model"),
    *("sentencepiece.bpe.model", "chat_template.jinja", "chat_template.json"),
)
"""The names of a tokenizer's files, which libraries save beside a model or an adapter."""

_OTHER_FORMATS: Final = (
    *(".ckpt", ".distcp", ".gguf", ".h5", ".mlmodel", ".msgpack", ".nemo", ".npz", ".onnx"),
    *(".onnx_data", ".onnx.data", ".ot", ".pb", ".pkl", ".tflite"),
)
"""Ends of the names of weights in formats that are not read."""

_WEIGHTS: Final = re.compile(
    rf"(?:{'|'.join(map(re.escape, (*SUFFIXES, *_OTHER_FORMATS)))}"
    r"|(?:\A|[/_])openvino_.*\.xml)"
    r"(?:(?:\.[\w-]+)?\.index(?:\.[\w-]+)?\.json|_\d+)?\Z",
    re.IGNORECASE,
)
"""Names of weights of any format, and of their indexes."""

_ADAPTER: Final = re.compile(r"(?:adapter_(?:config\.|model\b)|pytorch_lora_weights\.)")

_DIRECTORIES: Final[Mapping[str, re.Pattern[str]]] = {
    "hidden": re.compile(r"\."),
    "a checkpoint of training": re.compile(
        r"(?:checkpoint|global_?step|epoch|step|iter)[-_]?\d+\Z|checkpoints?\Z|pytorch_model_fsdp"
        r"|optimizer(?:_\d+)?\Z",
        re.IGNORECASE,
    ),
    "a log of training": re.compile(r"(?:runs|wandb|tensorboard|lightning_logs)\Z"),
    "an export to another format": re.compile(
        r"(?:onnx|openvino|coreml|tflite|tensorrt|trt|gguf|ggml|flax|jax|tf|mlx|metal|saved_model"
        r"|executorch|ctranslate2|ct2)(?:[-_].*)?\Z|.*\.(?:mlpackage|mlmodelc)\Z",
        re.IGNORECASE,
    ),
    "the model as its authors' own code has it": re.compile(r"original\Z"),
}
"""Reasons to leave sub-directories out, and the names that tell."""

_OF_TRAINING: Final = re.compile(r"(?:trainer_state|trainer_log)\.jsonl?\Z|events\.out\.tfevents\.")


@dataclass
class Beside:
    """The small files of a model, by relative path, and what is left out, and why."""

    small: list[Path] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)


def is_weights(name: str) -> bool:
    """Tell if a file has, by its name, weights of any format, or is an index of such files."""
    return bool(_WEIGHTS.search(name))


def look_beside(root: Path, parts: Mapping[str, Part | None]) -> Beside:
    """Sort all files of a model's directory that hold none of its weights.

    Links to files count as files (hub caches consist of them), links to directories are not
    followed but where a part lies there.

    Args:
        root: The model's directory.
        parts: The parts by folder; None where only the small files of a folder count.

    Raises:
        InputError: A file to copy is a link to nothing, or a pointer of Git LFS.
        StorageError: A directory cannot be listed.
    """
    found = Beside()
    _look(root, "", parts, found)
    found.small.sort()
    found.left_out = dict(sorted(found.left_out.items()))
    return found


def _look(root: Path, folder: str, parts: Mapping[str, Part | None], found: Beside) -> None:
    below = f"{folder}/" if folder else ""
    try:
        with os.scandir(root / folder) as scanned:
            entries = sorted(scanned, key=lambda entry: entry.name)
    except OSError as error:
        refuse_unreadable(error)
    names = [entry.name for entry in entries if not entry.is_dir()]
    if folder and folder not in parts and (why := _foreign(names)):
        found.left_out[below] = why
        return
    for entry in entries:
        path = below + entry.name
        if not entry.is_dir():
            _sort_file(root, path, parts.get(folder), found)
        elif not _leads_to(path, parts) and (why := _directory(entry)):
            found.left_out[f"{path}/"] = why
        else:
            _look(root, path, parts, found)


def _leads_to(path: str, folders: Iterable[str]) -> bool:
    """Tell if a directory is one of these folders, or on the way to one."""
    return any(folder == path or folder.startswith(f"{path}/") for folder in folders)


def _directory(entry: os.DirEntry[str]) -> str | None:
    """Say why a sub-directory that is no part is left out by its name; None where it is not."""
    for why, pattern in _DIRECTORIES.items():
        if pattern.match(entry.name):
            return why
    return "a link to a directory" if entry.is_symlink() else None


def _foreign(names: Iterable[str]) -> str | None:
    """Say what the weights in a sub-directory are that is no part; None without weights."""
    weights = [name for name in names if is_weights(name) and not name.startswith(".")]
    if not weights:
        return None
    if any(_ADAPTER.match(name) for name in names):
        return "an adapter"
    if all(map(is_training_state, weights)):
        return "a checkpoint of training"
    if any(name.endswith(SUFFIXES) for name in weights):
        return "weights that no file of the model declares to be a part of it"
    return "weights in another format"


def _sort_file(root: Path, path: str, part: Part | None, found: Beside) -> None:
    name = path.rpartition("/")[2]
    if name.startswith(".") or name == "tallies.json":
        return
    if part and (root / path in part.files or _is_its_index(name, part)):
        return
    of_a_model = part is None or not _ADAPTER.match(part.files[0].name)
    if is_weights(name) or (_ADAPTER.match(name) and of_a_model) or _OF_TRAINING.match(name):
        found.left_out[path] = _why(name, part)
        return
    if not os.path.exists(root / path):
        raise InputError(f"{root / path}: is a link to nothing; restore the file or remove it")
    if os.path.isfile(root / path):
        refuse_pointer_file(root / path)
        found.small.append(Path(path))


def _is_its_index(name: str, part: Part) -> bool:
    parsed = parse_name(name)
    return (
        parsed is not None
        and parsed.is_index
        and (parsed.saved_stem, parsed.variant) == (part.stem, part.variant)
        and _is_safetensors(parsed) == part.files[0].name.endswith(SAFETENSORS)
    )


def _is_safetensors(name: WeightName) -> bool:
    return name.suffix == SAFETENSORS


def _why(name: str, part: Part | None) -> str:
    """Say why a file beside the weights of a part is left out."""
    if is_training_state(name) or _OF_TRAINING.match(name):
        return "a state of training"
    if _ADAPTER.match(name):
        return "an adapter"
    parsed = parse_name(name)
    if parsed is None:
        return "weights in another format"
    if part is None:
        return "a copy of the pipeline in one file"
    if _is_safetensors(parsed) != part.files[0].name.endswith(SAFETENSORS):
        return "weights in another format"
    if parsed.variant != part.variant:
        return f"the variant {parsed.variant}" if parsed.variant else "the weights without variant"
    if parsed.is_index:
        return "another index"
    names = [file.name for file in part.files]
    return f"not of the model in {names[0]}" + (f" and {len(names) - 1} more" * (len(names) > 1))
