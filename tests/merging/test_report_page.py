"""docs/report.md lists every key of a plan and of a report."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from tallies import merge, plan
from tallies.merging.explain import costs
from tests.support.checkpoints import write
from tests.support.merges import request

PAGE = Path(__file__).parents[2] / "docs" / "report.md"


def keys(heading: str) -> set[str]:
    """The words in the tables below a heading that are set as code."""
    (text,) = re.findall(rf"^## {heading}\n(.*?)(?=^## |\Z)", PAGE.read_text(), re.M | re.S)
    rows = re.findall(r"^\| (.*) \|$", text, re.MULTILINE)
    return {key for row in rows for key in re.findall(r"`(\w+)`", row)}


def test_the_page_lists_every_key(tmp_path: Path) -> None:
    models = [write(tmp_path / name, {"w": np.float32([1, 2])}) for name in ("base", "a")]
    recipe = request("ties", models[1:], base=models[0])
    made = plan(recipe)
    assert keys("Keys of a plan") >= {*made.to_json_dict(), *costs(made, 2**30, 1)}
    said = merge(recipe, tmp_path / "out").to_json_dict()
    listed = keys("Keys of a report")
    for part in (said, said["base"], said["output"]):
        assert listed >= part.keys(), part.keys() - listed
