"""Open an adapter: a directory or a file of PEFT, or a file of another tool."""

from __future__ import annotations

import os
from pathlib import Path

from ...errors import InputError
from ...messages import show, some
from ..causes import refuse_absent
from ..checkpoint import Checkpoint
from ..files import refuse_undecodable
from .adapter import Adapter
from .effect import with_warning_of_no_effect
from .kinds import find_adapter
from .other_tools import read_other_tools
from .peft import read_peft
from .peft_config import CONFIG, read_config
from .peft_names import PREFIX

_WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")
"""The files of PEFT, in the order in which it looks for them."""


def open_adapter(path: str | os.PathLike[str]) -> Adapter:
    """Open an adapter as changes of named tensors.

    Headers and configurations are read, and of the factors no more than shows that one is not zero.

    Args:
        path: A directory that PEFT or diffusers wrote, or a file of weights of any tool.

    Returns:
        The adapter: its changes in the order in which they are made.

    Raises:
        InputError: There is no adapter, it is damaged, or of a kind that is no change of weights.
        StorageError: The system cannot read the files.
    """
    refuse_undecodable(path)
    root = Path(path)
    if not root.exists():
        refuse_absent(os.fspath(path))
    folder = root if root.is_dir() else root.parent
    weights = next((folder / name for name in _WEIGHTS if (folder / name).is_file()), None)
    if root.is_dir() and weights is None:
        _refuse_empty(root)
    file = weights if root.is_dir() and weights is not None else root
    found = Checkpoint.open(file)
    is_named = any(name.startswith(PREFIX) for name in found.tensors)
    if (is_named or file.name in _WEIGHTS) and _has_config(folder):
        config_path = folder / CONFIG
        config = read_config(config_path)
        files = (*found.files, config_path)
        adapter = read_peft(root, files, found.tensors.values(), config, config_path)
        return with_warning_of_no_effect(adapter)
    if is_named:
        raise InputError(
            f"{folder / CONFIG}: no such file, which says the scale of the adapter {file.name}; "
            "download it, or merge the adapter into its model first (PEFT: merge_and_unload)"
        )
    try:
        return with_warning_of_no_effect(read_other_tools(root, found))
    except InputError:
        if find_adapter(found) is None:
            name = next(iter(found.tensors), "")
            raise InputError(
                f"{root}: is no adapter, expected one on a model (MODEL+ADAPTER): no name of its "
                f"tensors, such as {show(name)}, is that of an adapter's piece"
            ) from None
        raise


def _has_config(folder: Path) -> bool:
    return os.path.isfile(folder / CONFIG)


def _refuse_empty(root: Path) -> None:
    """Raise ``InputError`` for a directory that has adapters only below it, or none."""
    below = sorted(path.parent.name for path in root.glob(f"*/{CONFIG}"))
    if below:
        raise InputError(
            f"{root}: holds no adapter itself, but {len(below)} in sub-directories; give one of "
            f"them ({some(below)}), or several joined by +"
        )
    if _has_config(root):
        raise InputError(
            f"{root}: holds {CONFIG}, but neither {_WEIGHTS[0]} nor {_WEIGHTS[1]}; download the "
            "adapter again"
        )
