"""The callback that merges the checkpoints of a trainer's run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import peft
import pytest
import torch
import transformers
from safetensors.numpy import load_file

import tallies
from tallies.integrations.transformers import MergeCheckpoints

# A warning of transformers for PEFT.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")

SIZES = {
    "vocab_size": 32,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
}


def model() -> torch.nn.Module:
    torch.manual_seed(0)
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(**SIZES))


def train(
    out: Path, callback: MergeCheckpoints, trained: torch.nn.Module | None = None, **options: Any
) -> None:
    tokens = torch.randint(0, 32, (16, 8), generator=torch.Generator().manual_seed(1))
    settings = {"max_steps": 4, "save_steps": 1, "save_total_limit": 4, **options}
    arguments = transformers.TrainingArguments(
        str(out),
        learning_rate=1e-2,
        lr_scheduler_type="constant",
        per_device_train_batch_size=4,
        use_cpu=True,
        report_to=[],
        disable_tqdm=True,
        **settings,
    )
    trainer = transformers.Trainer(
        trained or model(),
        arguments,
        train_dataset=[{"input_ids": row, "labels": row} for row in tokens],
        callbacks=[callback],
    )
    trainer.train()


def weights(path: Path) -> dict[str, Any]:
    return load_file(path / "model.safetensors")


def close(found: Any, mean: Any) -> None:
    """Assert that float32 sums of at most three products differ from the mean by rounding alone."""
    # Three products, two sums, a sum of weights and a division round by half a unit each.
    np.testing.assert_allclose(found, mean, rtol=0, atol=8 * 2.0**-24 * np.abs(mean).max())


@pytest.mark.parametrize("schedule", ["constant", "linear", "1-sqrt", "minus-sqrt", "exponential"])
def test_the_result_is_the_weighted_mean(tmp_path: Path, schedule: str) -> None:
    callback = MergeCheckpoints(schedule, last=3)
    train(tmp_path, callback)
    steps = [weights(tmp_path / f"checkpoint-{step}") for step in (2, 3, 4)]
    merged = weights(tmp_path / "merged" / "final")
    assert merged.keys() == steps[0].keys()
    shares = callback.weights(3)
    for name, value in merged.items():
        mean = sum(
            share * step[name].astype(np.float64) for share, step in zip(shares, steps, strict=True)
        )
        close(value, mean)
    transformers.LlamaForCausalLM.from_pretrained(tmp_path / "merged" / "final")


def test_checkpoints_that_the_trainer_removes_are_merged(tmp_path: Path) -> None:
    train(tmp_path, MergeCheckpoints(last=3, at_every_checkpoint=True), save_total_limit=1)
    kept = tmp_path / "merged" / ".checkpoints"
    assert sorted(path.name for path in kept.iterdir()) == [f"checkpoint-{n}" for n in (2, 3, 4)]
    assert not (tmp_path / "checkpoint-2").exists()
    steps = [weights(kept / f"checkpoint-{step}") for step in (2, 3, 4)]
    at_the_third = weights(tmp_path / "merged" / "checkpoint-3")
    final = weights(tmp_path / "merged" / "final")
    for name, value in final.items():
        mean = sum(step[name].astype(np.float64) for step in steps) / 3
        close(value, mean)
        assert not np.array_equal(value, at_the_third[name])


def test_the_mean_is_merged_with_the_model_before(tmp_path: Path) -> None:
    before = tmp_path / "before"
    model().save_pretrained(before)
    recipe = {
        "merge_method": "linear",
        "models": [
            {"model": "checkpoint", "parameters": {"weight": 0.75}},
            {"model": str(before), "parameters": {"weight": 0.25}},
        ],
    }
    out = tmp_path / "run"
    train(out, MergeCheckpoints(last=1, recipe=recipe))
    last, start = weights(out / "checkpoint-4"), weights(before)
    for name, value in weights(out / "merged" / "final").items():
        mean = 0.75 * last[name].astype(np.float64) + 0.25 * start[name]
        close(value, mean)
    assert sorted(p.name for p in (out / "merged").iterdir()) == [".checkpoints", "final"]


def test_adapters_are_merged_to_an_adapter(tmp_path: Path) -> None:
    base = tmp_path / "base"
    model().save_pretrained(base)
    loaded = transformers.LlamaForCausalLM.from_pretrained(base)
    adapted = peft.get_peft_model(loaded, peft.LoraConfig(r=2, target_modules=["q_proj"]))
    out = tmp_path / "run"
    train(out, MergeCheckpoints(last=2), adapted)

    def product(path: Path) -> torch.Tensor:
        fresh = transformers.LlamaForCausalLM.from_pretrained(base)
        merged = peft.PeftModel.from_pretrained(fresh, path)
        return merged.base_model.model.model.layers[0].self_attn.q_proj.get_delta_weight("default")

    mean = (product(out / "checkpoint-3") + product(out / "checkpoint-4")) / 2
    torch.testing.assert_close(product(out / "merged" / "final"), mean, rtol=1e-5, atol=1e-7)


def test_a_merge_that_fails_ends_no_training(tmp_path: Path) -> None:
    recipe = {"merge_method": "linear", "models": [{"model": str(tmp_path / "none")}]}
    with pytest.warns(UserWarning, match=r"were not merged: .*none"):
        train(tmp_path / "run", MergeCheckpoints(recipe=recipe))
    assert (tmp_path / "run" / "checkpoint-4" / "model.safetensors").is_file()


def test_a_run_without_checkpoints_says_so(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="were not merged: no checkpoint was saved"):
        train(tmp_path, MergeCheckpoints(), save_strategy="no")


def test_checkpoints_of_an_earlier_run_are_forgotten(tmp_path: Path) -> None:
    train(tmp_path, MergeCheckpoints(last=2))
    train(tmp_path, MergeCheckpoints(last=2), max_steps=2)
    steps = [weights(tmp_path / f"checkpoint-{step}") for step in (1, 2)]
    for name, value in weights(tmp_path / "merged" / "final").items():
        close(value, (steps[0][name].astype(np.float64) + steps[1][name]) / 2)


def test_a_run_that_goes_on_keeps_the_checkpoints_before_it(tmp_path: Path) -> None:
    callback = MergeCheckpoints(last=3)
    train(tmp_path, callback, max_steps=2)
    out = tmp_path / "merged"
    state = transformers.TrainerState(is_world_process_zero=True, global_step=2)
    arguments = transformers.TrainingArguments(str(tmp_path), report_to=[], use_cpu=True)
    callback.on_train_begin(arguments, state, None)
    assert sorted(p.name for p in (out / ".checkpoints").iterdir()) == [
        "checkpoint-1",
        "checkpoint-2",
    ]


def test_a_file_in_the_place_of_the_result_ends_no_training(tmp_path: Path) -> None:
    (tmp_path / "merged").write_text("")
    with pytest.warns(UserWarning, match="were not merged"):
        train(tmp_path, MergeCheckpoints())


def test_wrong_requests_are_refused() -> None:
    with pytest.raises(
        tallies.InputError, match="schedule '1sqrt' is not known; did you mean '1-sqrt'"
    ):
        MergeCheckpoints("1sqrt")
    with pytest.raises(tallies.InputError, match="last: found 0"):
        MergeCheckpoints(last=0)
    with pytest.raises(tallies.InputError, match=r"last: found 2\.5"):
        MergeCheckpoints(last=2.5)
    with pytest.raises(tallies.InputError, match="options: 'max_memroy' is not known"):
        MergeCheckpoints(options={"max_memroy": "1GiB"})
    with pytest.raises(tallies.InputError, match=r"recipe: found 5"):
        MergeCheckpoints(recipe=5)
