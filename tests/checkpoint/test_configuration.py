"""A config.json that is made true of the tensors beside it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest

from tallies.checkpoint.configuration import Written, stated_dtype, true_text
from tallies.checkpoint.layout import Entry
from tallies.errors import InputError

EMBEDDING = "model.embed_tokens.weight"
HEAD = "lm_head.weight"


def true(config: Mapping[str, Any], tensors: list[Entry], **how: Any) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(
        true_text(json.dumps(config).encode(), "config.json", Written(tensors, **how))
    )
    return found


BF16: list[Entry] = [("a", "BF16", (8,)), ("b", "F32", (2,)), ("c", "I64", (99,))]


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        ({"BF16": 8, "F32": 2, "I64": 99}, "bfloat16"),
        ({"F16": 2, "F64": 3}, "float64"),
        ({"F16": 4, "F32": 4}, "float32"),
        ({"F8_E4M3": 9, "F32": 1}, "float32"),
        ({"F8_E4M3": 9, "BOOL": 9}, None),
        ({}, None),
    ],
)
def test_the_dtype_of_most_elements_is_stated(sizes: dict[str, int], expected: str | None) -> None:
    assert stated_dtype([(dtype, dtype, (n, 1)) for dtype, n in sizes.items()]) == expected


@pytest.mark.parametrize(
    "text", [b'{"a": 1}', b'{\n\t"dtype":"bfloat16", "x": [1,2]\n}\r\n', b"{}"]
)
def test_a_text_that_is_true_keeps_its_bytes(text: bytes) -> None:
    assert true_text(text, "config.json", Written(BF16)) == text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            '{\n    "b": [\n        1\n    ],\n    "dtype": "float32",\n    "a": "\\u03bb"\n}',
            '{\n    "b": [\n        1\n    ],\n    "dtype": "bfloat16",\n    "a": "\\u03bb"\n}',
        ),
        ('{\n\t"dtype": "auto",\n\t"a": "λ"\n}\n', '{\n\t"dtype": "bfloat16",\n\t"a": "λ"\n}\n'),
        ('{"dtype": "float16", "a": {}}', '{"dtype": "bfloat16", "a": {}}'),
    ],
)
def test_a_text_that_changes_keeps_its_order_and_indentation(text: str, expected: str) -> None:
    assert true_text(text.encode(), "config.json", Written(BF16)) == expected.encode()


def test_nested_configurations_state_the_dtype_of_their_tensors() -> None:
    config = {
        "dtype": "float16",
        "text_config": {"torch_dtype": "float16", "model_type": "llama"},
        "vision_config": {"dtype": "float16"},
        "audio_config": {"hidden_size": 3, "dtype": None},
        "decoder": {"model_type": "gpt2", "torch_dtype": "float16"},
        "vocabulary_map": {"dtype": 17},
        "quantization_map": {"dtype": "float16"},
    }
    one = [("language_model.w", "BF16", (9,)), ("vision_tower.w", "BF16", (3,))]
    found = true(config, one)
    assert found["dtype"] == "bfloat16"
    assert [found[part]["torch_dtype"] for part in ("text_config", "decoder")] == ["bfloat16"] * 2
    assert found["vision_config"]["dtype"] == "bfloat16"
    for part in ("audio_config", "vocabulary_map", "quantization_map"):
        assert found[part] == config[part]
    for name in ("model.visual.blocks.0.w", "vision_model.w"):
        found = true(config, [("language_model.w", "BF16", (9,)), (name, "F32", (3,))])
        assert found["text_config"]["torch_dtype"] == found["dtype"] == "bfloat16"
        assert found["vision_config"]["dtype"] == "float32"


def test_a_dtype_of_each_nested_model_in_one_object() -> None:
    config = {"dtype": {"": "float32", "text_config": "float16", "vision_config": "float16"}}
    tensors: list[Entry] = [("text_model.a", "BF16", (9,)), ("vision_model.a", "F32", (2,))]
    expected = {"": "bfloat16", "text_config": "bfloat16", "vision_config": "float32"}
    assert true(config, tensors) == {"dtype": expected}


@pytest.mark.parametrize(
    ("config", "key"),
    [
        ({"model_type": "llama", "transformers_version": "4.55.4"}, "torch_dtype"),
        ({"model_type": "llama", "transformers_version": "4.56.0.dev0"}, "dtype"),
        ({"architectures": ["X"], "transformers_version": "5.24.0"}, "dtype"),
        ({"model_type": "llama"}, "torch_dtype"),
        ({"model_type": "llama", "dtype": None}, "dtype"),
        (
            {"model_type": "llama", "torch_dtype": None, "transformers_version": "5.0"},
            "torch_dtype",
        ),
        # Those that do not read it.
        ({"_class_name": "UNet2DModel"}, None),
        ({"in_features": 8, "out_features": 4}, None),
        ({}, None),
    ],
)
def test_a_dtype_that_was_asked_for_is_stated(config: dict[str, Any], key: str | None) -> None:
    expected = {**config, key: "bfloat16"} if key else config
    assert true(config, BF16, asked_dtype=True) == expected
    assert true(config, BF16) == config


def test_declarations_of_quantised_weights_are_removed() -> None:
    config = {"a": 1, "quantization_config": {"quant_method": "fp8"}, "dtype": "bfloat16"}
    assert true(config, BF16) == {"a": 1, "dtype": "bfloat16"}


@pytest.mark.parametrize("part", ["", "text_config"])
def test_tied_weights_are_stated(part: str) -> None:
    def config(tied: bool | None) -> dict[str, Any]:
        inner = {} if tied is None else {"tie_word_embeddings": tied}
        return {"model_type": "x", **({part: inner} if part else inner)}

    both: list[Entry] = [(EMBEDDING, "F32", (4, 2)), (HEAD, "F32", (4, 2))]
    # A head with values of its own, and one with the embedding's.
    assert true(config(True), both) == config(False)
    assert true(config(True), both, tied=[HEAD]) == config(True)
    for stated in (False, None):
        assert true(config(stated), both) == config(stated)
    # A head that is left out because it is the embedding, and one that the model never had.
    alone = both[:1]
    assert true(config(True), alone, left_out_head=True) == config(True)
    assert true(config(False), alone, left_out_head=True) == config(True)
    assert true({"model_type": "x"}, alone, left_out_head=True)["tie_word_embeddings"] is True
    for stated in (True, False, None):
        assert true(config(stated), alone) == config(stated)


@pytest.mark.parametrize("part", ["", "text_config", "llm_config"])
def test_the_vocabulary_is_that_of_the_embedding(part: str) -> None:
    def config(vocabulary: Any, **more: Any) -> dict[str, Any]:
        inner = {"vocab_size": vocabulary, **more}
        return {part: inner} if part else inner

    rows: list[Entry] = [(EMBEDDING, "F32", (34, 2)), (HEAD, "F32", (34, 2))]
    assert true(config(32), rows) == config(34)
    assert true(config(32), rows[:1]) == config(34)
    assert true(config(34), rows) == config(34)
    # Others than transformers count the rows without their padding.
    for unclear in (config(32, pad_vocab_size_multiple=8), config("32"), config(True)):
        assert true(unclear, rows) == unclear
    assert true({**config(32), "auto_map": {}}, rows) == {**config(32), "auto_map": {}}
    # Two embeddings do not say which of them is meant, a class head says nothing.
    two: list[Entry] = [*rows, ("codec.embed_tokens.weight", "F32", (9, 2))]
    assert true(config(32), two) == config(32)
    assert true(config(32), [("score.weight", "F32", (3, 2))]) == config(32)
    with pytest.raises(InputError) as refused:
        true(config(32), [rows[0], (HEAD, "F32", (32, 2))])
    for text in ("config.json: vocab_size is 32", EMBEDDING, "has 34", HEAD, "32;"):
        assert text in str(refused.value)


LAYERS: list[Entry] = [
    (EMBEDDING, "F32", (34, 8)),
    *((f"model.layers.{i}.mlp.up_proj.weight", "F32", (20, 8)) for i in range(3)),
]
SIZES = {"vocab_size": 34, "hidden_size": 8, "intermediate_size": 20, "num_hidden_layers": 3}


@pytest.mark.parametrize(("key", "wrong"), [(key, size + 1) for key, size in SIZES.items()])
def test_a_configuration_of_other_sizes_is_not_taken_from_a_donor(key: str, wrong: int) -> None:
    assert true(SIZES, LAYERS, donated=True) == SIZES
    config = {**SIZES, key: wrong}
    for given in (config, {"text_config": config}):
        with pytest.raises(
            InputError, match=f"config.json: {key} is {wrong}, but .* {SIZES[key]};"
        ):
            true(given, LAYERS, donated=True)
    # A model with code of its own may mean anything by it, and one's own is as it is.
    assert true({**config, "auto_map": {}}, LAYERS, donated=True) == {**config, "auto_map": {}}
    assert true(config, LAYERS) == {**config, "vocab_size": 34}


@pytest.mark.parametrize(
    "config",
    [
        {"hidden_size": 16, "embedding_size": 8},
        {"hidden_size": 16, "word_embed_proj_dim": 8},
        {"num_hidden_layers": 2, "num_nextn_predict_layers": 1},
        {"vocab_size": 33, "pad_vocab_size_multiple": 2},
        {"num_hidden_layers": [3, 4], "hidden_size": None},
    ],
)
def test_sizes_that_are_no_contradiction(config: dict[str, Any]) -> None:
    assert true(config, LAYERS, donated=True) == config


def test_layers_of_two_stacks_are_not_counted() -> None:
    tensors: list[Entry] = [*LAYERS, ("vision.layers.0.w", "F32", (1,))]
    assert true({"num_hidden_layers": 9}, tensors, donated=True) == {"num_hidden_layers": 9}
    gap = [entry for entry in LAYERS if "layers.1." not in entry[0]]
    assert true({"num_hidden_layers": 9}, gap, donated=True) == {"num_hidden_layers": 9}
