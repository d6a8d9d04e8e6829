"""Adapters of strangers are opened and placed, or refused in one line, whatever they hold."""

from __future__ import annotations

import json
import math
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tallies.checkpoint.adapters.opening import open_adapter
from tallies.checkpoint.adapters.placing import place
from tallies.checkpoint.changes import Hadamard, Kronecker, Product, pieces
from tallies.checkpoint.opening import open_model
from tallies.errors import InputError
from tests.support import checkpoints
from tests.support.odd_json import odd_json

KEYS = (
    *("peft_type", "r", "lora_alpha", "alpha", "use_rslora", "use_dora", "fan_in_fan_out"),
    *("rank_pattern", "alpha_pattern", "target_parameters", "trainable_token_indices"),
    *("token_indices", "layer_replication", "init_lora_weights", "base_model_name_or_path"),
)
TEXTS = st.sampled_from(["", "q", "(", "weight", "up.q", ".*", "LORA", "loha", "LOKR", "pissa"])
VALUES = (
    odd_json
    | TEXTS
    | st.sampled_from([1e300, -1e300, 1e-320])
    | st.lists(TEXTS | st.integers(0, 5), max_size=3)
    | st.dictionaries(TEXTS, odd_json | st.integers(1, 3), max_size=2)
)
PIECES = st.sampled_from(
    [
        *("lora_A.weight", "lora_B.weight", "lora_B.bias", "lora_embedding_A", "lora_embedding_B"),
        *("lora_magnitude_vector", "token_adapter.trainable_tokens_delta", "base_layer.weight"),
        *("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b", "lokr_w1", "lokr_w2", "lokr_w2_a"),
        *("modules_to_save.default.weight", "weight", "bias", "lora_A.default.weight", "lora_E"),
    ]
)
MODULES = st.sampled_from(["q", "up.q", "up.q.base_layer", "lm_head", "embed_tokens", "conv"])
SHAPES = st.lists(st.sampled_from([0, 1, 2, 4]), max_size=4).map(tuple)

MODEL = {
    "q.weight": (4, 2),
    "q.bias": (4,),
    "up.q.weight": (4, 4),
    "up.q": (2, 4, 2),
    "conv.weight": (4, 2, 1, 2),
    "lm_head.weight": (4, 2),
    "embed_tokens.weight": (4, 2),
}


def arrays(shapes: dict[str, tuple[int, ...]]) -> dict[str, Any]:
    return {name: np.ones(shape, np.float32) for name, shape in shapes.items()}


@given(
    config=st.fixed_dictionaries(
        {"peft_type": st.sampled_from(["LORA", "LOHA", "LOKR", "TRAINABLE_TOKENS"])},
        optional={key: VALUES for key in KEYS[1:]},
    )
    | st.dictionaries(st.sampled_from(KEYS), VALUES),
    names=st.dictionaries(st.tuples(MODULES, PIECES).map(".".join), SHAPES, max_size=5),
    tied=st.booleans(),
)
def test_placed_or_refused(
    config: dict[str, Any], names: dict[str, tuple[int, ...]], tied: bool
) -> None:
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        (folder / "model").mkdir()
        (folder / "model" / "config.json").write_text(json.dumps({"tie_word_embeddings": tied}))
        checkpoints.write(folder / "model" / "model.safetensors", arrays(MODEL))
        (folder / "a").mkdir()
        (folder / "a" / "adapter_config.json").write_text(json.dumps(config))
        prefixed = {f"base_model.model.{name}": shape for name, shape in names.items()}
        checkpoints.write(folder / "a" / "adapter_model.safetensors", arrays(prefixed))
        model = open_model(str(folder / "model"))
        try:
            placed = place(model, open_adapter(folder / "a"))
        except InputError as refusal:
            assert "\n" not in str(refusal)
            assert made in str(refusal)
            return
        assert placed.tensors.keys() == model.tensors.keys()
        for name, tensor in placed.tensors.items():
            assert tensor.shape == model.tensors[name].shape
            for change in tensor.changes:
                assert all(piece.dtype == "F32" for piece in pieces(change))
                if isinstance(change, Product | Hadamard | Kronecker):
                    assert math.isfinite(np.float32(change.scale))
