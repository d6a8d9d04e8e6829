"""The config.json of a result says what its tensors are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tallies import InputError, merge, pack, plan
from tallies.store import Store
from tests.support.checkpoints import Model, write
from tests.support.merges import request

EMBEDDING = "model.embed_tokens.weight"
HEAD = "lm_head.weight"


def model(value: float, head: float | None = None, rows: int = 4) -> Model:
    made = {EMBEDDING: np.full((rows, 2), value, np.float32)}
    return made if head is None else {**made, HEAD: np.full((rows, 2), head, np.float32)}


def config_of(path: Path) -> Any:
    return json.loads((path / "config.json").read_text())


def test_the_dtype_of_a_result(tmp_path: Path) -> None:
    config = {"model_type": "llama", "dtype": "float32", "text_config": {"dtype": "float32"}}
    models = [write(tmp_path / str(i), model(i), config=config) for i in range(2)]
    merge(request("linear", models), tmp_path / "as-they-are")
    assert (tmp_path / "as-they-are/config.json").read_bytes() == (
        tmp_path / "0/config.json"
    ).read_bytes()
    merge(request("linear", models, out_dtype="bfloat16"), tmp_path / "out")
    expected = {**config, "dtype": "bfloat16", "text_config": {"dtype": "bfloat16"}}
    assert config_of(tmp_path / "out") == expected


def test_weights_that_one_model_unties(tmp_path: Path) -> None:
    config = {"tie_word_embeddings": True}
    tied = write(tmp_path / "tied", model(1, 1), config=config)
    untied = write(tmp_path / "untied", model(2, 3), config={"tie_word_embeddings": False})
    merge(request("linear", [tied, untied]), tmp_path / "out")
    assert config_of(tmp_path / "out") == {"tie_word_embeddings": False}
    merge(request("linear", [tied, tied]), tmp_path / "both")
    assert config_of(tmp_path / "both") == config
    # The files of another model say the same of the tensors.
    merge(request("linear", [untied, untied], files_from=str(tied)), tmp_path / "donated")
    assert config_of(tmp_path / "donated") == {"tie_word_embeddings": False}


@pytest.mark.parametrize("call", [plan, lambda made: merge(made, "out")])
def test_a_donor_of_other_sizes_is_refused(
    tmp_path: Path, call: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    models = [write(tmp_path / str(i), model(i)) for i in range(2)]
    donor = write(tmp_path / "donor", model(0, rows=5), config={"vocab_size": 5})
    with pytest.raises(InputError) as refused:
        call(request("linear", models, files_from=str(donor)))
    for text in (f"{donor}/config.json: vocab_size is 5", EMBEDDING, "has 4", "--files-from"):
        assert text in str(refused.value)
    assert not Path("out").exists()


def test_a_donor_without_files_is_told(tmp_path: Path) -> None:
    path = write(tmp_path / "model", model(0))
    for donor in (path, path / "model.safetensors"):
        warnings = plan(request("linear", [path], files_from=str(donor))).warnings
        assert f"files_from {str(donor)!r}: holds no configuration or tokenizer to copy" in warnings


def test_an_unpacked_task(tmp_path: Path) -> None:
    config = {"dtype": "float16", "tie_word_embeddings": True, "vocab_size": 3}
    base = write(tmp_path / "base", model(1, 1), config=config)
    task = write(tmp_path / "task", model(2, 3), config={**config, "tie_word_embeddings": False})
    pack(base, {"t": task}, tmp_path / "store", codec="sparse")
    Store.open(tmp_path / "store").unpack("t", tmp_path / "out")
    expected = {"dtype": "float32", "tie_word_embeddings": False, "vocab_size": 4}
    assert config_of(tmp_path / "out") == expected
