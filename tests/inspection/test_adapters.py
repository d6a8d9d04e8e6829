"""Descriptions of adapters that strangers wrote."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from tallies.inspection.adapters import describe_adapter, in_words
from tests.support import adapters


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
