"""mergekit and transformers judge merges of models whose vocabularies differ."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    BertConfig,
    BertForMaskedLM,
    GPT2Config,
    GPT2LMHeadModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
)

import tallies
from tallies.vocabulary.templates import TEMPLATES
from tests.support import mergekit_host

pytestmark = pytest.mark.filterwarnings("ignore")  # mergekit's own, and those of what it imports

END, START = "<|endoftext|>", "<|im_start|>"
OF_BASE = "the quick brown fox jumps over the lazy dog " * 5
OF_CHAT = "models of other vocabularies are hard to merge " * 5


def trained(text: str, n_tokens: int, special: list[str], added: list[AddedToken]) -> Any:
    """A tokenizer of bytes, of the pairs that are frequent in a text, and of added tokens."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    made.train_from_iterator(
        [text],
        trainers.BpeTrainer(
            vocab_size=n_tokens,
            special_tokens=special,
            initial_alphabet=alphabet,
            show_progress=False,
        ),
    )
    made.add_tokens(added)
    return PreTrainedTokenizerFast(
        tokenizer_object=made, bos_token=END, eos_token=special[-1], pad_token=END
    )


def qwen2(n_tokens: int, *, tied: bool = False) -> Any:
    return Qwen2ForCausalLM(
        Qwen2Config(
            vocab_size=n_tokens,
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            tie_word_embeddings=tied,
            bos_token_id=0,
            eos_token_id=0,
        )
    )


def gpt2(n_tokens: int) -> Any:
    return GPT2LMHeadModel(
        GPT2Config(
            vocab_size=n_tokens,
            n_embd=32,
            n_layer=2,
            n_head=4,
            n_positions=32,
            bos_token_id=0,
            eos_token_id=0,
        )
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Models of two vocabularies; ``padded``, ``few`` and ``tied`` have the second one.

    ``padded`` has rows without a token, ``few`` a token without a row.
    """
    torch.manual_seed(0)
    at = tmp_path_factory.mktemp("models")
    own = trained(OF_BASE, 280, [END], [])
    tool = AddedToken("<tool>", lstrip=True, rstrip=True, normalized=False, special=True)
    chat = trained(OF_CHAT, 290, [END, START], [tool, AddedToken("<plain>", normalized=True)])
    for name, tokenizer, model in (
        ("origin", own, qwen2(len(own))),
        ("fine", own, qwen2(len(own))),
        ("chat", chat, qwen2(len(chat))),
        ("padded", chat, qwen2(len(chat) + 5)),
        ("few", chat, qwen2(len(chat) - 1)),
        ("tied", chat, qwen2(len(chat), tied=True)),
        ("gpt", own, gpt2(len(own))),
        ("gpt-chat", chat, gpt2(len(chat))),
    ):
        model.save_pretrained(at / name)
        tokenizer.save_pretrained(at / name)
    return at


def recipe(method: str, names: list[str], base: str | None = None, **keys: Any) -> dict[str, Any]:
    entries = [{"model": name, "parameters": {"weight": 0.5}} for name in names]
    made = {"merge_method": method, "models": entries, "dtype": "float32", **keys}
    return made if base is None else {**made, "base_model": base}


def vocabulary(out: Path) -> dict[str, int]:
    found: dict[str, int] = AutoTokenizer.from_pretrained(out).get_vocab()
    return found


def by_token(out: Path) -> tuple[dict[str, torch.Tensor], dict[str, int]]:
    """The tensors with the rows of embedding and head in the order of the tokens' text."""
    tokens = vocabulary(out)
    order = [tokens[token] for token in sorted(tokens)]
    order += range(len(tokens), json.loads((out / "config.json").read_text())["vocab_size"])
    found = {}
    for name, tensor in load_file(out / "model.safetensors").items():
        is_by_token = len(tensor) == len(order) and ("embed" in name or "head" in name)
        found[name] = tensor[order] if is_by_token or "wte" in name else tensor
    return found, tokens


def placed(value: Any, folder: Path) -> Any:
    """A recipe with the paths of models in the place of their names."""
    if isinstance(value, dict):
        return {key: placed(one, folder) for key, one in value.items()}
    if isinstance(value, list):
        return [placed(one, folder) for one in value]
    is_model = isinstance(value, str) and (folder / value).is_dir()
    return str(folder / value) if is_model else value


CHAT_TOKEN = {"kind": "model_token", "model": "chat", "token": START}
CASES: Mapping[str, tuple[dict[str, Any], float]] = {
    "base": (recipe("linear", ["origin", "chat"], "origin", tokenizer_source="base"), 0),
    "union": (recipe("linear", ["origin", "padded"], "origin", tokenizer_source="union"), 0),
    "of a model": (recipe("linear", ["origin", "chat"], "origin", tokenizer_source="chat"), 0),
    "three": (recipe("ties", ["fine", "chat"], "origin", tokenizer_source="union"), 0),
    "padding": (
        recipe(
            "task_arithmetic",
            ["chat", "padded"],
            "origin",
            tokenizer={"source": "union", "pad_to_multiple_of": 64},
        ),
        1e-7,
    ),
    "means": (
        recipe("task_arithmetic", ["chat", "padded"], "origin", tokenizer_source="union"),
        1e-8,
    ),
    "tokens": (
        recipe(
            "linear",
            ["origin", "chat"],
            "origin",
            tokenizer={
                "source": "union",
                "tokens": {
                    "<new>": {"source": {"kind": "zero"}},
                    "<tool>": {"source": CHAT_TOKEN},
                    "a": {"source": "chat", "force": True},
                    "b": {"source": CHAT_TOKEN | {"token_id": 7, "token": None}, "force": True},
                },
            },
        ),
        0,
    ),
    "slerp": (
        recipe(
            "slerp", ["origin", "chat"], "origin", tokenizer_source="union", parameters={"t": 0.4}
        ),
        1e-7,
    ),
    "tokens without a row": (
        recipe("linear", ["few", "origin"], "few", tokenizer_source="base"),
        0,
    ),
    "tied": (recipe("linear", ["origin", "tied"], "origin", tokenizer_source="union"), 0),
    "all tied": (recipe("linear", ["tied", "tied/../tied"], tokenizer_source="union"), 0),
    "gpt2": (recipe("linear", ["gpt", "gpt-chat"], "gpt", tokenizer_source="union"), 0),
}


@pytest.mark.parametrize("case", CASES)
def test_results_are_mergekits(folder: Path, tmp_path: Path, case: str) -> None:
    said, most = CASES[case]
    said = placed(said, folder)
    mergekit_host.merge(said, tmp_path / "theirs")
    tallies.merge({**said, "semantics": "mergekit"}, tmp_path / "ours")
    theirs, their_tokens = by_token(tmp_path / "theirs")
    ours, tokens = by_token(tmp_path / "ours")
    assert tokens.keys() == their_tokens.keys()
    for name, tensor in theirs.items():
        assert ours[name].shape == tensor.shape
        torch.testing.assert_close(ours[name], tensor, rtol=0, atol=most)
    sizes = [
        json.loads((tmp_path / one / "config.json").read_text())["vocab_size"]
        for one in ("ours", "theirs")
    ]
    assert sizes[0] == sizes[1]
    added = [
        {
            repr(token)
            for token in AutoTokenizer.from_pretrained(tmp_path / one).added_tokens_decoder.values()
        }
        for one in ("ours", "theirs")
    ]
    assert added[0] == added[1]


def test_a_joined_model_reads_texts_of_both(folder: Path, tmp_path: Path) -> None:
    said = placed(recipe("linear", ["origin", "chat"], "origin", tokenizer_source="union"), folder)
    tallies.merge({**said, "semantics": "mergekit"}, tmp_path / "out")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    model, loading = AutoModelForCausalLM.from_pretrained(
        tmp_path / "out", output_loading_info=True
    )
    assert not any(loading[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert model.config.vocab_size == len(tokenizer)
    known = AutoTokenizer.from_pretrained(folder / "origin").get_vocab()
    assert known.items() <= tokenizer.get_vocab().items()
    numbers = tokenizer(f"{START}the lazy vocabularies<tool>{END}")["input_ids"]
    assert tokenizer.decode(numbers, skip_special_tokens=True) == "the lazy vocabularies"
    assert model(torch.tensor([numbers])).logits.isfinite().all()
    assert tokenizer.bos_token_id == tokenizer.pad_token_id == 0


def test_heads_with_a_bias_follow_the_tokens(tmp_path: Path) -> None:
    first = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    rows = {}
    for name, words in (("one", ["a", "b", "c"]), ("two", ["c", "cat", "a", "b"])):
        vocab = {word: number for number, word in enumerate([*first, *words])}
        made = Tokenizer(models.WordPiece(vocab, unk_token="[UNK]"))
        PreTrainedTokenizerFast(
            tokenizer_object=made, unk_token="[UNK]", pad_token="[PAD]", mask_token="[MASK]"
        ).save_pretrained(tmp_path / name)
        model = BertForMaskedLM(
            BertConfig(
                vocab_size=len(vocab),
                hidden_size=8,
                num_hidden_layers=1,
                num_attention_heads=2,
                intermediate_size=8,
                max_position_embeddings=8,
            )
        )
        torch.nn.init.normal_(model.cls.predictions.bias)
        model.save_pretrained(tmp_path / name)
        rows[name] = dict(zip(vocab, model.cls.predictions.bias.tolist(), strict=True))
    said = recipe("linear", [str(tmp_path / "one"), str(tmp_path / "two")])
    tallies.merge({**said, "tokenizer_source": "union"}, tmp_path / "out")
    merged = BertForMaskedLM.from_pretrained(tmp_path / "out").cls.predictions.bias.tolist()
    for token, number in vocabulary(tmp_path / "out").items():
        one, two = (rows[name].get(token, rows["two"][token]) for name in ("one", "two"))
        assert merged[number] == pytest.approx((one + two) / 2, rel=1e-6)


def test_templates_give_the_texts_that_mergekits_give(folder: Path) -> None:
    with mergekit_host.as_mergekit():
        from mergekit._data import chat_templates
    tokenizer = AutoTokenizer.from_pretrained(folder / "chat")
    chat = [
        {"role": role, "content": f" {role}\n{n} "}
        for n, role in enumerate(("system", "user", "assistant", "user"))
    ]
    for name, text in TEMPLATES.items():
        theirs = (Path(str(chat_templates.__path__[0])) / f"{name}.jinja").read_text()
        said = [
            tokenizer.apply_chat_template(
                chat, chat_template=one, tokenize=False, add_generation_prompt=True
            )
            for one in (text, theirs)
        ]
        # Three of mergekit's put white space between turns that the formats do not have.
        assert "".join(said[0].split()) == "".join(said[1].split())
        if name in ("chatml", "mistral"):
            assert said[0] == said[1]


@pytest.mark.parametrize("template", ["chatml", "{{ messages[0]['content'] }} and more", "auto"])
def test_transformers_finds_the_chat_template(folder: Path, tmp_path: Path, template: str) -> None:
    said = recipe("linear", ["origin", "fine"], chat_template=template)
    tallies.merge(placed(said, folder), tmp_path / "out")
    found = AutoTokenizer.from_pretrained(tmp_path / "out").chat_template
    assert found == (None if template == "auto" else TEMPLATES.get(template, template))
