"""Recipes as people publish them, and those of mergekit's own tests, against mergekit in float32.

Each gives mergekit's result, or stops with one line.
"""

from __future__ import annotations

import copy
import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
import yaml

from tests.support import published
from tests.support.conformance import (
    Outcome,
    captured,
    compare,
    compare_stages,
    n_run,
    share,
)
from tests.support.mergekit_host import as_mergekit
from tests.support.sdists import unpacked
from tests.support.worded_llama import tiny_llama, tokenizer_of_words

FILES = sorted(Path(published.__file__).parent.glob("*.yml"))
BASE = "kestrel-lab/Wren-7B-v0.1"
EXPERTS = (
    *("kestrel-lab/Wren-7B-Instruct-v0.2", "mossbank/Wren-Prose-7B", "fernhill/Dusky-Wren-7B"),
    *("orchardai/Wren-Math-7B", "tinygears/WrenCoder-7B"),
)
ADAPTER = "mossbank/wren-roleplay-lora"
N_WORDS = 32

PUBLISHED_THAT_RUN = len(FILES)
"""The published recipes that give mergekit's result: all of them."""

OF_MERGEKIT_THAT_RUN = 78
"""The recipes of mergekit's tests that give its result; the others are refused."""

TESTS = (
    *("test_basic_merges.py", "test_merge_dtypes.py", "test_tokenizer.py"),
    *("test_chat_template.py", "test_embedding_truncation.py", "test_vocabulary_axis.py"),
)
PLUGINS = Path(__file__).parent / "plugins"


def stir(parameters: Iterable[torch.Tensor], deviation: float) -> None:
    with torch.no_grad():
        for parameter in parameters:
            parameter.add_(torch.randn_like(parameter) * deviation)


@pytest.fixture(scope="module")
def wrens(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base of 32 layers, models tuned from it, and an adapter, under the names of the recipes."""
    here = tmp_path_factory.mktemp("wrens")
    torch.manual_seed(0)
    base = tiny_llama(N_WORDS, n_layers=32)
    stir(base.parameters(), 0.1)
    words = {"<s>": 0, "</s>": 1, "<unk>": 2, **{f"w{i}": i for i in range(3, N_WORDS)}}
    tokenizer = tokenizer_of_words(words)
    for name in (BASE, *EXPERTS):
        model = copy.deepcopy(base)
        if name != BASE:
            stir(model.parameters(), 0.02)
        model.save_pretrained(here / name)
        tokenizer.save_pretrained(here / name)
    lora = peft.LoraConfig(r=4, target_modules=["q_proj", "up_proj"])
    with as_mergekit():
        adapter = peft.get_peft_model(base, lora)
    stir((one for name, one in adapter.named_parameters() if "lora" in name), 0.1)
    with as_mergekit():
        adapter.save_pretrained(here / ADAPTER)
    return here


def check(outcomes: list[Outcome], least: int, capsys: pytest.CaptureFixture[str]) -> None:
    with capsys.disabled():
        print(f"\n{share(outcomes)}")
    assert not [one for one in outcomes if one.kind == "different"]
    assert n_run(outcomes) >= least


def test_published_recipes(
    wrens: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(wrens)
    outcomes = []
    for file in FILES:
        (work := tmp_path / file.stem).mkdir()
        recipes: list[dict[str, Any]] = list(yaml.safe_load_all(file.read_text()))
        if len(recipes) > 1:
            outcomes.append(compare_stages(file.stem, recipes, work))
        else:
            outcomes.append(compare(file.stem, recipes[0], work))
    check(outcomes, PUBLISHED_THAT_RUN, capsys)


def test_recipes_of_mergekits_own_tests(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    root = unpacked("mergekit-0.1.5", tmp_path)
    (folder := tmp_path / "captured").mkdir()
    environment = {**os.environ, "CAPTURED": str(folder), "PYTHONPATH": str(PLUGINS)}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "captured_merges"]
    ended = subprocess.run(
        [*command, "-p", "no:cacheprovider", *(f"tests/{one}" for one in TESTS)],
        cwd=root,
        env=environment,
        capture_output=True,
        text=True,
    )
    # Tests that expect a refusal of what is kept and not run fail.
    assert ended.returncode in (0, 1), ended.stdout[-2000:]
    outcomes = []
    for number, one in enumerate(captured(folder / "recipes.jsonl")):
        (work := tmp_path / str(number)).mkdir()
        name = one["name"].rpartition("::")[2]
        outcomes.append(compare(name, one["recipe"], work, **one["options"]))
    assert len(outcomes) >= 80
    check(outcomes, OF_MERGEKIT_THAT_RUN, capsys)
