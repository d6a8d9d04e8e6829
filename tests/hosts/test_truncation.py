"""mergekit judges merges that leave out the rows which not all vocabularies have."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    PhiConfig,
    PhiForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from tests.support import mergekit_host
from tests.support.command import tallies

pytestmark = pytest.mark.filterwarnings("ignore")  # mergekit's own, and those of what it imports


def qwen2(n_tokens: int) -> Any:
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2}
    return Qwen2ForCausalLM(
        Qwen2Config(vocab_size=n_tokens, tie_word_embeddings=False, **sizes, **heads)
    )


def gpt2(n_tokens: int) -> Any:
    ends = {"bos_token_id": 0, "eos_token_id": 0}
    return GPT2LMHeadModel(GPT2Config(vocab_size=n_tokens, n_embd=32, n_layer=2, n_head=4, **ends))


def phi(n_tokens: int) -> Any:
    """A model whose head has a bias."""
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
    made = PhiForCausalLM(PhiConfig(vocab_size=n_tokens, num_attention_heads=4, **sizes))
    torch.nn.init.normal_(made.lm_head.bias)
    return made


@pytest.mark.parametrize("make", [qwen2, gpt2, phi])
@pytest.mark.parametrize("method", ["linear", "task_arithmetic"])
def test_rows_are_cut_as_mergekit_cuts_them(tmp_path: Path, make: Any, method: str) -> None:
    torch.manual_seed(0)
    paths = [tmp_path / f"{n}" for n in (70, 64, 67)]
    for path in paths:
        make(int(path.name)).save_pretrained(path)
    models = [{"model": str(path), "parameters": {"weight": 0.5}} for path in paths[1:]]
    recipe = {"merge_method": method, "models": models, "dtype": "float32"}
    if method == "task_arithmetic":
        recipe["base_model"] = str(paths[0])
    mergekit_host.merge(recipe, tmp_path / "theirs", unsafe_truncate_embeddings=True)
    (tmp_path / "recipe.yml").write_text(json.dumps(recipe))
    options = ["--unsafe-truncate-embeddings", tmp_path / "recipe.yml", tmp_path / "ours"]
    assert tallies("mergekit-yaml", *options).status == 0

    theirs, ours = (load_file(tmp_path / one / "model.safetensors") for one in ("theirs", "ours"))
    assert theirs.keys() == ours.keys()
    assert all(torch.equal(theirs[name], ours[name]) for name in ours)
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "ours").config.vocab_size == 64
