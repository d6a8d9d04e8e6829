"""Tell how many rows the parts of a fused tensor have.

The configuration of a model has the numbers of its heads. Without it, the parts must leave rows for
each other, and all of them together must have those of the tensor.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ..json_text import is_object
from .layout_map import Rows, Rule

ConfigOf = Callable[[str], Mapping[str, Any]]


@dataclass(frozen=True)
class Part:
    """One part of a tensor whose rows are those of several."""

    rule: Rule
    index: int
    total: int
    """The rows of the tensor."""
    sizes: tuple[int, ...] | None
    """The rows of each part, where they are known."""

    def objection(self, n_rows: int, others: Mapping[int, int]) -> str | None:
        """Say what is wrong with the rows of a change, or return None.

        Args:
            n_rows: The rows of the change.
            others: The rows of the changes of other parts, by index.
        """
        if self.rule.rows is Rows.EQUAL:
            if self.sizes is None:
                return f"is one of {self._n} equal parts of {self.total} rows"
            return None
        expected = self.sizes[self.index] if self.sizes else self._from(others)
        if expected is not None:
            return None if n_rows == expected else f"has {n_rows} rows, expected {expected}"
        wanted = self._wanted(n_rows)
        return None if wanted is None else f"has {n_rows} rows, expected {wanted}"

    def _wanted(self, n_rows: int) -> str | None:
        """Say what the rows of a part must be, if others say nothing and it is not so already."""
        if n_rows < 1:
            return "one or more"
        n_equal, of_queries = self._n - 1, self.rule.rows is Rows.QUERIES
        if not self._is_own(self.index):
            left = self.total - n_equal * n_rows
            if left <= 0:
                return f"less than 1/{n_equal} of {self.total}, to leave some for the other part"
            is_off = of_queries and left % n_rows
            return f"a divisor of the {left} that they leave for queries" if is_off else None
        left = self.total - n_rows
        if left <= 0 or left % n_equal:
            return f"a number that leaves {n_equal} equal parts of the {self.total}"
        # Each key serves a group of queries.
        is_off = of_queries and n_rows % (left // n_equal)
        return f"a multiple of the {left // n_equal} that they leave for keys" if is_off else None

    def _from(self, others: Mapping[int, int]) -> int | None:
        """Return the rows that the other parts leave; None where they do not say it."""
        equal = next((n for index, n in others.items() if not self._is_own(index)), None)
        own = next((n for index, n in others.items() if self._is_own(index)), None)
        if self._is_own(self.index):
            return None if equal is None else self.total - (self._n - 1) * equal
        if equal is not None:
            return equal
        return None if own is None else (self.total - own) // (self._n - 1)

    @property
    def _n(self) -> int:
        return len(self.rule.parts)

    def _is_own(self, index: int) -> bool:
        """Tell if a part is the one that has its own number of rows."""
        return index == (0 if self.rule.rows is Rows.QUERIES else self._n - 1)


def part_sizes(rule: Rule, name: str, total: int, config_of: ConfigOf) -> tuple[int, ...] | None:
    """Return the rows of each part of a tensor; None where they are not known.

    Args:
        rule: The rule of the tensor.
        name: The tensor's name.
        total: Its rows.
        config_of: Returns the configuration of a folder.
    """
    n = len(rule.parts)
    if rule.rows is Rows.EQUAL:
        return None if total % n else (total // n,) * n
    if rule.rows is Rows.QUERIES:
        config = config_of(name.rpartition("/")[0])
        for part in (config, *filter(is_object, config.values())):
            for queries, keys in _heads(part):
                if queries + (n - 1) * keys == total:
                    return (queries, *(keys for _ in range(n - 1)))
    return None


def _heads(config: Mapping[str, Any]) -> Iterator[tuple[int, int]]:
    """Yield the rows of queries and of keys as a configuration has them."""
    n_heads = _count(config, "num_attention_heads")
    n_keys = _count(config, "num_key_value_heads") or n_heads
    size, hidden = _count(config, "head_dim"), _count(config, "hidden_size")
    if n_heads and not size and hidden % n_heads == 0:
        size = hidden // n_heads
    if n_heads and size:
        yield n_heads * size, n_keys * size


def _count(config: Mapping[str, Any], key: str) -> int:
    """Return a number of a configuration; 0 where it has none."""
    value = config.get(key)
    return value if isinstance(value, int) and value > 0 else 0
