"""The tokenizer and the chat template that a donor of small files lacks."""

from __future__ import annotations

from pathlib import Path

import numpy as np

import tallies
from tests.support.checkpoints import write


def model(path: Path, **files: str) -> str:
    write(path, {"w": np.ones(2, np.float32)})
    for name, text in files.items():
        (path / name.replace("__", ".")).write_text(text)
    return str(path)


def warnings(*models: str, **keys: str) -> list[str]:
    recipe = {"merge_method": "linear", "semantics": "paper", "models": list(models)}
    return list(tallies.plan({**recipe, **keys}).warnings)


def test_what_an_expert_has_and_the_result_would_lack_is_a_warning(tmp_path: Path) -> None:
    plain = model(tmp_path / "plain")
    chat = model(tmp_path / "chat", chat_template__jinja="{{ m }}", tokenizer__json="{}")
    found = warnings(plain, chat)
    assert len(found) == 2
    for what, text in zip(("tokenizer", "chat template"), found, strict=True):
        assert text.startswith(f"the result has no {what}")
        assert f"--files-from {chat}" in text
    assert warnings(plain, chat, files_from=chat) == []
    assert warnings(chat, plain) == []
    assert warnings(plain, plain) != warnings(plain, chat)
