"""Whole runs of mergekit on our engine: its bits, its files, and each reason to hand a run over."""

from __future__ import annotations

import copy
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers as tf

from tallies.integrations import mergekit as seam
from tallies.integrations._mergekit_runs import run_merge
from tallies.integrations._seam import HandOver, Original
from tests.support.checkpoints import Model, read_file
from tests.support.mergekit_host import as_mergekit
from tests.support.worded_llama import tiny_llama, tokenizer_of_words

with as_mergekit():
    import mergekit.merge as host
    from mergekit.config import MergeConfiguration
    from mergekit.options import MergeOptions

RUN = "mergekit.merge.run_merge"
DTYPES = ("float32", "bfloat16", "float16")
N_WORDS = 32


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    yield
    seam.uninstall()


def words_of(number: int) -> dict[str, int]:
    own = [f"own{number}", *(f"w{i}" for i in range(4, N_WORDS))]
    return {one: i for i, one in enumerate(["<s>", "</s>", "<unk>", *own])}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Models of three layers in every dtype: ``float32-0`` and so on, each with a tokenizer."""
    here = tmp_path_factory.mktemp("models")
    torch.manual_seed(0)
    base = tiny_llama(N_WORDS, n_layers=3, intermediate_size=25)
    for number in range(8):
        model = copy.deepcopy(base)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.1)
        tokenizer = tokenizer_of_words(words_of(number))
        for dtype in DTYPES:
            one = copy.deepcopy(model).to(getattr(torch, dtype))
            one.save_pretrained(here / f"{dtype}-{number}")
            tokenizer.save_pretrained(here / f"{dtype}-{number}")
    return here


def recipe(home: Path, dtype: str, method: str, n_models: int, **keys: Any) -> dict[str, Any]:
    """Return a recipe of the first models; keys of lists are one value for each model."""
    own = {key: keys.pop(key) for key in ("weight", "density", "scale") if key in keys}
    entries = [
        {
            "model": str(home / f"{dtype}-{i}"),
            "parameters": {key: values[i] for key, values in own.items()},
        }
        for i in range(n_models)
    ]
    if keys.pop("on_base", False):
        keys["base_model"] = entries.pop(0)["model"]
    return {"merge_method": method, "models": entries, **keys}


def stacked(home: Path, dtype: str) -> dict[str, Any]:
    def piece(number: int, *layers: int, **parameters: Any) -> dict[str, Any]:
        model = str(home / f"{dtype}-{number}")
        return {
            "sources": [{"model": model, "layer_range": [*layers], "parameters": parameters}],
        }

    return {
        "merge_method": "passthrough",
        "slices": [piece(0, 0, 2), piece(1, 1, 3, scale=[0.1, 1 / 3]), piece(2, 2, 3)],
    }


def run(given: dict[str, Any], out: Path, **options: Any) -> Path:
    with as_mergekit():
        config = MergeConfiguration.model_validate(given)
        host.run_merge(config, str(out), MergeOptions(quiet=True, **options))
    return out


def both(given: dict[str, Any], work: Path, exact: bool, **options: Any) -> tuple[Path, Path]:
    """Run a recipe on ours and with mergekit alone, into directories of one name."""
    theirs = run(given, work / "theirs" / "out", **options)
    with seam.installed(exact=exact):
        ours = run(given, work / "ours" / "out", **options)
    assert names_of(ours) == names_of(theirs)
    for name in names_of(ours):
        if not name.endswith(".safetensors") and "index" not in name:
            assert (ours / name).read_text() == (theirs / name).read_text(), name
    return ours, theirs


def read(folder: Path) -> Model:
    """Return the tensors of all files."""
    files = folder.glob("*.safetensors")
    return {name: one for file in files for name, one in read_file(file).items()}


def names_of(folder: Path) -> set[str]:
    return {one.name for one in folder.iterdir()}


WEIGHTS = [0.3, [0.1, 1 / 3, 0.9], -0.25, 0.7, 0.2, 0.15, [1, 0], 0.4]

# torch adds these up in another order than their own, to another float32.
SUMMED_OTHERWISE = [0.136, 0.008, 0.955, 0.444, 0.661, 0.566, 0.702]


def exact_recipes(home: Path) -> Iterator[dict[str, Any]]:
    for dtype in DTYPES:
        for n in (1, 2, 3):
            yield recipe(home, dtype, "linear", n, weight=WEIGHTS)
        yield recipe(home, dtype, "linear", 8, weight=WEIGHTS, parameters={"normalize": False})
        yield recipe(home, dtype, "linear", 8, weight=WEIGHTS)
        yield recipe(home, dtype, "passthrough", 1)
        yield recipe(home, dtype, "passthrough", 1, scale=[-2.5])
        yield stacked(home, dtype)
    for out in ("bfloat16", "float16"):
        given = recipe(home, "float32", "linear", 2, weight=WEIGHTS)
        yield {**given, "dtype": "float32", "out_dtype": out}
    for n in (2, 3, 5):
        given = recipe(home, "float32", "task_arithmetic", n, weight=WEIGHTS, on_base=True)
        yield given
        yield {**given, "parameters": {"normalize": True, "lambda": 0.7}}
    near = recipe(home, "float32", "nearswap", 2, on_base=True)
    yield {**near, "parameters": {"t": 0.03}}


def test_exact_runs_have_the_bits_and_the_files_of_the_host(home: Path, tmp_path: Path) -> None:
    for number, given in enumerate(exact_recipes(home)):
        ours, theirs = both(given, tmp_path / str(number), True, out_shard_size=9000)
        assert seam.calls() == {"ours": 1}, given
        found, expected = read(ours), read(theirs)
        assert found.keys() == expected.keys()
        for name, tensor in expected.items():
            assert found[name].dtype == tensor.dtype
            assert found[name].tobytes() == tensor.tobytes(), (given, name)


def test_inexact_runs_have_the_files_of_the_host_and_its_values(home: Path, tmp_path: Path) -> None:
    for number, given in enumerate(
        (
            recipe(home, "float32", "ties", 3, weight=WEIGHTS, density=[0.3] * 3, on_base=True),
            recipe(home, "float32", "slerp", 2, on_base=True) | {"parameters": {"t": [0.1, 0.8]}},
            recipe(
                home, "float32", "dare_ties", 3, weight=WEIGHTS, density=[1.0] * 3, on_base=True
            ),
            recipe(home, "float32", "linear", 2, weight=[0.5, 0.5])
            | {"tokenizer": {"source": str(home / "float32-1"), "pad_to_multiple_of": 5}},
            recipe(home, "float32", "linear", 2, weight=[0.5, 0.5]) | {"chat_template": "chatml"},
        )
    ):
        ours, theirs = both(given, tmp_path / str(number), False)
        assert seam.calls() == {"ours": 1}, given
        found, expected = read(ours), read(theirs)
        assert found.keys() == expected.keys()
        for name, tensor in expected.items():
            assert np.linalg.norm(found[name] - tensor) <= 2e-5 * np.linalg.norm(tensor), name
        _, info = tf.AutoModelForCausalLM.from_pretrained(ours, output_loading_info=True)
        assert not any(info.values())


def test_joined_vocabularies_have_the_rows_of_their_tokens(home: Path, tmp_path: Path) -> None:
    given = recipe(home, "float32", "linear", 2, weight=[0.5, 0.5], tokenizer_source="union")
    with seam.installed(exact=False):
        ours = run(given, tmp_path / "out")
    assert seam.calls() == {"ours": 1}
    ids = tf.AutoTokenizer.from_pretrained(ours).get_vocab()
    assert ids.keys() == words_of(0).keys() | words_of(1).keys()
    assert json.loads((ours / "config.json").read_text())["vocab_size"] == len(ids)
    rows = read(ours)["model.embed_tokens.weight"]
    for number in (0, 1):
        alone = read(home / f"float32-{number}")["model.embed_tokens.weight"]
        own = f"own{number}"
        assert np.array_equal(rows[ids[own]], alone[words_of(number)[own]])


def test_files_of_an_earlier_result_are_written_over_and_others_stay(
    home: Path, tmp_path: Path
) -> None:
    (out := tmp_path / "out").mkdir()
    (out / "notes.txt").write_text("mine")
    (out / "model.safetensors").write_text("old")
    given = recipe(home, "float32", "linear", 2, weight=WEIGHTS)
    with seam.installed():
        run(given, out)
    assert seam.calls() == {"ours": 1}
    assert (out / "notes.txt").read_text() == "mine"
    assert read(out).keys() == read(home / "float32-0").keys()
    assert not [name for name in names_of(out) if name.startswith(".")]


def damaged(home: Path, work: Path) -> dict[str, Any]:
    """Return a recipe of a model with a NaN."""
    shutil.copytree(home / "float32-0", work / "damaged")
    file = work / "damaged" / "model.safetensors"
    content = bytearray(file.read_bytes())
    content[-4:] = np.float32(np.nan).tobytes()
    file.write_bytes(content)
    given = recipe(home, "float32", "linear", 2, weight=WEIGHTS)
    given["models"][0]["model"] = str(work / "damaged")
    return given


def test_runs_are_handed_over_for_a_reason_and_leave_nothing(home: Path, tmp_path: Path) -> None:
    linear = recipe(home, "float32", "linear", 2, weight=WEIGHTS)
    mixed = copy.deepcopy(linear)
    mixed["models"][0]["model"] = str(home / "bfloat16-0")
    ties = recipe(home, "float32", "ties", 3, weight=WEIGHTS, density=[0.3] * 3, on_base=True)
    many = recipe(home, "float32", "task_arithmetic", 7, weight=WEIGHTS, on_base=True)
    halves = recipe(home, "float16", "task_arithmetic", 3, weight=WEIGHTS, on_base=True)
    misspelt = {**linear, "parameters": {"normalise": True}}
    for exact, given, options, reason in (
        (True, ties, {}, "within rounding only"),
        (True, mixed, {}, "dtype"),
        (True, {**linear, "dtype": "bfloat16"}, {}, "dtype"),
        (True, halves, {}, "dtype"),
        (True, many, {}, "order of sums"),
        (True, recipe(home, "float32", "linear", 7, weight=SUMMED_OTHERWISE), {}, "order of sums"),
        (True, {**linear, "tokenizer_source": "union"}, {}, "vocabulary"),
        (False, linear, {"unsafe_truncate_embeddings": True}, "options"),
        (True, linear, {"device": "cuda"}, "device"),
        (False, linear, {"device": "mps"}, "device"),
        (False, linear, {"safe_serialization": False}, "options"),
        (False, misspelt, {}, "refused"),
        (False, damaged(home, tmp_path), {}, "refused"),
    ):
        with as_mergekit(), pytest.raises(HandOver, match=f"^{reason}$"):
            run_merge(
                Original(host.run_merge, exact),
                MergeConfiguration.model_validate(given),
                str(tmp_path / "out"),
                MergeOptions(quiet=True, **options),
            )
        assert not (tmp_path / "out").exists()


def test_a_result_in_the_place_of_a_model_is_the_hosts(home: Path, tmp_path: Path) -> None:
    given = recipe(home, "float32", "linear", 2, weight=WEIGHTS)
    shutil.copytree(home / "float32-0", tmp_path / "model")
    given["models"][0]["model"] = str(tmp_path / "model")
    before = {one.name: one.read_bytes() for one in (tmp_path / "model").iterdir()}
    with as_mergekit(), pytest.raises(HandOver, match=r"^refused$"):
        run_merge(
            Original(host.run_merge, False),
            MergeConfiguration.model_validate(given),
            str(tmp_path / "model"),
            MergeOptions(quiet=True),
        )
    assert {one.name: one.read_bytes() for one in (tmp_path / "model").iterdir()} == before


def test_an_executor_of_somebody_else_runs_itself(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Executor(host.Executor):  # type: ignore[misc]
        """An executor of somebody else."""

    monkeypatch.setattr(host, "Executor", Executor)
    with seam.installed():
        run(recipe(home, "float32", "linear", 2, weight=WEIGHTS), tmp_path / "out")
    assert seam.calls(RUN) == {"ours": 0, "replaced": 1}


def test_errors_of_the_host_beside_the_tensors_are_its_own(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(**facts: Any) -> str:
        raise ValueError("no card")

    monkeypatch.setattr(host, "generate_card", fail)
    with seam.installed(), pytest.raises(ValueError, match="no card"):
        run(recipe(home, "float32", "linear", 2, weight=WEIGHTS), tmp_path / "out")
    assert seam.calls() == {"ours": 1}
    assert not [name for name in names_of(tmp_path / "out") if name.startswith(".")]


def test_a_seed_gives_one_result(home: Path, tmp_path: Path) -> None:
    given = recipe(
        home, "float32", "dare_linear", 3, weight=WEIGHTS, density=[0.5] * 3, on_base=True
    )
    results = []
    for number, seed in enumerate((1, 1, 2)):
        with seam.installed(exact=False):
            out = run(given, tmp_path / str(number), random_seed=seed)
        assert seam.calls() == {"ours": 1}
        results.append(read(out)["lm_head.weight"].tobytes())
    assert results[0] == results[1] != results[2]


def test_the_run_is_served_once_its_module_is_loaded() -> None:
    code = """
import sys, warnings
warnings.simplefilter("ignore")
from tallies.integrations import mergekit as seam
seam.install()
assert "mergekit.merge" not in sys.modules
from mergekit.scripts import run_yaml
from mergekit import merge
assert run_yaml.run_merge is merge.run_merge is not merge.run_merge.__wrapped__
host = merge.run_merge.__wrapped__
seam.uninstall()
assert run_yaml.run_merge is merge.run_merge is host
seam.install()
assert run_yaml.run_merge is merge.run_merge is not host
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_an_uninstalled_seam_waits_for_no_module() -> None:
    code = """
import sys, warnings
warnings.simplefilter("ignore")
from tallies.integrations import mergekit as seam
before = [*sys.meta_path]
with seam.installed():
    assert len(sys.meta_path) == len(before) + 1
assert sys.meta_path == before
from mergekit import merge
assert not hasattr(merge.run_merge, "__wrapped__")
"""
    subprocess.run([sys.executable, "-c", code], check=True)
