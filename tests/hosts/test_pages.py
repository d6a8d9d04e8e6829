"""The examples of the documentation that need other tools run."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.project.test_docs import FENCE, USER_PAGES, name_of
from tests.support.pipelines import save_sentence_transformer

PAGES = [
    page
    for page in USER_PAGES
    if any(mark == "hosts" for mark, _, _ in FENCE.findall(page.read_text()))
]


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_examples_with_hosts_run(page: Path, tmp_path: Path) -> None:
    for seed, name in enumerate(("embedder-a", "embedder-b")):
        save_sentence_transformer(tmp_path / name, seed)
    for mark, language, text in FENCE.findall(page.read_text()):
        if mark == "hosts":
            assert language == "python"
            subprocess.run([sys.executable, "-c", text], cwd=tmp_path, check=True)
