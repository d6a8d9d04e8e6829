"""Mutate the files of a case by what they are, so that most cases pass the first checks."""

from __future__ import annotations

import io
import json
import random
import zipfile
from collections.abc import Callable
from pathlib import PurePath
from typing import Any

from tests.fuzz.cases import Files

ODD: tuple[Any, ...] = (
    None, True, -1, 0, 1, 7, 2**31, 2**32, 2**63, 2**64, 10**30, 1.5, float("nan"), float("inf"),
    "", "x", "..", "../outside", "/etc/passwd", "a\nb", "\0", "\ud800", "F32", "BF16", [], {}, [0],
    [[]], {"": 0}, [2**40, 2**40], [-1, 4],
)  # fmt: skip
NUMBERS = b"\x00\x01\x7f\x80\xfe\xff"


def mutate(files: Files, rng: random.Random, sign: Callable[[Files, random.Random], None]) -> Files:
    """Change one or a few of the files, and sign them again most of the time."""
    changed = dict(files)
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        name = rng.choice(sorted(changed))
        changed[name] = _of_suffix(PurePath(name).suffix)(changed[name], rng)
    if rng.random() < 0.8:
        sign(changed, rng)
    return changed


def _of_suffix(suffix: str) -> Callable[[bytes, random.Random], bytes]:
    kinds = {".json": _json, ".safetensors": _safetensors, ".bin": _zip, ".yaml": _text}
    return kinds.get(suffix, _bytes)


def _bytes(data: bytes, rng: random.Random) -> bytes:
    found = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 8))):
        at = rng.randrange(len(found) + 1)
        kind = rng.randrange(6)
        if kind == 0:
            found[at : at + 1] = bytes([rng.randrange(256)])
        elif kind == 1:
            found[at : at + 1] = bytes([rng.choice(NUMBERS)])
        elif kind == 2:
            del found[at : at + rng.choice((1, 4, 8, 64))]
        elif kind == 3:
            found[at:at] = rng.randbytes(rng.choice((1, 4, 8)))
        elif kind == 4:
            n = rng.choice((2, 4, 8))
            found[at : at + n] = rng.choice((0, 1, 2**15, 2 ** (8 * n) - 1, 255)).to_bytes(
                8, "little"
            )[:n]
        else:
            begin = rng.randrange(len(found) + 1)
            found[at:at] = found[begin : begin + rng.randrange(1, 64)]
    return bytes(found)


def _text(data: bytes, rng: random.Random) -> bytes:
    if rng.random() < 0.3:
        return _bytes(data, rng)
    lines = data.decode("latin-1").split("\n")
    at = rng.randrange(len(lines))
    kind = rng.randrange(5)
    if kind == 0:
        lines.insert(at, rng.choice(lines))
    elif kind == 1:
        del lines[at]
    elif kind == 2:
        lines[at] = "  " + lines[at]
    elif kind == 3:
        lines[at] = lines[at].lstrip()
    else:
        key, colon, _ = lines[at].partition(":")
        odd = ("!!python/name:os.system", "&a [*a]", "*a", "!!set {a}", "2001-01-01", "0x10", "~")
        value = rng.choice((*odd, json.dumps(rng.choice(ODD)), json.dumps(rng.choice(lines))))
        lines[at] = f"{key}{colon} {value}"
    return "\n".join(lines).encode("latin-1")


def _json(data: bytes, rng: random.Random) -> bytes:
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        return _bytes(data, rng)
    if rng.random() < 0.1:
        return _bytes(data, rng)
    return json.dumps(tree(value, rng)).encode()


def tree(value: Any, rng: random.Random) -> Any:
    """The value with one place of it changed."""
    holder = [value]
    place: Any = holder
    key: Any = 0
    while isinstance(place[key], dict | list) and place[key] and rng.random() < 0.85:
        place = place[key]
        key = rng.choice(sorted(place)) if isinstance(place, dict) else rng.randrange(len(place))
    kind = rng.randrange(6)
    if kind == 0 and place is not holder:
        del place[key]
    elif kind == 1 and isinstance(place, dict):
        place[rng.choice((key + "x", "", "../x", "__metadata__"))] = place[key]
    elif kind == 2 and isinstance(place, list):
        place.append(place[key])
    elif kind == 3 and isinstance(place, dict):
        place[key] = place[rng.choice(sorted(place))]
    elif kind == 4 and type(place[key]) is int:
        place[key] += rng.choice((-8, -4, -1, 1, 2, 4, 64))
    else:
        place[key] = rng.choice(ODD)
    return holder[0]


def _safetensors(data: bytes, rng: random.Random) -> bytes:
    begin = 8 + int.from_bytes(data[:8], "little")
    kind = rng.random()
    if begin > len(data) or kind < 0.1:
        return _bytes(data, rng)
    head, values = data[8:begin], data[begin:]
    if kind < 0.4:
        return data[:begin] + _bytes(values, rng)[: len(values)].ljust(len(values), b"\0")
    head = _json(head, rng)
    return len(head).to_bytes(8, "little") + head + values


def _zip(data: bytes, rng: random.Random) -> bytes:
    if rng.random() < 0.4:
        return _bytes(data, rng)
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            held = [(one.filename, archive.read(one)) for one in archive.infolist()]
    except Exception:
        return _bytes(data, rng)
    if not held:
        return data
    at = max(range(len(held)), key=lambda i: (held[i][0].endswith(".pkl"), rng.random()))
    if rng.random() < 0.2:
        at = rng.randrange(len(held))
    held[at] = (held[at][0], _bytes(held[at][1], rng))
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        for name, content in held:
            archive.writestr(zipfile.ZipInfo(name), content)  # without the time of day
    return made.getvalue()
