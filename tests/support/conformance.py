"""Compares what a recipe gives here with mergekit's float32 result."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from tallies import InputError, merge
from tallies.checkpoint.tied import is_by_token
from tests.support import mergekit_host
from tests.support.checkpoints import Model, read

RANDOM = ("dare_linear", "dare_ties", "della", "della_linear")
"""Methods that draw: their density is set to 1 where results are compared."""

ROUNDING = 2e-5
"""The most that a tensor may be off, relative to its norm: mergekit's float32 coefficients are."""


@dataclass(frozen=True)
class Outcome:
    """The fate of a recipe."""

    name: str
    kind: str
    """``equal``, ``rounding``, ``refused``, ``both refuse``, or ``theirs fails``."""
    said: str = ""
    """The line of a refusal, or the largest difference."""


def in_float32(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """Return a recipe whose result is float32 and not random."""
    changed = {key: value for key, value in recipe.items() if key not in ("dtype", "out_dtype")}
    changed["dtype"] = "float32"
    return _certain(changed) if recipe.get("merge_method") in RANDOM else changed


def _certain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {
            key: 1.0 if key == "density" else 0.0 if key == "epsilon" else _certain(one)
            for key, one in value.items()
        }
    return [_certain(one) for one in value] if isinstance(value, list) else value


AT_A_THRESHOLD = ("arcee_fusion",)
"""Methods that choose entries by float32 sums of mergekit's, of which a few fall otherwise."""

CHOSEN_OTHERWISE = 2e-4
"""The most of all entries that such a method may choose otherwise."""


def located(value: Any) -> Any:
    """Return a recipe with absolute paths: mergekit takes a relative one for a name of the hub."""
    if isinstance(value, Mapping):
        return {key: located(one) for key, one in value.items()}
    if isinstance(value, list):
        return [located(one) for one in value]
    if isinstance(value, str) and "/" in value:
        pieces = [Path(one).absolute() for one in value.split("+")]
        return "+".join(map(str, pieces)) if all(one.exists() for one in pieces) else value
    return value


def differences(ours: Model, theirs: Model) -> Iterator[float]:
    """Yield how far each tensor is from mergekit's, relative to its norm; 0 for equal values."""
    for name, tensor in theirs.items():
        # mergekit writes some models under the names of classes; ours keep those of the files.
        own = ours[name] if name in ours else ours[name.removeprefix("model.")]
        assert (own.dtype, own.shape) == (tensor.dtype, tensor.shape), name
        if np.array_equal(own, tensor):
            yield 0.0
        else:
            wide = tensor.astype(np.float64)
            yield float(np.linalg.norm(own - wide) / max(np.linalg.norm(wide), 1e-30))


def _ids(result: Path) -> dict[str, int]:
    """Return the number of each token of a result's tokenizer; none without a tokenizer."""
    if not (file := result / "tokenizer.json").exists():
        return {}
    data = json.loads(file.read_text(encoding="utf-8"))
    words = data["model"].get("vocab", {})
    found = dict(words if isinstance(words, dict) else {})
    return found | {one["content"]: one["id"] for one in data["added_tokens"]}


def _in_our_order(theirs: Model, their_ids: dict[str, int], ids: dict[str, int]) -> Model:
    """Return mergekit's tensors with tokens in our order, where both have the same tokens.

    New tokens come in the order of a set there.
    """
    if their_ids == ids or their_ids.keys() != ids.keys():
        return theirs
    order = np.arange(max(ids.values()) + 1)
    for token, number in ids.items():
        order[number] = their_ids[token]
    return {
        name: np.concatenate([one[order], one[len(order) :]])
        if is_by_token(name) and len(one) >= len(order)
        else one
        for name, one in theirs.items()
    }


def compare(name: str, recipe: Mapping[str, Any], work: Path, **options: Any) -> Outcome:
    """Run a recipe here and with mergekit, both in float32, from the current directory.

    Args:
        name: The name of the outcome.
        recipe: The recipe.
        work: The directory for the two results.
        **options: Options of mergekit.
    """
    changed = in_float32(recipe)
    theirs, failed = work / "theirs", ""
    try:
        mergekit_host.merge(
            located(changed), theirs, lora_merge_cache=str(work / "cache"), **options
        )
    except Exception as error:
        failed = " ".join(str(error).split()) or type(error).__name__
    own = {**changed, "semantics": "mergekit"}
    if options.get("allow_crimes"):
        own["architecture"] = "any"
    if options.get("unsafe_truncate_embeddings"):
        own["embeddings"] = "truncate"
    try:
        merge(own, work / "ours")
    except InputError as error:
        assert "\n" not in str(error)
        return Outcome(name, "both refuse" if failed else "refused", str(error))
    if failed:
        return Outcome(name, "theirs fails", failed)
    ours = work / "ours"
    ordered = _in_our_order(read(theirs), _ids(theirs), _ids(ours))
    found = read(ours)
    most = max(differences(found, ordered), default=0.0)
    if _kind(most) == "different" and recipe.get("merge_method") in AT_A_THRESHOLD:
        n_chosen = [_n_chosen_otherwise(found[key], one) for key, one in ordered.items()]
        if sum(n_chosen) <= CHOSEN_OTHERWISE * sum(one.size for one in ordered.values()):
            return Outcome(name, "rounding", f"{sum(n_chosen)} entries at a threshold")
    return Outcome(name, _kind(most), f"{most:.2g}" if most else "")


def _n_chosen_otherwise(ours: np.ndarray[Any, Any], theirs: np.ndarray[Any, Any]) -> int:
    return int(np.count_nonzero(np.abs(ours - theirs) > ROUNDING * np.abs(theirs).max()))


def compare_stages(name: str, recipes: list[dict[str, Any]], work: Path) -> Outcome:
    """Run the documents of a file here at once, and with mergekit one after the other."""
    results: dict[str, str] = {}
    for number, one in enumerate(recipes):
        own = located(in_float32({**one, "name": None}))
        own = _with_results({key: value for key, value in own.items() if value}, results)
        theirs = work / f"theirs{number}"
        mergekit_host.merge(own, theirs)
        results[one.get("name", "")] = str(theirs)
    changed = [{**in_float32(one), "semantics": "mergekit"} for one in recipes]
    (work / "stages.yml").write_text(yaml.safe_dump_all(changed), encoding="utf-8")
    merge(work / "stages.yml", work / "ours")
    most = max(differences(read(work / "ours"), read(theirs)), default=0.0)
    return Outcome(name, _kind(most), f"{most:.2g}" if most else "")


def _with_results(value: Any, results: Mapping[str, str]) -> Any:
    if isinstance(value, Mapping):
        return {key: _with_results(one, results) for key, one in value.items()}
    if isinstance(value, list):
        return [_with_results(one, results) for one in value]
    return results.get(value, value) if isinstance(value, str) else value


def _kind(most: float) -> str:
    return "equal" if most == 0 else "rounding" if most <= ROUNDING else "different"


def n_run(outcomes: list[Outcome]) -> int:
    """Return the number of recipes that give mergekit's result."""
    return sum(one.kind in ("equal", "rounding") for one in outcomes)


def share(outcomes: list[Outcome]) -> str:
    """Return the share of recipes that run as a line for people, and the others."""
    kinds = [one.kind for one in outcomes]
    n_equal, n_near = kinds.count("equal"), kinds.count("rounding")
    lines = [
        f"{n_equal + n_near} of {len(outcomes)} recipes give mergekit's float32 result "
        f"({n_equal} the same values, {n_near} within rounding), "
        f"{kinds.count('refused') + kinds.count('both refuse')} are refused on one line"
    ]
    lines += [
        f"  {one.name}: {one.kind}: {one.said}"
        for one in outcomes
        if one.kind not in ("equal", "rounding")
    ]
    return "\n".join(lines)


def captured(path: Path) -> list[dict[str, Any]]:
    """Return the recipes that a run of mergekit's tests has left in a file, a line each."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
