"""PEFT's rules of names and of tied tensors, and the adapters whose merge it gets wrong."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import peft
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from peft.utils.other import get_pattern_key

import tallies
from tallies.checkpoint.adapters.opening import open_adapter
from tallies.checkpoint.adapters.peft_config import lora_config
from tallies.checkpoint.adapters.placing import place
from tallies.checkpoint.opening import open_model
from tallies.errors import InputError
from tests.support.peft_models import (
    Attention,
    Case,
    Convolutions,
    disturb,
    llama,
    read,
    save,
    write,
)
from tests.support.placed import value

NAMES = st.lists(
    st.sampled_from(["model", "layers", "0", "10", "q_proj", "mlp"]), min_size=1, max_size=4
).map(".".join)
PATTERNS = st.dictionaries(
    NAMES
    | st.sampled_from(["^model.*", r".*\.0", r"layers\.\d+\.q_proj", "(0|10)", "q", "^q_proj"]),
    st.integers(1, 9),
    max_size=3,
)


@given(PATTERNS, PATTERNS, NAMES)
def test_patterns_are_those_of_peft(
    ranks: dict[str, int], alphas: dict[str, int], module: str
) -> None:
    config = {"r": 11, "lora_alpha": 13, "rank_pattern": ranks, "alpha_pattern": alphas}
    ours = lora_config(config, Path("adapter_config.json"))
    rank = ranks.get(get_pattern_key(ranks.keys(), module), 11)
    assert ours.rank_of(module) == rank
    alpha = alphas.get(get_pattern_key(alphas.keys(), module), 13)
    assert ours.scale_of(module, rank) == alpha / rank


TIED = {
    "embedding": {"target_modules": ["embed_tokens", "q_proj"]},
    "head": {"target_modules": ["lm_head", "q_proj"]},
    "both": {"target_modules": ["embed_tokens", "lm_head"]},
    "tokens": {"target_modules": ["q_proj"], "trainable_token_indices": [4, 7]},
}


@pytest.mark.parametrize("name", TIED)
def test_a_tied_tensor_changes_as_peft_merges_it(name: str, tmp_path: Path) -> None:
    written = write(Case(lambda: llama(tie_word_embeddings=True), TIED[name]), tmp_path)
    assert "lm_head.weight" not in written.merged
    placed = place(open_model(str(written.base)), open_adapter(written.adapters[0]))
    for key, tensor in placed.tensors.items():
        expected = written.merged[key].numpy()
        bound = 2e-6 * max(1.0, np.abs(expected).max())
        np.testing.assert_allclose(value(tensor), expected, rtol=0, atol=bound, err_msg=key)
    said = [text for text in placed.adapters[0].warnings if "ties to it, as PEFT's merge" in text]
    assert len(said) == (name != "tokens")


@pytest.mark.parametrize("targets", [["embed_tokens"], ["embed_tokens", "lm_head"]])
def test_factors_tied_by_peft_change_a_tensor_once(targets: list[str], tmp_path: Path) -> None:
    """PEFT 0.21 merges them twice; its unmerged model changes the tensor once."""
    torch.manual_seed(0)
    model = llama(tie_word_embeddings=True).eval()
    save(model, tmp_path / "base")
    before = model.state_dict()["lm_head.weight"].clone()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        config = peft.LoraConfig(
            target_modules=targets, r=2, ensure_weight_tying=True, init_lora_weights=False
        )
        adapted = peft.get_peft_model(model, config)
        adapted.save_pretrained(tmp_path / "adapter")
    layer = adapted.base_model.model.model.embed_tokens
    expected = (before + layer.get_delta_weight("default")).detach().numpy()
    placed = place(open_model(str(tmp_path / "base")), open_adapter(tmp_path / "adapter"))
    found = value(placed.tensors["model.embed_tokens.weight"])
    np.testing.assert_allclose(found, expected, rtol=0, atol=4e-6 * np.abs(expected).max())
    assert placed.adapters[0].warnings == ()


@pytest.mark.parametrize("saved", [["embed_tokens"], ["lm_head"], ["embed_tokens", "lm_head"]])
def test_a_module_that_peft_saves_for_both_stands_in_place_of_the_tied_tensor(
    saved: list[str], tmp_path: Path
) -> None:
    settings = {
        "target_modules": ["q_proj"],
        "modules_to_save": saved,
        "ensure_weight_tying": True,
    }
    written = write(Case(lambda: llama(tie_word_embeddings=True), settings), tmp_path)
    placed = place(open_model(str(written.base)), open_adapter(written.adapters[0]))
    name = "model.embed_tokens.weight"
    assert not np.array_equal(written.merged[name].numpy(), read(written.base)[name].numpy())
    np.testing.assert_array_equal(value(placed.tensors[name]), written.merged[name].numpy())
    assert placed.adapters[0].warnings == ()


@pytest.mark.parametrize("name", ["head", "embedding"])
def test_one_of_two_tied_modules_that_is_saved_alone_is_refused(name: str, tmp_path: Path) -> None:
    saved, other = ("lm_head", "model.embed_tokens")[:: 1 if name == "head" else -1]
    model = llama(tie_word_embeddings=True)
    save(model, tmp_path / "base")
    config = peft.LoraConfig(target_modules=["q_proj"], modules_to_save=[saved.rpartition(".")[2]])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        adapted = peft.get_peft_model(model, config)
        disturb(adapted, seed=3)
        adapted.save_pretrained(tmp_path / "adapter")
        merged = adapted.merge_and_unload().state_dict()
    adapter = open_adapter(tmp_path / "adapter")
    with pytest.raises(
        InputError, match=rf"{saved}\.weight' replaces the {name}, .*tied: untie.*merge_and_unload"
    ):
        place(open_model(str(tmp_path / "base")), adapter)
    recipe = {"merge_method": "linear", "models": [{"model": str(tmp_path / "base")}]}
    tallies.merge({**recipe, "tied": "untie"}, tmp_path / "untied")
    placed = place(open_model(str(tmp_path / "untied")), adapter)
    assert placed.adapters[0].warnings == ()
    before = read(tmp_path / "base")["model.embed_tokens.weight"].numpy()
    for one in (saved, other):
        found = value(placed.tensors[f"{one}.weight"])
        np.testing.assert_array_equal(found, merged[f"{one}.weight"].numpy())
        assert np.array_equal(found, before) == (one == other)


def test_attention_in_one_is_refused(tmp_path: Path) -> None:
    """PEFT 0.21 adds the change of the output twice, in forward passes as well."""
    torch.manual_seed(0)
    model = Attention().eval()
    config = peft.LoraConfig(target_modules=["attn"], r=3, init_lora_weights=False)
    peft.get_peft_model(model, config).save_pretrained(tmp_path)
    with pytest.raises(InputError, match=r"out_proj.lora_A.* adds the change .*merge_and_unload"):
        open_adapter(tmp_path)


def test_kronecker_products_of_convolutions_of_one_dimension_are_refused(tmp_path: Path) -> None:
    """PEFT 0.21 makes another product of them than the one of two dimensions."""
    config = peft.LoKrConfig(target_modules=["one"], r=2, init_weights=False)
    peft.get_peft_model(Convolutions(), config).save_pretrained(tmp_path)
    with pytest.raises(InputError, match=r"lokr_w2' is the factor of a conv.*merge_and_unload"):
        open_adapter(tmp_path)


def test_converted_initial_factors_change_the_model_that_they_came_from(tmp_path: Path) -> None:
    """PEFT takes PiSSA's factors out of the model; it can save the difference as plain LoRA."""
    torch.manual_seed(0)
    model = llama().eval()
    save(model, tmp_path / "base")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        config = peft.LoraConfig(target_modules=["q_proj"], r=2, init_lora_weights="pissa")
        adapted = peft.get_peft_model(model, config)
        adapted.save_pretrained(tmp_path / "initial")
        disturb(adapted, seed=1)
        adapted.save_pretrained(
            tmp_path / "converted",
            path_initial_model_for_weight_conversion=str(tmp_path / "initial"),
        )
        adapted.save_pretrained(tmp_path / "plain")
        merged = adapted.merge_and_unload().state_dict()
    base = open_model(str(tmp_path / "base"))
    for key, tensor in place(base, open_adapter(tmp_path / "converted")).tensors.items():
        expected = merged[key].numpy()
        np.testing.assert_allclose(value(tensor), expected, rtol=0, atol=4e-6, err_msg=key)
    with pytest.raises(InputError, match=r"init_lora_weights is 'pissa'.*path_initial_model_for"):
        open_adapter(tmp_path / "plain")


KINDS = {
    "IA3": peft.IA3Config(
        target_modules=["k_proj", "down_proj"], feedforward_modules=["down_proj"]
    ),
    "ADALORA": peft.AdaLoraConfig(target_modules=["q_proj"], total_step=10),
    "VERA": peft.VeraConfig(target_modules=["q_proj"]),
    "OFT": peft.OFTConfig(target_modules=["q_proj"], oft_block_size=4),
    "BOFT": peft.BOFTConfig(target_modules=["q_proj"], boft_block_size=4),
    "FOURIERFT": peft.FourierFTConfig(target_modules=["q_proj"], n_frequency=4),
    "HRA": peft.HRAConfig(target_modules=["q_proj"], r=4),
    "LN_TUNING": peft.LNTuningConfig(target_modules=["norm"]),
    "PROMPT_TUNING": peft.PromptTuningConfig("CAUSAL_LM", num_virtual_tokens=3),
    "PREFIX_TUNING": peft.PrefixTuningConfig("CAUSAL_LM", num_virtual_tokens=3),
    "P_TUNING": peft.PromptEncoderConfig("CAUSAL_LM", num_virtual_tokens=3),
}


@pytest.mark.parametrize("kind", KINDS)
def test_other_kinds_are_refused_by_name(kind: str, tmp_path: Path) -> None:
    model = llama()
    save(model, tmp_path / "base")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        peft.get_peft_model(model, KINDS[kind]).save_pretrained(tmp_path / "adapter")
    text = f"{tmp_path / 'base'}+{tmp_path / 'adapter'}"
    message = rf"adapter_config\.json: is an adapter of the kind '{kind}'.*merge_and_unload"
    with pytest.raises(InputError, match=message):
        tallies.merge({"merge_method": "linear", "models": [{"model": text}]}, tmp_path / "out")
