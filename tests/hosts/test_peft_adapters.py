"""Adapters that PEFT writes change a model as PEFT's own merge_and_unload does."""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import peft
import pytest
import torch
import transformers

import tallies
from tallies.checkpoint.adapters.recognising import is_adapter
from tests.support.peft_models import (
    Case,
    Convolutions,
    Written,
    classifier,
    experts,
    gpt2,
    llama,
    qwen2,
    read,
    save,
    write,
)

ALL = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
STACKS = ["experts.gate_up_proj", "experts.down_proj"]
CONVOLUTIONS = ["one", "point", "two", "three"]

CASES = {
    "linear": Case(llama, {"target_modules": ALL, "r": 4, "lora_alpha": 6}),
    "rank-stabilised": Case(llama, {"target_modules": ["q_proj"], "r": 3, "use_rslora": True}),
    "patterns": Case(
        llama,
        {
            "target_modules": ALL,
            "r": 4,
            "lora_alpha": 7,
            "rank_pattern": {"layers.1.*": 2, "q_proj": 5, r"^model\.layers\.0\.mlp.*": 3},
            "alpha_pattern": {r".*\.0\.mlp\.down_proj": 3, "v_proj": 1.5, "_proj": 100},
        },
    ),
    "pickled": Case(llama, {"target_modules": ALL}, saved={"safe_serialization": False}),
    "embeddings": Case(
        llama, {"target_modules": ["embed_tokens", "q_proj", "lm_head"], "r": 4, "lora_alpha": 6}
    ),
    "transposed layers": Case(
        gpt2, {"target_modules": ["c_attn", "c_proj", "wte"], "fan_in_fan_out": True}
    ),
    "transposed layers, not stated": Case(gpt2, {"target_modules": ["c_attn", "c_fc"]}),
    "DoRA": Case(llama, {"target_modules": [*ALL, "embed_tokens"], "use_dora": True, "r": 4}),
    "DoRA, transposed": Case(gpt2, {"target_modules": ["c_attn", "c_proj"], "use_dora": True}),
    "DoRA, convolutions": Case(Convolutions, {"target_modules": CONVOLUTIONS, "use_dora": True}),
    "convolutions": Case(Convolutions, {"target_modules": CONVOLUTIONS, "r": 3, "lora_alpha": 5}),
    "bias": Case(
        qwen2, {"target_modules": ["q_proj", "v_proj"], "lora_bias": True, "lora_alpha": 5}
    ),
    "biases trained": Case(qwen2, {"target_modules": ["q_proj"], "bias": "all"}),
    "biases of targets trained": Case(qwen2, {"target_modules": ["q_proj"], "bias": "lora_only"}),
    "all biases": Case(qwen2, {"target_modules": ["q_proj"], "bias": "all", "lora_bias": True}),
    "saved modules": Case(
        llama, {"target_modules": ["q_proj"], "modules_to_save": ["norm", "lm_head"]}
    ),
    "classifier": Case(classifier, {"target_modules": ["q_proj"], "task_type": "SEQ_CLS"}),
    "tokens": Case(llama, {"target_modules": ["q_proj"], "trainable_token_indices": [3, 9, 60]}),
    "tokens out of order": Case(
        llama,
        {
            "target_modules": ["q_proj"],
            "trainable_token_indices": {"embed_tokens": [9, 3, 60], "lm_head": [1, 2]},
        },
    ),
    "LoHa": Case(
        llama,
        {
            "target_modules": ["q_proj", "up_proj"],
            "r": 3,
            "alpha": 5,
            "rank_pattern": {"q_proj": 2},
        },
        peft.LoHaConfig,
    ),
    "LoHa, convolutions": Case(
        Convolutions, {"target_modules": ["one", "point", "two"], "r": 2}, peft.LoHaConfig
    ),
    "LoKr": Case(
        llama,
        {
            "target_modules": ["q_proj", "up_proj"],
            "r": 2,
            "alpha": 5,
            "alpha_pattern": {"q_proj": 1},
        },
        peft.LoKrConfig,
    ),
    "LoKr of four factors": Case(
        llama,
        {"target_modules": ["down_proj"], "r": 1, "decompose_both": True, "decompose_factor": 4},
        peft.LoKrConfig,
    ),
    "LoKr, whole factors": Case(llama, {"target_modules": ["down_proj"], "r": 64}, peft.LoKrConfig),
    "LoKr, convolutions": Case(
        Convolutions, {"target_modules": ["point", "two"], "r": 2}, peft.LoKrConfig
    ),
    "stacks of experts, one by one in the file": Case(
        experts("Qwen3Moe", moe_intermediate_size=24),
        {"target_modules": ["q_proj"], "target_parameters": STACKS, "r": 2},
    ),
    "stacks of experts, renamed in the file": Case(
        experts("Mixtral"), {"target_modules": ["q_proj"], "target_parameters": STACKS, "r": 2}
    ),
    "stacks of experts": Case(
        experts("Llama4", intermediate_size_mlp=48),
        {"target_modules": [], "target_parameters": STACKS, "r": 2, "lora_alpha": 3},
    ),
    "one stack of experts": Case(
        experts("Llama4", intermediate_size_mlp=48),
        {
            "target_modules": ["q_proj"],
            "target_parameters": STACKS[1:],
            "rank_pattern": {"down_proj": 5},
        },
    ),
    "square stacks, transposed": Case(
        experts("GptOss", intermediate_size=32),
        {"target_modules": ["q_proj"], "target_parameters": STACKS, "r": 2},
    ),
    "square stack alone, transposed": Case(
        experts("GptOss", intermediate_size=32),
        {"target_modules": [], "target_parameters": STACKS[1:], "r": 2},
    ),
    "stacks of experts by their own names alone": Case(
        experts("Qwen3Moe", moe_intermediate_size=24),
        {"target_modules": ["q_proj"], "target_parameters": ["down_proj", "gate_up_proj"], "r": 2},
    ),
    "one stack of experts by its own name alone": Case(
        experts("Llama4", intermediate_size_mlp=48),
        {"target_modules": r".*\.[qk]_proj", "target_parameters": ["down_proj"], "r": 2},
    ),
    "stacks of experts of two ranks": Case(
        experts("Qwen3Moe", moe_intermediate_size=24),
        {
            "target_modules": ["q_proj"],
            "target_parameters": STACKS,
            "r": 4,
            "rank_pattern": {"experts.down_proj": 2},
            "alpha_pattern": {"experts.gate_up_proj": 3},
        },
    ),
    "parameter of a layer": Case(
        llama, {"target_modules": [], "target_parameters": ["q_proj.weight"], "r": 2}
    ),
    "tokens alone": Case(
        llama,
        {"target_modules": ["embed_tokens"], "token_indices": [5, 2]},
        peft.TrainableTokensConfig,
    ),
}


def merge(text: str, out: Path, **recipe: Any) -> dict[str, torch.Tensor]:
    """Merge one model with its adapters into a directory; return its tensors."""
    models = [{"model": text, "parameters": {"weight": 1.0}}]
    tallies.merge({"merge_method": "linear", "models": models, **recipe}, out)
    return read(out)


def assert_near(found: dict[str, torch.Tensor], written: Written, bound: float = 1e-6) -> None:
    """Compare with the values of PEFT, whose sums are in another order."""
    assert found.keys() == written.merged.keys()
    for name, expected in written.merged.items():
        most = bound * max(1.0, float(expected.abs().max()))
        np.testing.assert_allclose(found[name], expected, rtol=0, atol=most, err_msg=name)


@pytest.mark.parametrize("name", CASES)
def test_a_model_changes_as_peft_merges_it(name: str, tmp_path: Path) -> None:
    written = write(CASES[name], tmp_path)
    assert is_adapter(str(written.adapters[0]))
    assert_near(merge(written.text, tmp_path / "out"), written)


def test_adapters_one_after_the_other(tmp_path: Path) -> None:
    case = Case(llama, {"target_modules": ALL, "use_dora": True, "modules_to_save": ["norm"]})
    written = write(case, tmp_path, n_adapters=2)
    assert_near(merge(written.text, tmp_path / "out"), written)


def test_several_adapters_and_one_made_of_them(tmp_path: Path) -> None:
    """PEFT's ``cat`` of two adapters is both of them; the directory of all has none itself."""
    torch.manual_seed(7)
    model = llama().eval()
    save(model, tmp_path / "base")
    configs = [peft.LoraConfig(target_modules=ALL, r=r, init_lora_weights=False) for r in (2, 3)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        adapted = peft.get_peft_model(model, configs[0], adapter_name="math")
        adapted.add_adapter("code", configs[1])
        adapted.add_weighted_adapter(["math", "code"], [1.0, 1.0], "both", "cat")
        adapted.save_pretrained(tmp_path / "adapters")
        adapted.set_adapter("both")
        save(adapted.merge_and_unload(), tmp_path / "merged")
    paths = {name: tmp_path / "adapters" / name for name in ("math", "code", "both")}
    written = Written(tmp_path / "base", [paths["both"]], read(tmp_path / "merged"))
    assert_near(merge(written.text, tmp_path / "out"), written)
    one_by_one = replace(written, adapters=[paths["math"], paths["code"]])
    assert_near(merge(one_by_one.text, tmp_path / "again"), written)
    with pytest.raises(tallies.InputError, match=r"3 in sub-directories; give .*'both', 'co"):
        merge(f"{tmp_path / 'base'}+{tmp_path / 'adapters'}", tmp_path / "none")


@pytest.mark.parametrize("dora", [False, True])
def test_bfloat16_is_that_of_peft_in_float32_within_one_unit(dora: bool, tmp_path: Path) -> None:
    more = {"use_dora": dora, "modules_to_save": ["lm_head"]}
    case = Case(llama, {"target_modules": ALL, "r": 16, **more})
    written = write(case, tmp_path, dtype=torch.bfloat16)
    found = merge(written.text, tmp_path / "out")
    for name, expected in written.merged.items():
        assert found[name].dtype == torch.bfloat16
        # Bits of one sign are in the order of the values.
        bits = [one.view(torch.int16).int() for one in (found[name], expected.bfloat16())]
        apart = (bits[0] - bits[1]).abs()
        assert apart.max() <= 1, name
        assert (apart > 0).float().mean() < 0.01, name


def test_the_merge_computes_what_the_adapter_does(tmp_path: Path) -> None:
    """The logits of the result are those of PEFT's model with the adapter beside it."""
    written = write(Case(llama, {"target_modules": ALL, "use_rslora": True}), tmp_path)
    merge(written.text, tmp_path / "out")
    tokens = torch.arange(2, 22).reshape(2, 10)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        base = transformers.AutoModelForCausalLM.from_pretrained(written.base)
        adapted = peft.PeftModel.from_pretrained(base, written.adapters[0]).eval()
        expected = adapted(tokens).logits
        found = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval()(tokens)
    torch.testing.assert_close(found.logits, expected, rtol=2e-5, atol=2e-5)


def test_task_vectors_of_adapters_are_those_of_peft(tmp_path: Path) -> None:
    """A merge of two adapters of a base is that of the models that PEFT makes of them."""
    torch.manual_seed(7)
    models = []
    for number, dora in enumerate((False, True)):
        case = Case(llama, {"target_modules": ALL, "r": 2 + number, "use_dora": dora})
        written = write(case, tmp_path / str(number))
        models.append((written.text, str(tmp_path / str(number) / "merged")))
    found, expected = (
        tallies.merge(
            {
                "merge_method": "task_arithmetic",
                "base_model": str(tmp_path / "0" / "base"),
                "models": [
                    {"model": pair[which], "parameters": {"weight": weight}}
                    for pair, weight in zip(models, (0.7, -0.4), strict=True)
                ],
            },
            tmp_path / f"out{which}",
        )
        and read(tmp_path / f"out{which}")
        for which in (0, 1)
    )
    assert_near(found, Written(tmp_path, [], expected), 2e-6)
