"""Plan the vocabulary of a merge: its tokenizer, and the rows that models have of its tokens."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Final

from ..checkpoint.checkpoint import Checkpoint
from ..checkpoint.files import digest_of_start
from ..checkpoint.row_maps import mapped
from ..errors import InputError
from ..messages import counted, show, some
from ..recipe.places import Places
from ..spec.choices import Semantics
from ..vocabulary.joining import Known, joined
from ..vocabulary.rows import Rows, find_rows, is_identity, padding, row_map, rule
from ..vocabulary.tensors import n_token_rows, vocabulary_names
from ..vocabulary.tokenizer import FILES, TEXT, Tokenizer, cut, read

_WHY: Final = "tokenizer"


@dataclass(frozen=True)
class Vocabulary:
    """The vocabulary of a result."""

    source: str
    """``base``, ``union`` or the model whose tokenizer it is, as the recipe names it."""
    files: Mapping[str, Path]
    """The files of its tokenizer before they change, by name."""
    read: tuple[Path, ...] = ()
    """The files of all tokenizers that were read."""
    tokenizer: Tokenizer | None = None
    """None where the tokenizer stays, and with it every row."""
    rows: Rows | None = None
    n_padding: int = 0
    added: tuple[str, ...] = ()
    """Tokens that the base's tokenizer lacks."""
    warnings: tuple[str, ...] = ()

    @property
    def n_rows(self) -> int:
        """The rows of embeddings and heads."""
        return 0 if self.tokenizer is None else self.tokenizer.n_rows + self.n_padding

    @cached_property
    def digest(self) -> str:
        """Tells this vocabulary from another one over the same files."""
        found = hashlib.blake2b(digest_size=16)
        for path in self.read:
            found.update(digest_of_start(path).encode())
        for own in self.rows.own if self.rows else ():
            found.update(own.tobytes())
        return found.hexdigest()

    def to_json_dict(self) -> dict[str, Any]:
        """Return the vocabulary as plain data."""
        if self.tokenizer is None or self.rows is None:
            return {"tokenizer": self.source, "changed": False, "digest": self.digest}
        return {
            "tokenizer": self.source,
            "changed": True,
            "tokens": len(self.tokenizer.tokens),
            "rows": self.n_rows,
            "padding": self.n_padding,
            "added": list(self.added),
            "averaged": list(self.rows.averaged),
            "zero": list(self.rows.lacking),
            "digest": self.digest,
        }


def files_beside(model: Checkpoint, text: str, places: Places) -> dict[str, Path]:
    """Return the files of the tokenizer beside a model by name, downloaded if need be."""
    if places.hub_model(places.pieces(text)[0]) is None:
        beside = model.small_files()
        return {name: beside[Path(name)] for name in FILES if Path(name) in beside}
    root = Path(places.local(text, weights=False))
    found = {name: root / name for name in FILES if (root / name).is_file()}
    for adapter in model.adapters:
        found |= {path.name: path for path in adapter.tokenizer_files()}
    return found


@dataclass(frozen=True)
class Member:
    """A model whose embedding gives rows."""

    text: str
    """The model as the recipe names it."""
    model: Checkpoint
    files: Mapping[str, Path]


def join(
    request: Mapping[str, Any],
    members: Sequence[Member],
    source: Mapping[str, Path] | None,
    places: Places,
    semantics: Semantics,
    *,
    has_base: bool,
) -> Vocabulary:
    """Find the vocabulary that a recipe's ``tokenizer`` asks for.

    Args:
        request: The checked value of the key.
        members: The models, the base first if there is one.
        source: The files of the tokenizer of the model that the request names, if it names one.
        places: The directories from which the texts of models lead.
        semantics: mergekit's leaves out rows behind the last token even where nothing else moves.
        has_base: True if the first model is the base.

    Raises:
        InputError: A tokenizer is missing or is of another kind, or a token has no row.
        StorageError: A file cannot be read.
    """
    named = str(request["source"])
    files = members[0].files if source is None else source
    every = list(dict.fromkeys(path for one in members for path in one.files.values()))
    every += [path for path in files.values() if path not in every]
    if TEXT not in files and not _is_of_another_kind(files) and named != "base":
        where = members[0].text if source is None else named
        raise InputError(
            f"tokenizer: found no {TEXT} beside {show(where)}, and {show(named)} needs its tokens; "
            "name a model that has one"
        )
    asks = request.get("tokens") or request.get("pad_to_multiple_of")
    may_stay = not asks and semantics is not Semantics.MERGEKIT and _have_one_size(members)
    as_it_is = Vocabulary(named, files, tuple(every))
    if may_stay and _have_one_tokenizer(members, files):
        return as_it_is
    known, warnings = _known(members)
    base = known[0].tokenizer
    chosen = named if source is None else read(source, _WHY) or named
    tokens = request.get("tokens") or {}
    stripped = cut(base, known[0].n_rows, _WHY)
    tokenizer, more = joined(chosen, stripped, known, tokens, _WHY)
    if may_stay and all(one.tokenizer.tokens == tokenizer.tokens for one in known):
        return replace(as_it_is, warnings=tuple(warnings))
    number = _numbers(members, tokens.values(), places)
    rules = {
        token: rule(token, one.get("source"), known, number, is_forced=one["force"])
        for token, one in tokens.items()
    }
    rows = find_rows(tokenizer, known, rules, 0 if has_base else None)
    if rows.lacking:
        more.append(
            f"tokenizer: {counted(len(rows.lacking), 'token')} of no model, whose rows are zeros: "
            f"{some(rows.lacking)}"
        )
    return Vocabulary(
        named,
        files,
        tuple(every),
        tokenizer,
        rows,
        padding(tokenizer.n_rows, request.get("pad_to_multiple_of")),
        tuple(token for token in tokenizer.tokens if token not in base.tokens),
        (*warnings, *more),
    )


def place(vocabulary: Vocabulary, models: Sequence[Checkpoint]) -> list[Checkpoint]:
    """Return the models with the rows of the vocabulary in their embeddings and heads.

    Args:
        vocabulary: The vocabulary.
        models: The models, in the order in which their vocabularies were joined.
    """
    rows = vocabulary.rows
    if rows is None:
        return list(models)
    changed: list[dict[str, Any]] = [{} for _ in models]
    for name in dict.fromkeys(name for one in models for name in vocabulary_names(one)):
        having = [number for number, one in enumerate(models) if name in one.tensors]
        tensors = [models[number].tensors[name] for number in having]
        for number, tensor in zip(having, tensors, strict=True):
            label = models[number].label
            its = row_map(rows, number, having, vocabulary.n_padding, name, label)
            if not is_identity(its, tensor.shape[0]):
                changed[number][name] = mapped(tensor, its, tensors)
    return [
        replace(one, tensors={**one.tensors, **new}) if new else one
        for one, new in zip(models, changed, strict=True)
    ]


def _known(members: Sequence[Member]) -> tuple[list[Known], list[str]]:
    """Return the vocabulary of each model; one without a tokenizer has that of the first."""
    warnings: list[str] = []
    once: dict[tuple[tuple[str, str], ...], Tokenizer | None] = {}

    def of(files: Mapping[str, Path]) -> Tokenizer | None:
        key = tuple((name, digest_of_start(path)) for name, path in files.items())
        if key not in once:
            once[key] = read(files, _WHY)
        return once[key]

    first = of(members[0].files)
    rows = [n_token_rows(one.model, _WHY) for one in members]
    if first is None:
        raise InputError(
            f"tokenizer: found no {TEXT} beside {show(members[0].text)}, whose tokens go first; "
            "add one, or leave the key out"
        )
    found = []
    for one, n_rows in zip(members, rows, strict=True):
        tokenizer = of(one.files)
        if tokenizer is None:
            if n_rows != rows[0]:
                raise InputError(
                    f"tokenizer: found no {TEXT} beside {show(one.text)}, which has {n_rows} rows "
                    f"where {show(members[0].text)} has {rows[0]}; add the one that it was trained "
                    "with"
                )
            warnings.append(
                f"tokenizer: found no {TEXT} beside {show(one.text)}; taken to be that of "
                f"{show(members[0].text)}"
            )
            tokenizer = first
        found.append(Known(one.text, tokenizer, n_rows))
    return found, warnings


def _have_one_tokenizer(members: Sequence[Member], files: Mapping[str, Path]) -> bool:
    """Tell if all models have the tokenizer of these files, byte by byte, or none."""
    every = [files, *(member.files for member in members)]
    names = (TEXT,) if any(TEXT in one for one in every) else FILES
    texts = [{digest_of_start(one[name]) for one in every if name in one} for name in names]
    return max(map(len, texts)) <= 1


def _have_one_size(members: Sequence[Member]) -> bool:
    """Tell if all embeddings and heads have equally many rows."""
    sizes = {
        member.model.tensors[name].shape[0]
        for member in members
        for name in vocabulary_names(member.model)
    }
    return len(sizes) <= 1


def _is_of_another_kind(files: Mapping[str, Path]) -> bool:
    return TEXT not in files and any(name.endswith((".model", ".txt")) for name in files)


def _numbers(
    members: Sequence[Member], rules: Iterable[Mapping[str, Any]], places: Places
) -> dict[str, int]:
    """Return the number of the model that each text of a rule means."""
    by_identity: dict[str, int] = {}
    for number, one in enumerate(members):
        by_identity.setdefault(places.identity(one.text), number)
    found = {}
    for given in rules:
        source = given.get("source")
        text = source.get("model") if isinstance(source, Mapping) else source
        if text is not None and (identity := places.identity(text)) in by_identity:
            found[text] = by_identity[identity]
    return found
