"""Merges of models whose tokenizers differ, by token."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer

from tallies import InputError, merge, plan
from tests.reference.linear import linear
from tests.reference.ties import ties_model
from tests.reference.vocabulary import aligned
from tests.support.checkpoints import Model, assert_holds, data_bytes, read
from tests.support.command import tallies, tree
from tests.support.merges import BF16, assert_fingerprints, dyadic, request
from tests.support.tokens import EMBEDDING, HEAD, rows_model, tokenizer, write_model

CHAT = {"<|im_start|>": True, "<|im_end|>": True}
TOKENS = (
    ({"abcdefgh": {}}, 8),
    ({"hgfedcba": CHAT}, 10),
    ({"abcdefgh": {"<|im_end|>": True, "<x>": False}}, 11),
)
"""By model, its plain tokens with the added ones, and its rows: the last has one of padding."""


def write_models(folder: Path, dtype: Any = np.float32) -> tuple[list[Path], list[Model]]:
    tensors = [rows_model(i, n, dtype) for i, (_, n) in enumerate(TOKENS)]
    paths = []
    for name, (said, _), one in zip(("base", "chat", "more"), TOKENS, tensors, strict=True):
        ((plain, added),) = said.items()
        paths.append(write_model(folder / name, one, tokenizer(plain, added), bos_token="a"))
    return paths, tensors


def in_rows(out: Path, tensors: list[Model], *, base: int | None, **rows: Any) -> list[Model]:
    """The models in the rows of a result's tokenizer."""
    tokens = tokens_of(out)
    own = [
        tokenizer(plain, added).get_vocab() for said, _ in TOKENS for plain, added in said.items()
    ]
    made = [dict(one) for one in tensors]
    for name in (EMBEDDING, HEAD):
        found = aligned(tokens, [one[name] for one in tensors], own, base=base, **rows)
        for one, rows_of_one in zip(made, found, strict=True):
            one[name] = rows_of_one
    return made


def tokens_of(out: Path) -> dict[str, int]:
    found: dict[str, int] = Tokenizer.from_file(str(out / "tokenizer.json")).get_vocab()
    return found


@pytest.mark.parametrize("dtype", [np.float32, BF16])
@pytest.mark.parametrize("source", ["base", "union", "chat"])
@pytest.mark.parametrize("multiple", [None, 8])
def test_tensors_are_those_of_the_models_in_joined_rows(
    tmp_path: Path, source: str, multiple: int | None, dtype: Any
) -> None:
    paths, tensors = write_models(tmp_path, dtype)
    recipe = request("ties", paths[1:], base=paths[0])
    recipe["tokenizer"] = {
        "source": str(paths[1]) if source == "chat" else source,
        "pad_to_multiple_of": multiple,
    }
    report = merge(recipe, tmp_path / "out", max_shard_size=200)
    n_tokens = {"base": 8, "union": 11, "chat": 10}[source]
    assert len(tokens_of(tmp_path / "out")) == n_tokens
    n_padding = -n_tokens % multiple if multiple else 0
    base, *experts = in_rows(tmp_path / "out", tensors, base=0, n_padding=n_padding)
    expected = ties_model(base, experts, 0.2)
    assert_holds(tmp_path / "out", {n: a.astype(dtype) for n, a in expected.items()})
    assert_fingerprints(report, paths[0], paths[1:])
    assert report.vocabulary is not None
    assert report.vocabulary["rows"] == n_tokens + n_padding
    config = json.loads((tmp_path / "out/config.json").read_text())
    assert config["vocab_size"] == n_tokens + n_padding


def test_models_without_a_base_take_means(tmp_path: Path) -> None:
    paths, tensors = write_models(tmp_path)
    recipe = request("linear", paths) | {"tokenizer_source": "union"}
    report = merge(recipe, tmp_path / "out")
    models = in_rows(tmp_path / "out", tensors, base=None)
    assert_holds(tmp_path / "out", {n: linear([m[n] for m in models]) for n in models[0]})
    assert report.vocabulary is not None
    assert report.vocabulary["averaged"] == ["<|im_end|>"]
    assert list(tokens_of(tmp_path / "out")) and report.vocabulary["zero"] == []


@pytest.mark.parametrize("options", [{"threads": 3}, {"max_memory": "64KiB"}])
def test_threads_and_memory_change_no_byte(tmp_path: Path, options: dict[str, Any]) -> None:
    paths, _ = write_models(tmp_path)
    recipe = request("ties", paths[1:], base=paths[0]) | {"tokenizer_source": "union"}
    merge(recipe, tmp_path / "one", threads=1)
    merge(recipe, tmp_path / "two", **options)
    one, two = (tmp_path / name / "model.safetensors" for name in ("one", "two"))
    assert one.read_bytes() == two.read_bytes()


@pytest.mark.parametrize("source", ["base", "union", "other"])
def test_equal_vocabularies_change_no_byte(tmp_path: Path, source: str) -> None:
    made = tokenizer("abcd", CHAT)
    paths = [write_model(tmp_path / n, rows_model(i, 8), made) for i, n in enumerate("abc")]
    recipe = request("ties", paths[1:], base=paths[0])
    merge(recipe, tmp_path / "without")
    named = str(paths[2]) if source == "other" else source
    report = merge({**recipe, "tokenizer_source": named}, tmp_path / "with")
    was, now = (tree(tmp_path / name) for name in ("without", "with"))
    assert was.keys() == now.keys()
    same = {"model.safetensors", "config.json", "tokenizer.json", "tokenizer_config.json"}
    assert all(was[name] == now[name] for name in same)
    assert report.vocabulary is not None and not report.vocabulary["changed"]
    # mergekit has no rows behind the last token.
    merge({**recipe, "tokenizer_source": named, "semantics": "mergekit"}, tmp_path / "theirs")
    assert read(tmp_path / "theirs")[EMBEDDING].shape == (6, 4)


def test_equal_tokens_in_other_bytes_change_no_byte(tmp_path: Path) -> None:
    made = tokenizer("abcd", CHAT)
    paths = [write_model(tmp_path / n, rows_model(i, 8), made) for i, n in enumerate("ab")]
    (paths[1] / "tokenizer.json").write_text(made.to_str())
    recipe = request("linear", paths) | {"tokenizer_source": "union"}
    report = merge(recipe, tmp_path / "out")
    assert report.vocabulary is not None and not report.vocabulary["changed"]
    assert read(tmp_path / "out")[EMBEDDING].shape == (8, 4)
    assert (tmp_path / "out/tokenizer.json").read_bytes() == (
        paths[0] / "tokenizer.json"
    ).read_bytes()


def test_cards_and_headers_name_no_place_of_the_machine(tmp_path: Path) -> None:
    paths, _ = write_models(tmp_path)
    recipe = request("linear", paths) | {"tokenizer_source": str(paths[1])}
    merge(recipe, tmp_path / "out")
    card = (tmp_path / "out/README.md").read_text()
    assert "Vocabulary: that of ../chat, 10 tokens" in card
    merge(recipe, tmp_path / "one.safetensors")
    for text in (card, (tmp_path / "one.safetensors").read_bytes().decode(errors="replace")):
        assert "chat" in text and str(tmp_path) not in text


def test_ids_and_files_follow_the_tokens(tmp_path: Path) -> None:
    paths, _ = write_models(tmp_path)
    for path in paths:
        config = json.loads((path / "config.json").read_text())
        (path / "config.json").write_text(json.dumps({**config, "bos_token_id": 0}))
        (path / "generation_config.json").write_text('{"bos_token_id": 0, "eos_token_id": [1]}')
    (paths[1] / "chat_template.jinja").write_text("of the chat model")
    recipe = request("linear", paths) | {"tokenizer": {"source": str(paths[1])}}
    merge(recipe, tmp_path / "out")
    assert tokens_of(tmp_path / "out")["a"] == 7
    assert json.loads((tmp_path / "out/config.json").read_text())["bos_token_id"] == 7
    generation = json.loads((tmp_path / "out/generation_config.json").read_text())
    assert generation == {"bos_token_id": 7, "eos_token_id": [6]}
    assert (tmp_path / "out/chat_template.jinja").read_text() == "of the chat model"
    again = merge(tmp_path / "out/tallies.json", tmp_path / "again")
    assert again.vocabulary is not None and again.vocabulary["tokenizer"] == "../chat"
    assert (tmp_path / "again/model.safetensors").read_bytes() == (
        tmp_path / "out/model.safetensors"
    ).read_bytes()


def test_plan_and_summary_say_what_becomes_of_the_vocabulary(tmp_path: Path) -> None:
    paths, _ = write_models(tmp_path)
    recipe = request("linear", paths)
    recipe["tokenizer"] = {"source": "union", "tokens": {"<new>": {"source": {"kind": "zero"}}}}
    made = plan(recipe)
    said = "union, 12 tokens, 4 new ('<|im_start|>', '<|im_end|>', '<x>', ...)"
    assert said in " ".join(str(made).split())
    assert "1 row averaged ('<|im_end|>')" in " ".join(str(made).split())
    assert said in " ".join(str(merge(recipe, tmp_path / "out")).split())
    assert "tokenizer" in (tmp_path / "out/mergekit_config.yml").read_text()
    assert made.to_json_dict()["vocabulary"]["added"][-1] == "<new>"


def test_a_token_of_no_model_is_warned_of(tmp_path: Path) -> None:
    paths, _ = write_models(tmp_path)
    other = write_model(tmp_path / "other", rows_model(9, 9), tokenizer("abcdefghi"))
    recipe = request("linear", paths[:2]) | {"tokenizer_source": str(other)}
    report = merge(recipe, tmp_path / "out")
    assert any("1 token of no model, whose rows are zeros: 'i'" in w for w in report.warnings)
    assert not read(tmp_path / "out")[EMBEDDING][8].any()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"source": "union", "tokens": {"<n>": {"source": "chat"}}}, ["'<n>' has no row", "chat"]),
        ({"tokens": {"<n>": {"force": True}}}, ["'<n>'", "has no source"]),
        ({"source": "absent"}, ["absent", "no such file"]),
    ],
)
def test_tokens_and_sources_that_are_not_there_are_refused(
    tmp_path: Path, change: dict[str, Any], words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_models(tmp_path)
    monkeypatch.chdir(tmp_path)
    recipe = request("linear", [Path("base"), Path("chat")]) | {"tokenizer": change}
    with pytest.raises(InputError) as refused:
        merge(recipe, tmp_path / "out")
    assert all(word in str(refused.value) for word in words)
    assert not (tmp_path / "out").exists()


def test_models_without_a_tokenizer(tmp_path: Path) -> None:
    made = tokenizer("abcdefgh")
    with_one = write_model(tmp_path / "with", rows_model(0, 8), made)
    same, more = (write_model(tmp_path / f"n{n}", rows_model(n, n), None) for n in (8, 9))
    recipe = request("linear", [with_one, same])
    recipe["tokenizer"] = {"source": "union", "pad_to_multiple_of": 3}
    report = merge(recipe, tmp_path / "out")
    assert any(f"no tokenizer.json beside '{same}'; taken to be" in w for w in report.warnings)
    for models in ([with_one, more], [same, with_one]):
        with pytest.raises(InputError, match=r"tokenizer: found no tokenizer\.json beside"):
            plan(request("linear", models) | {"tokenizer_source": "union"})


def test_a_source_with_a_number_beyond_all_others_is_refused(tmp_path: Path) -> None:
    write_models(tmp_path)
    odd = tokenizer("abcd")
    data = json.loads(odd.to_str())
    data["model"]["vocab"]["z"] = 500_000_000
    folder = write_model(tmp_path / "hx", rows_model(0, 4), odd)
    (folder / "tokenizer.json").write_text(json.dumps(data))
    recipe = request("linear", [tmp_path / "base", tmp_path / "chat"])
    with pytest.raises(InputError, match=r"hx/tokenizer\.json: token 'z' has the number 500000000"):
        plan(recipe | {"tokenizer": {"source": str(folder)}})
    made = plan(request("linear", [tmp_path / "base", folder]) | {"tokenizer_source": "union"})
    assert made.to_json_dict()["vocabulary"]["rows"] < 100
    with pytest.raises(InputError, match=r"pad_to_multiple_of: found 10000000.*at most 1048576"):
        plan(recipe | {"tokenizer": {"source": "union", "pad_to_multiple_of": 10**30}})


@pytest.mark.parametrize("word", ["truncate", "base-rows"])
def test_a_tokenizer_leaves_other_ways_with_rows_without_effect(tmp_path: Path, word: str) -> None:
    write_models(tmp_path)
    recipe = request("linear", [tmp_path / "base", tmp_path / "chat"])
    recipe |= {"tokenizer": {"source": "union"}, "base_model": str(tmp_path / "base")}
    merge(recipe, tmp_path / "alone")
    report = merge(recipe | {"embeddings": word}, tmp_path / "both")
    assert f"embeddings: {word} has no effect: the rows are those of 'tokenizer'" in report.warnings
    assert data_bytes(tmp_path / "both") == data_bytes(tmp_path / "alone")


def test_a_run_over_another_tokenizer_does_not_go_on(tmp_path: Path) -> None:
    paths, _ = write_models(tmp_path)
    recipe = request("linear", paths) | {"tokenizer_source": "union"}
    before = plan(recipe).to_json_dict()["vocabulary"]["digest"]
    text = (paths[1] / "tokenizer.json").read_text()
    (paths[1] / "tokenizer.json").write_text(text.replace('"h"', '"i"'))
    assert plan(recipe).to_json_dict()["vocabulary"]["digest"] != before


def test_chat_templates(tmp_path: Path) -> None:
    made = tokenizer("abcd")
    paths = [write_model(tmp_path / n, rows_model(i, 4), made) for i, n in enumerate("abc")]
    recipe = request("linear", paths)
    for path, text in zip(paths, ("one", "two", "two"), strict=True):
        (path / "chat_template.jinja").write_text(text)
    merge(recipe | {"chat_template": "auto"}, tmp_path / "auto")
    assert (tmp_path / "auto/chat_template.jinja").read_text() == "two"
    merge(recipe | {"chat_template": "chatml", "tokenizer_source": "union"}, tmp_path / "named")
    assert "<|im_start|>" in (tmp_path / "named/chat_template.jinja").read_text()
    assert (tmp_path / "named/model.safetensors").read_bytes() == (
        tmp_path / "auto/model.safetensors"
    ).read_bytes()
    bare = write_model(tmp_path / "bare", rows_model(5, 4), None)
    with pytest.raises(InputError, match=r"chat_template: .*no tokenizer; .*files_from"):
        merge(request("linear", [bare, bare]) | {"chat_template": "chatml"}, tmp_path / "none")


def test_the_command_line_sets_the_source(tmp_path: Path) -> None:
    paths, _ = write_models(tmp_path)
    for keys in ({"tokenizer_source": "union"}, {}):
        (tmp_path / "recipe.json").write_text(json.dumps(request("linear", paths) | keys))
        done = tallies("plan", tmp_path / "recipe.json", "--set", "tokenizer.source=base")
        assert done.status == 0, done.err
        assert "that of the base, 8 tokens" in " ".join(done.out.split())


def test_files_of_another_model_get_the_rows_of_the_result(tmp_path: Path) -> None:
    paths, _ = write_models(tmp_path)
    said = {"vocab_size": 99, "eos_token_id": 1}
    write_model(tmp_path / "donor", rows_model(3, 3), tokenizer("xab"), config=said)
    recipe = request("linear", paths) | {"tokenizer_source": "union"}
    merge(recipe | {"files_from": str(tmp_path / "donor")}, tmp_path / "out")
    config = json.loads((tmp_path / "out/config.json").read_text())
    assert (config["vocab_size"], config["eos_token_id"]) == (11, 0)
    assert len(tokens_of(tmp_path / "out")) == 11


def test_a_model_alone_is_copied_with_its_padding(tmp_path: Path) -> None:
    paths, tensors = write_models(tmp_path)
    recipe = request("passthrough", [paths[1]])
    recipe["tokenizer"] = {"source": "base", "pad_to_multiple_of": 16}
    merge(recipe | {"semantics": "mergekit"}, tmp_path / "out")
    found = read(tmp_path / "out")
    for name in (EMBEDDING, HEAD):
        mean = tensors[1][name].mean(0, dtype=np.float64).astype(np.float32)
        np.testing.assert_array_equal(found[name][:10], tensors[1][name])
        np.testing.assert_array_equal(found[name][10:], np.repeat(mean[None], 6, 0))


def test_layers_are_stacked_over_joined_rows(tmp_path: Path) -> None:
    layer = "model.layers.{}.mlp.up_proj.weight"
    tensors, rng = [], np.random.default_rng(0)
    for seed, n_rows in ((0, 8), (1, 10)):
        layers = {layer.format(i): dyadic(rng, 4, 4) for i in range(2)}
        tensors.append(rows_model(seed, n_rows) | layers)
    for name, one, (plain, added) in zip(
        ("base", "chat"), tensors, (("abcdefgh", {}), ("hgfedcba", CHAT)), strict=True
    ):
        made = tokenizer(plain, added)
        write_model(tmp_path / name, one, made, config={"num_hidden_layers": 2})
    slices = [
        {"sources": [{"model": str(tmp_path / name), "layer_range": [0, 2]}]}
        for name in ("base", "chat")
    ]
    recipe = {"merge_method": "passthrough", "slices": slices, "tokenizer_source": "union"}
    merge(recipe, tmp_path / "out")
    found = read(tmp_path / "out")
    np.testing.assert_array_equal(found[EMBEDDING][:8], tensors[0][EMBEDDING])
    np.testing.assert_array_equal(found[EMBEDDING][8:], tensors[1][EMBEDDING][8:])
    np.testing.assert_array_equal(found[HEAD][:8], tensors[1][HEAD][7::-1])
    np.testing.assert_array_equal(found[layer.format(2)], tensors[1][layer.format(0)])
    assert json.loads((tmp_path / "out/config.json").read_text())["num_hidden_layers"] == 4
