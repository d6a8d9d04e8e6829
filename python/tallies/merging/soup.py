"""Builds a greedy soup: the average of the models that an evaluation is better with."""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from pathlib import Path
from typing import Any

from ..checkpoint.destination import Destination
from ..engine.codes import MAX_EXPERTS
from ..errors import InputError
from ..messages import counted, show, unknown
from .candidates import Candidates, InMemory, OnDisk


@dataclass(frozen=True)
class SoupStep:
    """One model that was tried: its own score, that of the soup with it, and if it was taken."""

    model: str
    score: float
    soup_score: float
    taken: bool


@dataclass(frozen=True)
class SoupReport:
    """The models of a greedy soup, and how they were chosen."""

    chosen: tuple[str, ...]
    """The models in the order in which they were taken; the soup is their ``linear`` merge."""
    score: float
    steps: tuple[SoupStep, ...]
    soup: Any
    """The merged dict of models in memory, or the report of the merge on disk."""

    def __str__(self) -> str:
        lines = [f"soup of {counted(len(self.chosen), 'model')}: score {self.score:.6g}"]
        for step in self.steps:
            word = "taken" if step.taken else "left"
            lines.append(f"{word:6}{step.model}: {step.score:.6g} alone, {step.soup_score:.6g}")
        return "\n".join(lines)


def greedy_soup(
    models: Mapping[str, Any] | Sequence[str | os.PathLike[str]],
    evaluate: Callable[[Any], float],
    out: str | os.PathLike[str] | None = None,
    *,
    scores: Mapping[str, float] | None = None,
    gain: float = 0.0,
    **options: Any,
) -> SoupReport:
    """Average models greedily: take each in turn if the average with it scores no worse.

    All models are checked to merge with the first one before any is evaluated, so far as values
    need not be read. They are tried from the best score to the worst, equal ones in the order
    given. The first is taken; another is taken if the average of those taken and it scores at least
    as high as the average without it (recipe 1 of Wortsman et al., Model soups, 2022, arXiv
    2203.05482). The float32 sum of those taken is kept, so that a step reads the sum and one model,
    however many were taken. The soup has the bits of one ``linear`` merge of the chosen models, in
    the order in which they were taken. Averages and the soup have the dtypes, the configuration and
    the tokenizer of the first model that was taken.

    Args:
        models: State dicts by name, which merge in memory, or paths by name, which merge on disk;
            a sequence of paths has the paths as names.
        evaluate: The function from a model to its score, the higher the better. It gets a dict of
            arrays, or the path of a checkpoint: of a given model itself, or of an average that is
            removed after the call. Its files must stay as they are.
        out: The directory to create for the soup of models on disk, in one that exists. Averages
            that are tried lie beside it until the end.
        scores: Scores of single models that are known already; the others are evaluated.
        gain: The least gain of the score for which a model is taken.
        options: Further arguments of ``merge``, such as ``max_memory``, ``threads`` and
            ``nonfinite``; for models in memory ``threads``, ``nonfinite``, ``missing``, ``extra``,
            ``integers`` and ``progress``.

    Raises:
        InputError: There are no models or too many, an argument is wrong, a score is NaN or of no
            model, the models do not merge, or an evaluation changed an average.
        StorageError: Reading or writing fails.

    >>> import numpy as np
    >>> models = {name: {"w": np.float32([x])} for name, x in (("a", 1), ("b", 4), ("c", 2))}
    >>> report = greedy_soup(models, lambda model: -abs(model["w"][0] - 1.6))
    >>> report.chosen, report.soup["w"]
    (('c', 'a'), array([1.5], dtype=float32))
    """
    named = _named(models)
    in_memory = [isinstance(one, Mapping) for one in named.values()]
    if any(in_memory) and not all(in_memory):
        raise InputError("models: found dicts and paths; give one kind")
    if any(in_memory) and out is not None:
        raise InputError("out: found a path, and the models are in memory; leave it out")
    if not any(in_memory) and out is None:
        raise InputError("out: missing; say where the soup of models on disk is to be written")
    known_options = OnDisk.OPTIONS if out is not None else InMemory.OPTIONS
    if strays := sorted(set(options) - set(known_options)):
        raise InputError(f"option {unknown(strays[0], known_options)}")
    if not isinstance(gain, Real) or not math.isfinite(gain):
        raise InputError(f"gain: found {show(gain)}, expected a finite number")
    known = _known(scores, named)
    if out is None:
        return _Soup(named, InMemory(options), evaluate, gain).build(known)
    parent = _parent(out, named, overwrite=bool(options.get("overwrite")))
    with tempfile.TemporaryDirectory(dir=parent, prefix=".tallies-soup-") as directory:
        candidates = OnDisk(Path(directory), out, options)
        return _Soup(named, candidates, evaluate, gain).build(known)


def _named(models: Mapping[str, Any] | Sequence[str | os.PathLike[str]]) -> dict[str, Any]:
    if not isinstance(models, Iterable) or isinstance(models, str | bytes):
        raise InputError(f"models: found {show(models)}, expected a list of paths or a dict")
    pairs = [*models.items()] if isinstance(models, Mapping) else [(one, one) for one in models]
    if not 1 <= len(pairs) <= MAX_EXPERTS:
        advice = "leave out the worst" if pairs else "give at least one"
        raise InputError(f"models: found {len(pairs)}, expected 1 to {MAX_EXPERTS}; {advice}")
    named: dict[str, Any] = {}
    seen: dict[str, str] = {}
    for key, model in pairs:
        if not isinstance(model, str | os.PathLike | Mapping):
            raise InputError(f"models: found {show(model)}, expected a path or a dict of tensors")
        name = os.fspath(key) if isinstance(key, os.PathLike) else key
        if not isinstance(name, str):
            raise InputError(f"models: found the name {show(name)}, expected text")
        if not isinstance(model, Mapping):
            place = os.path.realpath(model)
            if place in seen:
                raise InputError(
                    f"models: {show(seen[place])} and {show(name)} are one path; a soup takes a "
                    "model once"
                )
            seen[place] = name
        named[name] = model if isinstance(models, Mapping) else name
    return named


def _known(scores: Mapping[str, float] | None, models: Mapping[str, Any]) -> dict[str, float]:
    """Return the scores that were given, which must be numbers, and of models."""
    if not isinstance(scores, Mapping | None):
        raise InputError(f"scores: found {show(scores)}, expected a dict of numbers by name")
    if strays := [name for name in scores or {} if name not in models]:
        raise InputError(f"scores: {show(strays[0])} is no model; known are {', '.join(models)}")
    return {name: _number(score, name, "scores") for name, score in (scores or {}).items()}


def _parent(out: str | os.PathLike[str], models: Mapping[str, Any], *, overwrite: bool) -> Path:
    """Return the directory in which the soup will be; InputError if no soup may be there."""
    inputs = [one for one in models.values() if os.path.exists(one)]
    parent = Destination(out, inputs, overwrite, of_weights=True).path.parent
    if not parent.is_dir():
        raise InputError(
            f"out: the directory {parent} is missing, in which averages and soup are to be "
            "written; create it"
        )
    return parent


class _Soup:
    def __init__(
        self,
        models: Mapping[str, Any],
        candidates: Candidates,
        evaluate: Callable[[Any], float],
        gain: float,
    ) -> None:
        self._models = models
        self._candidates = candidates
        self._evaluate = evaluate
        self._gain = gain

    def build(self, known: Mapping[str, float]) -> SoupReport:
        self._candidates.check(self._models)
        own = {
            name: known[name] if name in known else self._score(model, name)
            for name, model in self._models.items()
        }
        first, *others = sorted(own, key=lambda name: -own[name])
        chosen, best = [first], own[first]
        steps = [SoupStep(first, own[first], best, taken=True)]
        self._candidates.take(self._models[first])
        for name in others:
            with self._candidates.with_one(self._models[name]) as average:
                score = self._score(average, f"the soup with {name}")
            taken = score >= best + self._gain
            steps.append(SoupStep(name, own[name], score, taken))
            if taken:
                chosen.append(name)
                best = score
                self._candidates.take(self._models[name])
        soup = self._candidates.soup([self._models[name] for name in chosen])
        return SoupReport(tuple(chosen), best, tuple(steps), soup)

    def _score(self, model: Any, name: str) -> float:
        return _number(self._evaluate(model), name, "evaluate")


def _number(score: object, name: str, giver: str) -> float:
    try:
        found = float(score)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        found = math.nan
    if math.isnan(found):
        raise InputError(f"{giver}: found {show(score)} for {name}, expected a number")
    return found
