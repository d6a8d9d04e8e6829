"""Keep the recipes that mergekit's own tests run, with their models, in the folder of CAPTURED.

A plugin for pytest, in the process that runs the tests of mergekit's source distribution, which
lacks the module ``tests.common``: the small models of the tests are made here, and a recipe that a
test hands to that module is kept and not run.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import types
from hashlib import sha256
from pathlib import Path
from typing import Any

import mergekit.merge
import transformers as tf
import yaml

FOLDER = Path(os.environ["CAPTURED"])
RECIPES = FOLDER / "recipes.jsonl"

_run_merge = mergekit.merge.run_merge
_SIZES: dict[str, Any] = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}


def _kept(value: Any) -> Any:
    """Return a recipe in which copies of the models stand for the models."""
    if isinstance(value, dict):
        return {key: _kept(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_kept(one) for one in value]
    if isinstance(value, str) and os.path.isdir(value):
        copy = FOLDER / sha256(value.encode()).hexdigest()[:12]
        if not copy.exists():
            shutil.copytree(value, copy)
        return str(copy)
    return value


def _keep(config: Any, options: Any) -> None:
    recipe = _kept(yaml.safe_load(config.to_yaml()))
    chosen = {name: getattr(options, name) for name in ("allow_crimes",)} if options else {}
    if options and options.unsafe_truncate_embeddings:
        chosen["unsafe_truncate_embeddings"] = True
    name = os.environ.get("PYTEST_CURRENT_TEST", "").partition(" ")[0]
    with RECIPES.open("a", encoding="utf-8") as file:
        file.write(json.dumps({"name": name, "recipe": recipe, "options": chosen}) + "\n")


def run_merge(merge_config: Any, out_path: str, options: Any, *more: Any, **named: Any) -> None:
    """Keep the recipe, and run it."""
    _keep(merge_config, options)
    _run_merge(merge_config, out_path, options, *more, **named)


def run_and_check_merge(config: Any, **checks: Any) -> None:
    """Keep the recipe."""
    _keep(config, None)


def _save(model: Any, path: Any) -> str:
    model.save_pretrained(path)
    return str(path)


def _llama(path: Any, vocab_size: int = 64) -> str:
    config = tf.LlamaConfig(vocab_size=vocab_size, num_attention_heads=16, **_SIZES)
    return _save(tf.LlamaForCausalLM(config), path)


def _granite(path: Any, vocab_size: int = 64) -> str:
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2}
    config = tf.GraniteConfig(vocab_size=vocab_size, **heads, **_SIZES)
    return _save(tf.GraniteForCausalLM(config), path)


def _gpt2(path: Any) -> str:
    config = tf.GPT2Config(n_embd=24, n_head=2, n_layer=12, n_positions=32, vocab_size=100)
    return _save(tf.GPT2LMHeadModel(config), path)


def _llava(path: Any) -> str:
    vision = tf.CLIPVisionConfig(
        image_size=32,
        patch_size=4,
        num_hidden_layers=2,
        num_attention_heads=2,
        hidden_size=64,
        intermediate_size=128,
    )
    text = tf.LlamaConfig(vocab_size=64, num_attention_heads=16, **_SIZES)
    config = tf.LlavaConfig(vision_config=vision, text_config=text, image_seq_length=16)
    return _save(tf.LlavaForConditionalGeneration(config), path)


mergekit.merge.run_merge = run_merge
common = types.ModuleType("tests.common")
common.run_and_check_merge = run_and_check_merge  # type: ignore[attr-defined]
common.make_picollama = _llama  # type: ignore[attr-defined]
common.make_picogranite = _granite  # type: ignore[attr-defined]
common.make_gpt2size = _gpt2  # type: ignore[attr-defined]
common.make_picoLlaVa = _llava  # type: ignore[attr-defined]
sys.modules["tests.common"] = common
