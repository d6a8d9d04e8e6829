"""Tell adapters from models by their files, and read the base that an adapter names."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from ...errors import InputError
from ..builds import ADAPTER_STEMS, builds
from ..checkpoint import Checkpoint
from ..json_text import json_object, read_text
from ..shards import indexed_names
from .kinds import find_adapter, may_be_pieces
from .peft_config import CONFIG

_OF_MODELS: Final = ("config.json", "model_index.json", "modules.json")
"""Files that stand beside the weights of a model."""


def is_adapter(path: str) -> bool:
    """Return True for a file or a directory that holds an adapter and no model.

    Names of files tell, or else the names of the tensors. A path that cannot be read is no adapter:
    the reader of models words what is wrong with it.
    """
    if os.path.isdir(path):
        try:
            names = os.listdir(path)
        except OSError:
            return False
        found = builds(names)
        if all(one.head.stem in ADAPTER_STEMS for one in found):
            return bool(found) or CONFIG in names
        if any(one.head.is_usual for one in found) and any(name in names for name in _OF_MODELS):
            return False
    elif not os.path.isfile(path):
        return False
    try:
        indexed = indexed_names(Path(path)) if os.path.isdir(path) else None
        if indexed is not None and not may_be_pieces(indexed):
            return False  # without a look into the files
        adapter = find_adapter(Checkpoint.open(path))
    except InputError:
        return False
    return adapter is not None and not adapter.in_a_model


def stated_base(path: str) -> str | None:
    """Return the text of the model that an adapter changes, as its configuration names it.

    A revision stands behind it, as in ``org/name@revision``. None if nothing is named.
    """
    file = _config_of(Path(path))
    config = json_object(read_text(file), str(file)) if file.is_file() else {}
    base, revision = config.get("base_model_name_or_path"), config.get("revision")
    if not isinstance(base, str) or not base:
        return None
    is_pinned = isinstance(revision, str) and revision and not os.path.exists(base)
    return f"{base}@{revision}" if is_pinned else base


def _config_of(path: Path) -> Path:
    """Return the configuration of an adapter, which stands beside a file of PEFT."""
    if os.path.isdir(path):
        return path / CONFIG
    beside = path.stem.partition(".")[0] in ADAPTER_STEMS
    return path.with_name(CONFIG) if beside else path / CONFIG
