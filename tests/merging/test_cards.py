"""The model card and ``mergekit_config.yml`` beside a result."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tallies import InputError, MergeConfig, merge, plan
from tests.support.checkpoints import data_bytes, write
from tests.support.command_line import printed, refused
from tests.support.merges import layered
from tests.support.methods import PAIRS
from tests.support.recipes import complete

BASES_OWN = """---
license: llama3.2
license_link: https://example.org/terms
pipeline_tag: text-generation
model-index: [{name: base, results: great}]
base_model: somebody/else
---
# Base model card
"""
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current directory, with ``base``, ``m0`` and ``m1``; the base has a card."""
    monkeypatch.chdir(tmp_path)
    for seed, name in enumerate(("base", "m0", "m1")):
        write(Path(name), layered(seed), config={"model_type": "llama"})
    Path("base/README.md").write_text(BASES_OWN)
    return tmp_path


def card(out: str = "out") -> tuple[dict[str, Any], str]:
    """The front matter of a result's card, and its text."""
    text = Path(out, "README.md").read_text()
    _, matter, body = text.split("---\n", 2)
    return yaml.safe_load(matter), body


def with_license(model: str, license: str) -> None:
    Path(model, "README.md").write_text(f"---\nlicense: {license}\n---\n")


def test_the_card_is_the_merges(models: Path) -> None:
    (models / "base/docs").mkdir()
    for file in ("docs/readme.md", "docs/usage.md", "LICENSE.md", "mergekit_config.yml"):
        (models / "base" / file).write_text("of the base")
    recipe = complete("ties", "paper", parameters={"density": 0.3})
    report = merge(recipe, "out")
    matter, body = card()
    assert matter == {
        "library_name": "transformers",
        "license": "llama3.2",
        "license_link": "https://example.org/terms",
        "pipeline_tag": "text-generation",
        "tags": ["mergekit", "merge"],
    }
    text = json.dumps(matter) + body
    assert not any(word in text for word in ("Base model card", "great", "somebody"))
    for word in ("# out", "arXiv 2306.01708", "| `scope` | model |", "density: 0.3", "../m1"):
        assert word in body
    assert report.base
    for one in (report.base, *report.experts, report.output):
        assert one.fingerprint in body
    assert str(models) not in text
    assert {*data_bytes(models / "out")} == {
        *("config.json", "LICENSE.md", "docs/usage.md", "model.safetensors")
    }
    assert report.left_out == {
        "base": dict.fromkeys(
            ("README.md", "docs/readme.md", "mergekit_config.yml"),
            "tells of another model than the result",
        )
    }


def test_models_of_the_hub_are_its_base_models(models: Path) -> None:
    for model, repo in (("base", "models--org--base"), ("m1", "models--m1")):
        place = models / "hub" / repo / "snapshots" / COMMIT
        shutil.copytree(models / model, place)
    hub = models / "hub"
    base, last = (hub / f"models--{name}" / "snapshots" / COMMIT for name in ("org--base", "m1"))
    recipe = complete("ties", "paper") | {"base_model": str(base)}
    recipe["models"][1]["model"] = str(last)
    merge(recipe, "out")
    matter, body = card()
    assert matter["base_model"] == ["org/base", "m1"]
    assert "[org/base@0123456789](https://huggingface.co/org/base)" in body
    assert "| m0 | merged |" in body


def test_directories_of_one_name_are_told_apart(models: Path) -> None:
    for user in ("x", "y"):
        shutil.copytree("m0", f"{user}/model")
    recipe = complete("linear", "paper", models=[{"model": "x/model"}, {"model": "y/model"}])
    merge(recipe, "out")
    assert "| x/model | merged |" in card()[1]


@pytest.mark.parametrize(
    ("licences", "expected"),
    [
        ((None, "mit", "mit"), {}),
        (("mit", None, None), {"license": "mit"}),
        (("mit", "mit", None), {"license": "mit"}),
        (("mit", "apache-2.0", None), {"license": "other"}),
    ],
)
def test_licences(models: Path, licences: tuple[str | None, ...], expected: dict[str, str]) -> None:
    (models / "base/README.md").unlink()
    for model, license in zip(("base", "m0", "m1"), licences, strict=True):
        if license:
            with_license(model, license)
    merge(complete("ties", "paper"), "out")
    matter, body = card()
    assert {key: value for key, value in matter.items() if "license" in key} == expected
    assert ("different licences" in body) == (expected == {"license": "other"})
    for license in filter(None, licences):
        assert f"| {license} |" in body


@pytest.mark.parametrize(
    "text",
    ["", "no front matter", "---\n[1, 2]\n---\n", "---\n{{ odd: [\n---\n", "---\nlicense: x"],
)
def test_a_damaged_card_of_the_base_is_none(models: Path, text: str) -> None:
    Path("base/README.md").write_text(text)
    merge(complete("ties", "paper"), "out")
    assert card()[0] == {"library_name": "transformers", "tags": ["mergekit", "merge"]}


@pytest.mark.parametrize(
    ("file", "text", "library"),
    [
        ("modules.json", "[]", "sentence-transformers"),
        ("config.json", '{"_diffusers_version": "0.30"}', "diffusers"),
        ("config.json", '{"architectures": ["X"]}', "transformers"),
        ("config.json", "{}", None),
    ],
)
def test_the_library_follows_from_the_layout(
    models: Path, file: str, text: str, library: str | None
) -> None:
    Path("base", file).write_text(text)
    merge(complete("ties", "paper"), "out")
    assert card()[0].get("library_name") == library


def test_the_hubs_own_reader_takes_the_card(models: Path) -> None:
    hub = pytest.importorskip("huggingface_hub")
    merge(complete("ties", "paper"), "out")
    data = hub.ModelCard(Path("out/README.md").read_text()).data
    assert (data.license, data.library_name) == ("llama3.2", "transformers")
    assert data.tags == ["mergekit", "merge"]
    assert data.eval_results is None


def test_no_card(models: Path) -> None:
    merge(complete("ties", "paper", card=False), "out")
    assert {path.name for path in (models / "out").iterdir()} == {
        *("config.json", "model.safetensors", "tallies.json")
    }
    options = ("--method", "ties", "--base", "base", "--model", "m0", "--no-card", "--out")
    printed("merge", *options, "bare")
    assert not Path("bare/README.md").exists()
    printed("merge", "out/tallies.json", "again", "--card")
    assert Path("again/README.md").exists()
    with pytest.raises(InputError, match="card: found 'maybe', expected true or false"):
        plan(complete("ties", "paper", card="maybe"))


@pytest.mark.parametrize(("name", "semantics"), PAIRS)
def test_the_recipe_beside_a_result_is_the_recipe(models: Path, name: str, semantics: str) -> None:
    changes = {} if name == "slerp" or name == "linear" else {"seed": 3}
    recipe = complete(name, semantics, out_dtype="bfloat16", **changes)  # type: ignore[arg-type]
    report = merge(recipe, "out")
    again = MergeConfig.load("out/mergekit_config.yml")
    assert again.to_json_dict() == report.recipe


def test_mergekit_reads_the_recipe(models: Path, mergekit_python: str) -> None:
    names = ("linear", "ties", "dare_ties", "slerp", "task_arithmetic", "nearswap", "breadcrumbs")
    rules = [{"filter": "attn", "value": 0.5}, {"value": [0.25, 1.0]}]
    for name in names:
        weighted = {} if name in ("slerp", "nearswap") else {"parameters": {"weight": rules}}
        merge(complete(name, "mergekit", **weighted), name)
    script = (
        "import sys, yaml; from mergekit.config import MergeConfiguration, evaluate_setting\n"
        "from mergekit import merge_methods\n"
        "for name in sys.argv[1:]:\n"
        "    text = open(f'{name}/mergekit_config.yml').read()\n"
        "    made = MergeConfiguration.model_validate(yaml.safe_load(text))\n"
        "    for spec in merge_methods.get(made.merge_method).spec.parameters:\n"
        "        for given in (made.parameters, *(one.parameters for one in made.models)):\n"
        "            if spec.name in (given or {}):\n"
        "                evaluate_setting('attn', given[spec.name], validate=spec.validate)\n"
        "    print(made.merge_method, [str(one.model) for one in made.models])\n"
    )
    done = subprocess.run(
        [mergekit_python, "-I", "-c", script, *names], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines() == [f"{name} ['../m0', '../m1']" for name in names]


def test_a_recipe_of_one_file_is_refused_as_before(models: Path) -> None:
    Path("mergekit_config.yml").write_text("merge_method: ties\nmodels: []\n")
    refused(["plan", "mergekit_config.yml"], "mergekit_config.yml", "models")
