"""Helpers that mergekit's tests import as ``tests.common``, which its source distribution lacks.

Small random models are written, and configurations run and checked, under the names that those
tests use.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import transformers
from mergekit.architecture import arch_info_for_config, get_architecture_info
from mergekit.merge import MergeOptions, run_merge
from safetensors import safe_open

SMALL = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}


def _saved(path: Any, kind: str, config: Any) -> str:
    getattr(transformers, kind)(config).save_pretrained(str(path))
    return str(path)


def make_picollama(path: Any, vocab_size: int = 64) -> str:
    config = transformers.LlamaConfig(vocab_size=vocab_size, num_attention_heads=16, **SMALL)
    return _saved(path, "LlamaForCausalLM", config)


def make_picogranite(path: Any, vocab_size: int = 64) -> str:
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2}
    config = transformers.GraniteConfig(vocab_size=vocab_size, **heads, **SMALL)
    return _saved(path, "GraniteForCausalLM", config)


def make_gpt2size(path: Any) -> str:
    return _saved(path, "GPT2LMHeadModel", transformers.GPT2Config())


def make_picoLlaVa(path: Any) -> str:
    vision = transformers.CLIPVisionConfig(
        image_size=32,
        patch_size=4,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
    )
    text = transformers.LlamaConfig(vocab_size=64, num_attention_heads=16, **SMALL)
    config = transformers.LlavaConfig(vision_config=vision, text_config=text, image_seq_length=16)
    return _saved(path, "LlavaForConditionalGeneration", config)


def run_and_check_merge(
    config: Any,
    check_nan: bool = True,
    check_tensors: bool = True,
    validate: Callable[[str], None] | None = None,
    index_json_name: str | None = None,
    auto_arch: bool = False,
) -> None:
    """Run a configuration, and check that all tensors are there and none has a NaN."""
    options = MergeOptions()
    with tempfile.TemporaryDirectory() as folder:
        run_merge(config, out_path=folder, options=options)
        out = Path(folder)
        index = out / (index_json_name or "model.safetensors.index.json")
        single = out / index.name.removesuffix(".index.json")
        assert index.exists() or single.exists(), "the merge wrote no tensors"
        assert (out / "config.json").exists(), "the merge wrote no config.json"
        if check_nan or check_tensors:
            names = _names(out, check_nan=check_nan)
        if check_tensors:
            written = transformers.AutoConfig.from_pretrained(folder)
            if auto_arch:
                architecture = get_architecture_info(config, options)
            else:
                architecture = arch_info_for_config(written)
            for weight in architecture.all_weights(written):
                known = {weight.name, *(weight.aliases or ())}
                if not weight.optional and not known & names:
                    raise RuntimeError(f"{weight.name}: missing in the result")
        if validate:
            validate(folder)


def _names(folder: Path, *, check_nan: bool) -> set[str]:
    names = set()
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, framework="pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118  no mapping
                names.add(name)
                assert not (check_nan and tensors.get_tensor(name).isnan().any()), name
    return names
