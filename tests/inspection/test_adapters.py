"""``tallies.inspect`` and ``tallies.verify`` of adapters."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

import tallies
from tallies import InputError
from tallies.inspection.adapters import describe_adapter, in_words
from tests.support import adapters
from tests.support.checkpoints import write
from tests.support.command_line import printed

BASE = adapters.model()


def test_a_module_counts_once_whatever_changes_it(tmp_path: Path) -> None:
    path = adapters.lora(BASE, targets=("q_proj", "up_proj"), dora=True).write(tmp_path / "dora")
    (adapter,) = tallies.inspect(path, fingerprints=False)["adapters"]
    assert adapter["targets"] == {"q_proj": 2, "up_proj": 2}
    assert adapter["magnitudes"] is True
    assert "LoRA with magnitudes (DoRA)" in printed("inspect", str(path))


def test_modules_of_kohya_are_counted_by_their_last_names(tmp_path: Path) -> None:
    path = adapters.kohya(BASE).write(tmp_path / "style")
    (adapter,) = tallies.inspect(path, fingerprints=False)["adapters"]
    assert set(adapter["targets"].values()) == {2}
    assert not any(name[0].isdecimal() for name in adapter["targets"])


def test_half_a_pair_is_not_whole(tmp_path: Path) -> None:
    made = adapters.lora(BASE, targets=("q_proj",))
    path = made.write(tmp_path / "half")
    assert tallies.verify(path)["kind"] == "adapter"
    gone = next(name for name in made.tensors if "lora_B" in name)
    write(
        path / "adapter_model.safetensors",
        {name: array for name, array in made.tensors.items() if name != gone},
    )
    with pytest.raises(InputError, match="stands alone, expected lora_B"):
        tallies.verify(path)


def test_no_sign_of_a_stranger_reaches_the_terminal(tmp_path: Path) -> None:
    base = "x\n\x1b[31mred"
    lora = adapters.lora(adapters.model(), base_model_name_or_path=base)
    found = describe_adapter(lora.write(tmp_path / "lora"))
    assert found["base"] == base
    rows = dict(in_words(found))
    assert rows["made for"] == r"'x\n\x1b[31mred'"
    assert all(text.isprintable() for text in rows.values())
    target = "q\x1b[2J"
    rows = dict(in_words({**found, "base": "org/llama", "targets": {target: 2}}))
    assert rows["made for"] == "org/llama"
    assert rows["changes"].endswith(r": 2 'q\x1b[2J'")


def test_an_alpha_that_is_no_number_is_left_out(tmp_path: Path) -> None:
    model = adapters.model()
    config = {"peft_type": "TRAINABLE_TOKENS", "token_indices": [1, 2], "lora_alpha": "many"}
    made = replace(adapters.tokens(model, [1, 2]), config=config)
    found = describe_adapter(made.write(tmp_path / "tokens"))
    assert found["alpha"] is None
    assert dict(in_words(found))["factors"] == "trainable tokens"
