"""Requests to merge, as data, and their refusals."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tallies import methods
from tallies.errors import InputError
from tallies.recipe.config import MergeConfig
from tallies.spec.choices import Semantics

LLAMA = [
    "model.embed_tokens.weight",
    *(
        f"model.layers.{layer}.{part}.weight"
        for layer in range(4)
        for part in ("input_layernorm", "self_attn.q_proj", "mlp.up_proj")
    ),
    "model.norm.weight",
    "lm_head.weight",
]


def request(**changes: Any) -> dict[str, Any]:
    plain: dict[str, Any] = {
        "merge_method": "ties",
        "base_model": "base",
        "models": [{"model": "a"}, {"model": "b"}],
    }
    return {key: value for key, value in {**plain, **changes}.items() if value is not None}


def with_parameters(**parameters: Any) -> dict[str, Any]:
    """Return a request whose second model has these parameters."""
    return request(models=[{"model": "a"}, {"model": "b", "parameters": parameters}])


def refusal(config: Any) -> str:
    """Return the one line that refuses a request."""
    with pytest.raises(InputError) as caught:
        MergeConfig.load(config)
    text = str(caught.value)
    assert "\n" not in text
    assert caught.value.exit_status == 2
    return text


def assert_words(text: str, *words: str) -> None:
    assert [word for word in words if word not in text] == [], text


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def complete(name: str, semantics: Semantics, **keys: Any) -> dict[str, Any]:
    """A recipe of a method: models ``m0``, ``m1``, a ``base``, and what has no default."""
    method = methods.get(name)
    n_models = min(max(method.least_models, 2), method.most_models or 2)
    required = {
        key: 0.5
        for key, parameter in method.parameters(semantics).items()
        if parameter.default is None or semantics in parameter.required_by
    }
    base = {"base_model": "base"} if method.needs_base else {}
    models = [{"model": f"m{i}"} for i in range(n_models)]
    made = {"merge_method": name, "semantics": semantics, "models": models, **base, **keys}
    return {**made, "parameters": {**required, **keys.get("parameters", {})}}
