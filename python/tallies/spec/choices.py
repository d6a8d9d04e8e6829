"""The words that users choose between, as enumerations."""

from __future__ import annotations

import enum


class Choice(str, enum.Enum):
    """A word of a fixed list: equal to its text, and written as its text in messages and JSON.

    ``Semantics("mergekit")`` parses a text; a text outside the list raises ValueError.

    >>> Semantics("mergekit") is Semantics.MERGEKIT, f"{Semantics.MERGEKIT}", Semantics.MERGEKIT
    (True, 'mergekit', 'mergekit')
    """

    __str__ = str.__str__
    __repr__ = str.__repr__


class Semantics(Choice):
    """The author whose variant of a method a merge follows."""

    PAPER = "paper"
    MERGEKIT = "mergekit"
    PEFT = "peft"
    FUSIONBENCH = "fusionbench"


PAPER, MERGEKIT, PEFT, FUSIONBENCH = Semantics


class Nonfinite(Choice):
    """The treatment of NaN and infinite values."""

    ERROR = "error"
    WARN = "warn"
    PROPAGATE = "propagate"


class Missing(Choice):
    """The treatment of a tensor that a model lacks and the base has."""

    ERROR = "error"
    BASE = "base"
    """The base's stands for it."""


class Extra(Choice):
    """The treatment of a tensor that a model has and the base lacks."""

    ERROR = "error"
    DROP = "drop"
    """The result is made without it."""


class Architecture(Choice):
    """The treatment of models whose configurations name different architectures."""

    SAME = "same"
    """They are refused."""
    ANY = "any"


class Tied(Choice):
    """The output head of a result, of models in which it may be the input embedding."""

    AS_BASE = "as-base"
    """Its own where the base's is."""
    TIE = "tie"
    """The embedding, and not written."""
    UNTIE = "untie"
    """A tensor of its own, merged apart."""


class Embeddings(Choice):
    """The treatment of embeddings and heads of vocabularies of different sizes."""

    ERROR = "error"
    BASE_ROWS = "base-rows"
    """Rows that not all models have are the base's."""
    TRUNCATE = "truncate"
    """Rows that not all models have are left out."""


class AdapterSpace(Choice):
    """The space in which what adapters do to a weight is merged."""

    FULL = "full"
    """The weight's own."""
    KNOTS = "knots"
    """The right singular vectors of all side by side, times the singular values."""
    CORE = "core"
    """Orthonormal bases of all left and of all right factors."""


class Scope(Choice):
    """The entries over which ranks, counts, norms or inner products are formed."""

    MODEL = "model"
    TENSOR = "tensor"
    ROW = "row"
    """A vector along the last dimension."""
    COLUMN = "column"
    """A vector along the first dimension."""


class Equal(Choice):
    """The entries that survive a trim among those of a magnitude equal to the threshold."""

    KEEP = "keep"
    """All of them, so that more than k entries may survive."""
    FIRST = "first"
    """The first in row-major order, so that exactly k entries survive."""


class Rescale(Choice):
    """The factor on the survivors of a random drop or a band."""

    NONE = "none"
    PROBABILITY = "probability"
    """The inverse of an entry's probability to survive."""
    L1 = "l1"
    """The factor that restores the sum of magnitudes of each tensor."""


class Io(Choice):
    """The way in which a run reads its inputs."""

    AUTO = "auto"
    BUFFERED = "buffered"
    """Through the page cache of the system, which keeps them for the next run."""
    DIRECT = "direct"
    """Past it, so that the system copies and keeps nothing."""
