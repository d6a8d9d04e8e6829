"""Compares the tokenizers beside models: their tokens and their chat templates.

Files are parsed only where their bytes differ.
"""

from __future__ import annotations

import filecmp
import json
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from ..messages import counted, show
from .checkpoint import Checkpoint
from .json_text import is_object

_FOLDERS: Final = ("", "tokenizer", "tokenizer_2")
_ADDED: Final = "added_tokens.json"
_BEFORE, _BEHIND = 20, 60
"""The characters of a text that a message shows before and behind the first difference."""


def differing_tokenizers(models: Sequence[Checkpoint]) -> list[str]:
    """Word the differences of each model's tokenizer from that of the first model that has one.

    Args:
        models: The models; the files beside them are read.

    Returns:
        At most one warning of tokens and one of the chat template for each model and tokenizer.
    """
    roots = [one.path for one in models if os.path.isdir(one.path)]
    return [
        warning
        for folder in _FOLDERS
        for aspect in (_differing_tokens, _differing_templates)
        for warning in aspect([root / folder for root in roots])
    ]


def lacking_files(donor: Checkpoint, models: Sequence[Checkpoint]) -> list[str]:
    """Word the tokenizer and the chat template that models have and a donor of small files lacks.

    Args:
        donor: The model whose small files a result gets.
        models: The models that go into it.
    """
    return [
        f"the result has no {what}: {donor.path} has none, and its small files are copied; "
        f"--files-from {having[0]} takes those of a model that has one"
        for what, has in (("tokenizer", _has_tokenizer), ("chat template", stated_template))
        if not has(donor.path) and (having := [one.path for one in models if has(one.path)])
    ]


def _has_tokenizer(folder: Path) -> bool:
    return any(os.path.isfile(folder / name) for name in _VOCABULARIES)


def _differing_tokens(folders: Sequence[Path]) -> Iterator[str]:
    for name in _VOCABULARIES:
        files = [folder / name for folder in folders if _is_here(folder / name)]
        if len(files) < 2:
            continue
        found = list(_differing_files(files, _VOCABULARIES[name]))
        yield from found
        if not found and name != "tokenizer.json":  # those are compared with the added tokens
            added = [folder / _ADDED for folder in folders if _is_here(folder / _ADDED)]
            yield from _differing_files(added, _slow)
        return


def _differing_files(
    files: Sequence[Path], parse: Callable[[Path], dict[int, str] | None]
) -> Iterator[str]:
    differing = [file for file in files[1:] if not _are_equal(files[0], file)]
    expected = parse(files[0]) if differing else None
    for file in differing:
        yield from _token_warning(file, parse(file), files[0], expected)


def _is_here(file: Path) -> bool:
    """Tell if there is a file of text; before a download zeros stand in its place."""
    try:
        with open(file, "rb") as opened:
            return opened.read(1) != b"\0"
    except OSError:
        return False


def _are_equal(first: Path, file: Path) -> bool:
    try:
        return filecmp.cmp(first, file, shallow=False)
    except OSError:
        return False


def _token_warning(
    file: Path, found: dict[int, str] | None, first: Path, expected: dict[int, str] | None
) -> Iterator[str]:
    """Yield a warning if two vocabularies, tokens by their numbers, differ."""
    if found is None or expected is None:
        yield f"{file}: is not that of {first.parent}; if the tokens differ, do not merge the two"
        return
    for number in sorted(found.keys() | expected.keys()):
        ours, theirs = found.get(number), expected.get(number)
        if ours == theirs:
            continue
        n = sum(found.get(i) != expected.get(i) for i in found.keys() | expected.keys())
        yield (
            f"{file}: token {number} is {_said(ours)}, and {_said(theirs)} in that of "
            f"{first.parent} ({counted(n, 'token')} differ)"
        )
        return


def _said(token: str | None) -> str:
    return "none" if token is None else show(token)


def _differing_templates(folders: Sequence[Path]) -> Iterator[str]:
    found = [(folder, template) for folder in folders if (template := stated_template(folder))]
    for folder, template in found[1:]:
        first, expected = found[0]
        if template != expected:
            at = next(
                (i for i, (a, b) in enumerate(zip(template, expected, strict=False)) if a != b),
                min(len(template), len(expected)),
            )
            part = slice(max(at - _BEFORE, 0), at + _BEHIND)
            yield (
                f"{folder}: its chat template has {show(template[part])} where that of {first} has "
                f"{show(expected[part])}"
            )


def stated_template(folder: Path) -> str | None:
    """Return the chat template of a tokenizer, the default one if there are several."""
    try:
        return (folder / "chat_template.jinja").read_text(encoding="utf-8").strip()
    except (OSError, ValueError):
        pass
    for name in ("chat_template.json", "tokenizer_config.json"):
        data = _json(folder / name)
        template = data.get("chat_template") if is_object(data) else None
        if isinstance(template, list):
            named = {one.get("name"): one.get("template") for one in template if is_object(one)}
            template = named.get("default")
        if isinstance(template, str):
            return template.strip()
    return None


def _json(file: Path) -> Any:
    """Return the data of a file of JSON; None for one that is absent or damaged."""
    try:
        return json.loads(file.read_bytes())
    except (OSError, ValueError, RecursionError):
        return None


def _fast(file: Path) -> dict[int, str] | None:
    """Return the tokens of a tokenizer.json with those that were added."""
    data = _json(file)
    model = data.get("model") if is_object(data) else None
    vocabulary = model.get("vocab") if is_object(model) else None
    if is_object(vocabulary):
        tokens = _by_number(vocabulary)
    elif isinstance(vocabulary, list):  # pairs of a token and its score
        tokens = {i: str(one[0]) for i, one in enumerate(vocabulary) if isinstance(one, list)}
    else:
        return None
    for one in data.get("added_tokens") or ():
        if is_object(one) and isinstance(one.get("id"), int):
            tokens[one["id"]] = str(one.get("content"))
    return tokens


def _slow(file: Path) -> dict[int, str] | None:
    """Return the tokens of a vocab.json and the added_tokens.json beside it."""
    data, added = _json(file), _json(file.with_name(_ADDED))
    if not is_object(data):
        return None
    return _by_number(data | added if is_object(added) else data)


def _by_number(vocabulary: dict[str, Any]) -> dict[int, str]:
    return {number: token for token, number in vocabulary.items() if isinstance(number, int)}


def _lines(file: Path) -> dict[int, str] | None:
    """Return the tokens of a vocab.txt."""
    try:
        return dict(enumerate(file.read_text(encoding="utf-8").splitlines()))
    except (OSError, ValueError):
        return None


def _opaque(file: Path) -> None:
    """Return None for a file of another format."""


_VOCABULARIES: Final[dict[str, Callable[[Path], dict[int, str] | None]]] = {
    "tokenizer.json": _fast,
    "vocab.json": _slow,
    "vocab.txt": _lines,
    "tokenizer.model": _opaque,
    "spiece.model": _opaque,
    "sentencepiece.bpe.model": _opaque,
}
"""The files of a vocabulary, the one to compare first, and the functions that read them."""
