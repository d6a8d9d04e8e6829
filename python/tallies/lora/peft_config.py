"""Writes the configuration with which PEFT loads an adapter as it was made."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final

from .targets import Kept, Kind, Target, saved_modules

NAME: Final = "adapter_config.json"
WEIGHTS: Final = "adapter_model.safetensors"


def adapter_config(
    ranks: Mapping[Target, int],
    kept: Sequence[Kept] = (),
    *,
    base: str | None = None,
    alpha: float | None = None,
    modules: Collection[str] | None = None,
    extra: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Return the configuration of an adapter.

    Args:
        ranks: The rank of each tensor that is changed by factors.
        kept: The tensors that are held whole.
        base: The text of the model that the adapter changes.
        alpha: The alpha of all factors; None for that which makes every product's factor 1.
        modules: All modules of the model, if known: names are then as short as they can be. Else
            targets have their whole names.
        extra: Further keys, such as ``task_type``; those of this function win.

    Returns:
        Plain data.
    """
    targets = list(ranks)
    most = Counter(ranks.values()).most_common()
    # The most frequent rank, and the largest of several such: the same for any order of targets.
    rank = max((rank for rank, n in most if n == most[0][1]), default=1)
    others = {f"^{re.escape(one.key)}": r for one, r in ranks.items() if r != rank}
    whole, biases = saved_modules(list(kept), targets)
    plain = [target.key for target in targets if not target.is_parameter]
    stacked = [target.key for target in targets if target.is_parameter]
    changed = {target.module for target in targets}
    of_targets = all(one.name.rpartition(".")[0] in changed for one in biases)
    return {
        **(extra or {}),
        "peft_type": "LORA",
        "base_model_name_or_path": base,
        "inference_mode": True,
        "r": rank,
        "lora_alpha": _number(rank if alpha is None else alpha),
        "lora_dropout": 0.0,
        "target_modules": short_names(plain, modules),
        "target_parameters": short_names(stacked, modules) or None,
        "fan_in_fan_out": any(target.kind is Kind.TRANSPOSED for target in targets),
        "modules_to_save": whole or None,
        "bias": "none" if not biases else "lora_only" if of_targets else "all",
        "rank_pattern": dict(sorted(others.items())),
        "alpha_pattern": dict(sorted(others.items())) if alpha is None else {},
        "use_rslora": False,
        "use_dora": False,
        "lora_bias": False,
        "init_lora_weights": True,
    }


def short_names(targets: Sequence[str], known: Collection[str] | None) -> list[str]:
    """Return the shortest ends of names that match these targets and nothing else.

    Args:
        targets: Names of modules or of parameters.
        known: All names in the model; None where they are not known: then names stay whole.

    >>> short_names(["a.0.q", "a.1.q", "a.0.k"], ["a.0.q", "a.1.q", "a.0.k", "a.1.k"])
    ['0.k', 'q']
    """
    if known is None:
        return sorted(targets)
    wanted = set(targets)
    ends: dict[str, set[str]] = {}
    for name in {*known, *targets}:
        parts = name.split(".")
        for first in range(len(parts)):
            ends.setdefault(".".join(parts[first:]), set()).add(name)
    found = set()
    for name in targets:
        parts = name.split(".")
        suffixes = [".".join(parts[first:]) for first in reversed(range(len(parts)))]
        found.add(next((one for one in suffixes if ends[one] <= wanted), name))
    return sorted(found)


def _number(value: float) -> float | int:
    return int(value) if float(value).is_integer() else value
