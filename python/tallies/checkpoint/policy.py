"""The treatment of tensors that not all models of a merge have, and how its messages word it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

from ..spec.choices import Extra, Missing


@dataclass(frozen=True)
class Advice:
    """The ways out of a mismatch, as a message names them."""

    missing: str
    extra: str
    other_shape: str
    """With ``{0}`` for the name of the tensor."""
    vocabulary: str
    rename: Callable[[str, Mapping[str, str]], str]
    """Words the renaming of a model's tensors."""
    heads: str = ""
    """For output heads that only some of the models have."""


def in_recipe(label: str, rules: Mapping[str, str]) -> str:
    """Word a renaming for a recipe, and for the command line."""
    option = " ".join(f"--rename '{label}={old}:{new}'" for old, new in rules.items())
    return f"add 'rename: {json.dumps(dict(rules))}' to it in the recipe ({option})"


def in_memory(_: str, rules: Mapping[str, str]) -> str:
    """Word a renaming of a dict's keys."""
    (old, new), *others = rules.items()
    if others:
        return f"rename its keys by the prefixes {json.dumps(dict(rules))}"
    key = f"k.replace({old!r}, {new!r}, 1)" if old and new else f"{new!r} + k"
    key = key if new else f"k.removeprefix({old!r})"
    return f"rename its keys: {{{key}: v for k, v in state_dict.items()}}"


def in_pack(label: str, rules: Mapping[str, str]) -> str:
    """Word a renaming for a store, whose tasks have the names of the base."""
    options = " ".join(f"--rename '{label}={old}:{new}'" for old, new in rules.items())
    return (
        f"write it under the base's names first: tallies merge --method linear --model '{label}' "
        f"{options} --out RENAMED"
    )


RECIPE = Advice(
    "take the base's with 'missing: base' (--missing base)",
    "leave it out with 'extra: drop' (--extra drop), or remove it from the file",
    "keep the base's with 'missing: [{{filter: {0}, value: base}}]' and 'extra: [{{filter: {0}, "
    "value: drop}}]' (--missing {0}=base --extra {0}=drop)",
    "align the vocabularies with 'tokenizer: {source: base}' (or union, or a model), or keep the "
    "base's rows with 'embeddings: base-rows' (--embeddings base-rows), or only the rows that all "
    "have with 'truncate'",
    in_recipe,
    "where some models have their embedding for a head, 'tied: untie' (--tied untie) merges heads "
    "apart",
)


STATE_DICT = Advice(
    "pass missing='base' to take the base's",
    "pass extra='drop' to leave it out",
    "pass missing='base' and extra='drop' to keep the base's",
    "resize the embeddings of all models to one vocabulary first",
    in_memory,
)


PACK = Advice(
    "pass --missing base to take the base's",
    "pass --extra drop to leave it out",
    "pass --missing {0}=base and --extra {0}=drop to keep the base's",
    "resize the embeddings of all models to one vocabulary first",
    in_pack,
)


@dataclass(frozen=True)
class Policy:
    """The treatment of tensors that models have in different ways."""

    has_base: bool = True
    """True where the template is the base, whose word counts."""
    merges: bool = True
    """True where the method forms task vectors, so that the base's tensor adds nothing."""
    constants: bool = True
    """True where constant buffers are the template's, whatever the other models have."""
    counters: bool = True
    """The same of counters of batches."""
    base_rows: bool = False
    """True where rows of embeddings and heads that not all models have are the base's."""
    given: frozenset[str] = frozenset()
    """Tensors that are the template's as they are, whatever the other models have."""
    missing: Callable[[str], str] = field(default=lambda name: Missing.ERROR)
    extra: Callable[[str], str] = field(default=lambda name: Extra.ERROR)
    advice: Advice = RECIPE


STRICT: Final = Policy()
"""Models of a merge with a base, all with the base's tensors."""
