"""Runs over joined vocabularies that stopped go on where their tokenizers are the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tallies import InputError, merge
from tests.support.checkpoints import data_bytes
from tests.support.merges import request
from tests.support.tokens import rows_model, tokenizer, write_model


class Stopped(Exception):
    """The end of a run before its result."""


def stop(done: int, total: int) -> None:
    if done > 3 * total // 4:
        raise Stopped


@pytest.fixture
def recipe(tmp_path: Path) -> dict[str, Any]:
    of_base = write_model(tmp_path / "base", rows_model(0, 400), tokenizer(map(str, range(400))))
    others = [f"t{n}" for n in range(200)] + [str(n) for n in range(300)]
    chat = write_model(tmp_path / "chat", rows_model(1, 500), tokenizer(others))
    made = request("linear", [of_base, chat], max_shard_size=12_000)
    return {**made, "tokenizer": {"source": "union", "pad_to_multiple_of": 64}}


def test_a_run_goes_on(recipe: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(Stopped):
        merge(recipe, tmp_path / "out", resume=True, progress=stop)
    resumed = merge(recipe, tmp_path / "out", resume=True)
    done = merge(recipe, tmp_path / "done")
    assert resumed.output.fingerprint == done.output.fingerprint
    assert data_bytes(tmp_path / "out") == data_bytes(tmp_path / "done")


def test_a_run_over_another_tokenizer_does_not_go_on(
    recipe: dict[str, Any], tmp_path: Path
) -> None:
    with pytest.raises(Stopped):
        merge(recipe, tmp_path / "out", resume=True, progress=stop)
    file = tmp_path / "chat/tokenizer.json"
    file.write_text(file.read_text().replace('"t7"', '"u7"'))
    with pytest.raises(InputError, match=r"--resume: an input changed: .*chat/tokenizer\.json"):
        merge(recipe, tmp_path / "out", resume=True)
