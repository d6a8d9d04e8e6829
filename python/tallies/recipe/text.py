"""Read recipes from files and from the command line into plain data.

The text may come from anywhere, so the length of the text and the size of its data are bounded.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import yaml

from ..checkpoint.cards import RECIPE_NAME
from ..errors import InputError
from ..messages import show
from ..spec.choices import Semantics
from .stages import joined

# People type recipes; these bounds only stop files that are something else.
_MAX_BYTES = 1 << 20
_MAX_VALUES = 100_000
# A report holds results about every tensor beside the recipe.
_MAX_REPORT_BYTES = 1 << 28

# At the last colon, and only before key=value: a path may hold colons too.
_MODEL_OPTION = re.compile(r"(?P<path>.+):(?P<pairs>[A-Za-z_]\w*=[^:]*)", re.DOTALL)
_NUMBER = re.compile(r"[0-9]*\.?[0-9]+")
_COMMA = re.compile(r",(?=[^,=\[\]]+=)")  # before the next key=, not inside a gradient


def read_file(path: str) -> tuple[dict[str, Any], bool]:
    """Read the recipe in a YAML or ``.json`` file, or under ``recipe`` in a merge's report.

    Returns:
        The recipe, and True if it stands beside a result, and names models relative to itself.

    Raises:
        InputError: The file cannot be read or parsed, a key is given twice, or the data is no
            mapping or larger than a recipe.
    """
    try:
        with open(path, "rb") as file:
            limit = _MAX_REPORT_BYTES if path.endswith(".json") else _MAX_BYTES
            raw = file.read(limit + 1)
    except OSError as error:
        raise InputError(f"cannot be read ({error.strerror}), expected a recipe file") from None
    if len(raw) > limit:
        raise InputError(f"is longer than {limit} bytes, expected a recipe file")
    parse = _parse_json if path.endswith(".json") else _parse_documents
    data = _parse(parse, raw.decode("utf-8-sig", errors="replace"))
    if isinstance(data, dict) and {"tallies", "unpacked"} <= data.keys():
        raise InputError(
            "is the report on an unpacked task, expected a recipe or the report of a merge; "
            "repeat the unpacking with 'tallies unpack'"
        )
    is_report = os.path.basename(path) == RECIPE_NAME
    if isinstance(data, dict) and {"tallies", "recipe"} <= data.keys():
        data, is_report = data["recipe"], True
    _check_size(data)
    if not isinstance(data, dict):
        raise InputError(f"found {show(data)}, expected keys such as 'merge_method: ties'")
    return data, is_report


def text_keys(data: Mapping[Any, Any]) -> dict[str, Any]:
    """Return a mapping with its keys as text."""
    return {str(key): value for key, value in data.items()}


def parse_model(text: str) -> dict[str, Any]:
    """Parse ``DIR[:key=value,...]`` into an entry of a recipe's ``models``.

    Text that is the path of something that exists is a path, whatever colons the text holds.
    """
    option = None if os.path.exists(os.path.expanduser(text)) else _MODEL_OPTION.fullmatch(text)
    if option is None:
        path, _, number = text.rpartition(":")
        if _NUMBER.fullmatch(number) and not os.path.exists(os.path.expanduser(text)):
            raise InputError(f"--model {show(text)}: for a weight write {path}:weight={number}")
        return {"model": text}
    path, pairs = option["path"], _COMMA.split(option["pairs"])
    return {"model": path, "parameters": parse_pairs(pairs, f"--model {path}")}


def from_options(
    method: str,
    base: str | None,
    models: Iterable[str],
    params: Iterable[str] = (),
    **keys: Any,
) -> dict[str, Any]:
    """Return the recipe that options of the command line make.

    Options are not mergekit's: the semantics that they leave out are the paper's.

    Args:
        method: The merge method.
        base: The text of the base, or None.
        models: ``DIR[:key=value,...]`` for each model.
        params: ``key=value`` with YAML values, so that ``density=[1,0.5]`` is a gradient.
        **keys: Further keys of a recipe; None counts as not given.

    Raises:
        InputError: An option has another form.
    """
    data = {
        "merge_method": method,
        "base_model": base,
        "models": [parse_model(text) for text in models],
        "parameters": parse_pairs(params, "--param"),
        **keys,
    }
    given = {key: value for key, value in data.items() if value is not None}
    return {"semantics": Semantics.PAPER, **given}


def parse_options(text: str, where: str) -> dict[str, Any]:
    """Parse ``key=value,...`` into a mapping; values are YAML."""
    return parse_pairs(_COMMA.split(text), where)


def parse_pairs(texts: Iterable[str], where: str) -> dict[str, Any]:
    """Parse ``key=value`` texts into a mapping; values are YAML."""
    pairs: dict[str, Any] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not (equals and key):
            raise InputError(f"{where}: found {show(text)}, expected key=value")
        if key in pairs:
            raise InputError(f"{where}: {show(key)} is given twice")
        try:
            pairs[key] = _parse(_parse_yaml, value)
            _check_size(pairs[key])
        except InputError as error:
            raise InputError(f"{where}: the value of {show(key)} {error}") from None
    return pairs


def parse_lists(texts: Iterable[str], where: str) -> dict[str, list[Any]]:
    """Parse ``key=value,value`` texts into lists of values, which are YAML: a gradient is one."""
    return parse_pairs((_bracketed(text) for text in texts), where)


def _bracketed(text: str) -> str:
    key, equals, values = text.partition("=")
    return f"{key}{equals}[{values}]" if equals else text


class _Loader(yaml.SafeLoader):
    """YAML that refuses a key given twice; the stock loader keeps the last value."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            if key.value in seen:
                line = key.start_mark.line + 1
                raise ValueError(f"line {line}: the key {show(key.value)} is given twice")
            seen.add(key.value)
        return super().construct_mapping(node, deep)


def _parse_yaml(text: str) -> Any:
    return yaml.load(text, _Loader)  # noqa: S506, the loader is a safe one


def _parse_documents(text: str) -> Any:
    """Return the data of a text; several documents are the stages of one recipe."""
    found = [data for data in yaml.load_all(text, _Loader) if data is not None]
    if len(found) > 1:
        for data in found:
            _check_size(data)
        return joined(found)
    return found[0] if found else None


def _parse_json(text: str) -> Any:
    return json.loads(text, object_pairs_hook=_unique)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    data: dict[str, Any] = {}
    for key, value in pairs:
        if key in data:
            raise ValueError(f"the key {show(key)} is given twice")
        data[key] = value
    return data


def _parse(parse: Callable[[str], Any], text: str) -> Any:
    try:
        return parse(text)
    except InputError:
        raise
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise InputError(f"cannot be parsed: {' '.join(str(error).split())}") from None


def _check_size(data: Any) -> None:
    """Refuse data that is huge or endless, which YAML aliases can make of a short text."""
    waiting, n_values = [data], 0
    while waiting:
        value = waiting.pop()
        n_values += 1
        if n_values > _MAX_VALUES:
            raise InputError(f"holds more than {_MAX_VALUES} values, expected a recipe")
        if isinstance(value, dict):
            waiting.extend(value.values())
        elif isinstance(value, list):
            waiting.extend(value)
