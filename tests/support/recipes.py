"""Requests to merge, as data, and their refusals."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tallies.errors import InputError
from tallies.recipe.config import MergeConfig

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
