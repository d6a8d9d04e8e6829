"""PEFT writes adapters, we merge them, and PEFT computes with the result what was promised."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
import transformers

import tallies

# transformers' own, of an attribute that PEFT asks for.
DEPRECATED = ".*is_gradient_checkpointing. is deprecated"
pytestmark = pytest.mark.filterwarnings(f"ignore:{DEPRECATED}")

LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def llama() -> Any:
    torch.manual_seed(0)
    return transformers.LlamaForCausalLM(
        transformers.LlamaConfig(
            vocab_size=50,
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            tie_word_embeddings=False,
        )
    ).eval()


def gpt2() -> Any:
    torch.manual_seed(0)
    config = transformers.GPT2Config(vocab_size=50, n_embd=32, n_layer=2, n_head=4, n_positions=16)
    return transformers.GPT2LMHeadModel(config).eval()


def mixtral() -> Any:
    torch.manual_seed(0)
    return transformers.Qwen3MoeForCausalLM(
        transformers.Qwen3MoeConfig(
            vocab_size=50,
            hidden_size=32,
            intermediate_size=48,
            moe_intermediate_size=24,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            num_experts=4,
            num_experts_per_tok=2,
            head_dim=8,
            tie_word_embeddings=False,
        )
    ).eval()


CASES: dict[str, tuple[Callable[[], Any], list[dict[str, Any]]]] = {
    "llama": (
        llama,
        [
            {"r": 4, "lora_alpha": 8, "target_modules": LINEAR},
            {"r": 3, "lora_alpha": 2, "target_modules": ["q_proj", "up_proj"], "use_rslora": True},
            {
                "r": 2,
                "target_modules": [*LINEAR, "embed_tokens", "lm_head"],
                "rank_pattern": {"layers.1.mlp.up_proj": 5},
                "alpha_pattern": {"q_proj": 7},
            },
        ],
    ),
    "gpt2": (
        gpt2,
        [
            {"r": 4, "target_modules": ["c_attn", "c_fc"], "fan_in_fan_out": True},
            {"r": 2, "target_modules": ["c_attn", "c_proj"], "fan_in_fan_out": True},
        ],
    ),
    "stacks": (
        mixtral,
        [
            {
                "r": rank,
                "target_modules": ["q_proj"],
                "target_parameters": ["experts.gate_up_proj", "experts.down_proj"],
            }
            for rank in (3, 3)
        ],
    ),
    "routers": (
        mixtral,
        [
            {"r": 4, "target_modules": ["q_proj"], "target_parameters": ["experts.down_proj"]},
            {"r": 3, "target_modules": [], "target_parameters": ["mlp.gate.weight"]},
        ],
    ),
}


def randomise(model: Any, seed: int) -> None:
    """Give the factors values, of which half are zero at the start."""
    torch.manual_seed(seed)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            parameter.data.normal_(std=0.2)


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model(torch.arange(40).reshape(4, 10)).logits


@pytest.fixture(params=CASES)
def case(
    request: pytest.FixtureRequest, tmp_path: Path
) -> tuple[Callable[[], Any], list[Path], list[dict[str, torch.Tensor]]]:
    """A model, adapters of it on disk, and what each adds to every weight, by PEFT."""
    make, configs = CASES[request.param]
    paths, deltas = [], []
    for seed, config in enumerate(configs):
        model = make()
        before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        adapted = peft.get_peft_model(model, peft.LoraConfig(task_type="CAUSAL_LM", **config))
        randomise(adapted, seed + 1)
        path = tmp_path / f"a{seed}"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            adapted.save_pretrained(path)
        merged = adapted.merge_and_unload().state_dict()
        paths.append(path)
        deltas.append({name: merged[name] - tensor for name, tensor in before.items()})
    return make, paths, deltas


def with_deltas(
    make: Callable[[], Any], deltas: list[tuple[float, dict[str, torch.Tensor]]]
) -> Any:
    model = make()
    state = model.state_dict()
    for weight, delta in deltas:
        for name, change in delta.items():
            state[name] += weight * change
    return model


def reloaded(make: Callable[[], Any], out: Path) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", DEPRECATED)
        warnings.filterwarnings("ignore", ".*_pattern keys did not match")
        return peft.PeftModel.from_pretrained(make(), str(out)).eval()


@pytest.mark.parametrize("method", ["task_arithmetic", "linear"])
def test_exact_sums_give_the_same_logits(case: Any, method: str, tmp_path: Path) -> None:
    make, paths, deltas = case
    weights = [0.75, -0.5, 0.25][: len(paths)]
    models = [
        {"model": str(path), "parameters": {"weight": weight}}
        for path, weight in zip(paths, weights, strict=True)
    ]
    out = tmp_path / "out"
    tallies.merge({"merge_method": method, "models": models, "adapter_rank": "full"}, out)
    divisor = sum(weights) if method == "linear" else 1.0
    summed = [(w / divisor, delta) for w, delta in zip(weights, deltas, strict=True)]
    expected, plain = logits(with_deltas(make, summed)), logits(make())
    found = logits(reloaded(make, out))
    assert (expected - plain).abs().max() > 0.01
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_lower_ranks_add_the_nearest_matrices(case: Any, tmp_path: Path) -> None:
    make, paths, deltas = case
    out = tmp_path / "out"
    models = [{"model": str(path)} for path in paths]
    report = tallies.merge(
        {"merge_method": "task_arithmetic", "models": models, "adapter_rank": 2}, out
    )
    before = make().state_dict()
    merged = reloaded(make, out).merge_and_unload().state_dict()
    total = {name: sum(delta[name] for delta in deltas) for name in before}
    for one in report.matrices:
        own, exact = merged[one.name] - before[one.name], total[one.name].double()
        u, s, v = torch.linalg.svd(exact)
        best = (u[..., :2] * s[..., None, :2]) @ v[..., :2, :]
        torch.testing.assert_close(own.double(), best, rtol=1e-4, atol=1e-5)
        lost = float(s[..., 2:].norm() / s.norm())
        assert one.error == pytest.approx(lost, 1e-3, 1e-6)
    changed = {name for name in before if not torch.equal(merged[name], before[name])}
    assert changed == {one.name for one in report.matrices}


def test_cat_of_peft_is_the_full_rank(tmp_path: Path) -> None:
    make, configs = CASES["llama"]
    model = make()
    for number, config in enumerate(configs[:2]):
        made = peft.LoraConfig(task_type="CAUSAL_LM", **config)
        if number:
            model.add_adapter(f"a{number}", made)
        else:
            model = peft.get_peft_model(model, made, adapter_name="a0")
    randomise(model, 5)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.save_pretrained(tmp_path)
    paths = [tmp_path / f"a{number}" for number in (0, 1)]
    request = {
        "merge_method": "task_arithmetic",
        "models": [{"model": str(path)} for path in paths],
        "adapter_rank": "full",
    }
    tallies.merge(request, tmp_path / "out")
    model.add_weighted_adapter(["a0", "a1"], [1.0, 1.0], "cat", combination_type="cat")
    model.set_adapter("cat")
    torch.testing.assert_close(
        logits(reloaded(make, tmp_path / "out")), logits(model.eval()), rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("method", ["ties", "dare_linear", "tsv_m", "linear"])
@pytest.mark.parametrize("space", ["full", "knots", "core"])
def test_any_method_is_reloaded(case: Any, method: str, space: str, tmp_path: Path) -> None:
    make, paths, deltas = case
    out = tmp_path / "out"
    request = {
        "merge_method": method,
        "models": [{"model": str(path)} for path in paths],
        "adapter_rank": 64,
        "adapter_space": space,
        "seed": 3,
    }
    report = tallies.merge(request, out)
    before = make().state_dict()
    merged = reloaded(make, out).merge_and_unload().state_dict()
    names = [one.name for one in report.matrices]
    changed = {name for name in before if not torch.equal(merged[name], before[name])}
    # Methods may leave nothing of a matrix of two rows.
    assert changed == {*names} if space == "full" else changed <= {*names}
    if space == "full" and method != "linear":
        # GPT-2 keeps its weights [in, out], in which the adapter is merged as well.
        zeros = {name: torch.zeros_like(before[name]) for name in names}
        experts = [{name: delta[name].contiguous() for name in names} for delta in deltas]
        expected = tallies.merge_state_dicts(zeros, experts, method=method, seed=3)
        for name in names:
            torch.testing.assert_close(
                merged[name] - before[name], expected[name], rtol=1e-3, atol=1e-5
            )
