"""Adapters that bring tokens of their own, merged with models of another vocabulary."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

import tallies
from tests.support.tokens import tokenizer, write_tokenizer

pytestmark = pytest.mark.filterwarnings("ignore")  # PEFT uses names that transformers gives up


def save(folder: Path, n_tokens: int, plain: str, added: dict[str, bool]) -> Any:
    config = LlamaConfig(
        vocab_size=n_tokens,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=1,
        num_attention_heads=2,
        bos_token_id=0,
        eos_token_id=0,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    write_tokenizer(folder, tokenizer(plain, added))


def test_an_adapter_with_a_token_joins_as_the_model_that_peft_makes_of_it(tmp_path: Path) -> None:
    torch.manual_seed(0)
    save(tmp_path / "base", 6, "abcdef", {})
    save(tmp_path / "other", 7, "fedcba", {"<y>": True})
    model = LlamaForCausalLM.from_pretrained(tmp_path / "base")
    model.resize_token_embeddings(7)
    wanted = peft.LoraConfig(
        r=2, target_modules=["q_proj"], modules_to_save=["embed_tokens", "lm_head"]
    )
    tuned = peft.get_peft_model(model, wanted)
    for parameter in tuned.parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter)
    tuned.save_pretrained(tmp_path / "adapter", save_embedding_layers=False)
    tuned.merge_and_unload().save_pretrained(tmp_path / "whole")
    for name in ("adapter", "whole"):
        write_tokenizer(tmp_path / name, tokenizer("abcdef", {"<x>": True}))

    results = {}
    for name, text in (("adapter", "base+{}/adapter"), ("whole", "whole")):
        models = [f"{tmp_path}/{text.format(tmp_path)}", str(tmp_path / "other")]
        recipe = {"merge_method": "linear", "models": models, "tokenizer_source": "union"}
        tallies.merge(recipe, tmp_path / f"of {name}")
        results[name] = load_file(tmp_path / f"of {name}" / "model.safetensors")
    for key, tensor in results["whole"].items():
        torch.testing.assert_close(results["adapter"][key], tensor, rtol=1e-6, atol=1e-6)
    for name in results:
        tokens = AutoTokenizer.from_pretrained(tmp_path / f"of {name}").get_vocab()
        assert (tokens["<x>"], tokens["<y>"], len(tokens)) == (6, 7, 8)
