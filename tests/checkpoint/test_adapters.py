"""Adapters are told by their tensors, and are listed, but never taken for models."""

from __future__ import annotations

from pathlib import Path

import pytest

from tallies.checkpoint.adapters.kinds import find_adapter, kind_of
from tallies.checkpoint.checkpoint import Checkpoint
from tallies.checkpoint.opening import open_model
from tallies.errors import InputError
from tests.support.handmade import write_file


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        ("LoRA", ["base_model.model.q.lora_A.weight", "base_model.model.q.lora_B.weight"]),
        ("LoRA", ["q.lora_A.default.weight", "q.lora_B.default.weight", "lm_head.weight"]),
        ("LoRA", ["e.lora_embedding_A", "e.lora_embedding_B"]),
        ("LoRA", ["q.lora_A.weight", "q.lora_B.weight", "q.lora_magnitude_vector"]),
        (
            "LoRA",
            ["q.lora_down.weight", "q.lora_up.weight", "q.alpha"],
        ),
        ("LoRA", ["lora_unet_q.lora_mid.weight"]),
        ("LoRA", ["lora_unet_q.dora_scale"]),
        ("LoRA", ["unet.to_q.lora.down.weight", "unet.to_q.lora.up.weight"]),
        ("LoRA", ["unet.to_q_lora.down.weight"]),
        ("LoRA", ["unet.to_q.lora_linear_layer.down.weight"]),
        ("LoRA", ["unet.to_q.processor.to_q_lora.up.weight"]),
        ("LoHa", ["q.hada_w1_a", "q.hada_w1_b", "q.hada_w2_a", "q.hada_w2_b"]),
        ("LoKr", ["q.lokr_w1", "q.lokr_w2_a", "q.lokr_w2_b"]),
        ("IA3", ["base_model.model.k.ia3_l"]),
        ("OFT or BOFT", ["q.oft_r", "q.oft_blocks"]),
        ("OFT or BOFT", ["q.boft_R", "q.boft_s"]),
        ("VeRA", ["q.vera_lambda_b", "q.vera_lambda_d"]),
        ("prompt tuning", ["prompt_embeddings"]),
        ("differences of weights", ["lora_unet_q.diff", "lora_unet_q.diff_b"]),
        ("differences of weights", ["lycoris_norm.w_norm", "lycoris_norm.b_norm"]),
        ("GLoRA", [f"lora_unet_q.{one}.weight" for one in ("a1", "a2", "b1", "b2")]),
        ("IA3", ["lycoris_q.on_input"]),
        ("PEFT", ["q.fourierft_spectrum"]),
        ("PEFT", ["q.randlora_A"]),
        ("PEFT", ["base_model.model.q.lily_A.weight"]),
        ("LoRA", ["e.lora_embedding_A", "e.lora_embedding_B", "e.base_layer.weight"]),
    ],
)
def test_adapter_of_any_file_name(tmp_path: Path, kind: str, names: list[str]) -> None:
    path = tmp_path / "style.safetensors"
    write_file(path, *names)
    adapter = find_adapter(Checkpoint.open(path))
    assert adapter is not None
    assert adapter.kind == kind
    assert kind_of(adapter) == "adapter"
    with pytest.raises(InputError, match=r"style\.safetensors: is an adapter.*merge_and_unload"):
        open_model(str(path))


def test_adapter_in_a_model(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    factors = ["q.lora_A.default.weight", "q.lora_B.default.weight"]
    write_file(path, "q.base_layer.weight", *factors, "norm.weight")
    adapter = find_adapter(Checkpoint.open(tmp_path))
    assert kind_of(adapter) == "checkpoint"
    with pytest.raises(InputError, match=r"a model and an adapter that is not merged.*unload"):
        open_model(str(tmp_path))


@pytest.mark.parametrize(
    "name",
    [
        "blocks.0.attn.w_lora.lora.0.weight",
        "layers.0.self_attn.kv_a_proj_with_mqa.weight",
        "layers.0.kv_lora_up_proj.weight",
        "prompt_encoder.point_embeddings.0.weight",
        "explora_A.weight",
        "broad_theta",
        "base_model.model.layers.0.bonework.weight",
        "pose.bone_lengths",
    ],
)
def test_tensors_of_models(tmp_path: Path, name: str) -> None:
    write_file(tmp_path / "model.safetensors", name)
    assert find_adapter(open_model(str(tmp_path))) is None


@pytest.mark.parametrize("name", ["adapter_model.safetensors", "pytorch_lora_weights.safetensors"])
def test_adapter_by_its_file(tmp_path: Path, name: str) -> None:
    write_file(tmp_path / name, "w")
    (tmp_path / "adapter_config.json").write_text("{}")
    checkpoint = Checkpoint.open(tmp_path)
    assert kind_of(find_adapter(checkpoint)) == "adapter"
    assert checkpoint.not_read == {}
    for path in (tmp_path, tmp_path / name):
        with pytest.raises(InputError, match="is an adapter, expected a model; merge it into"):
            open_model(str(path))


def test_model_beside_an_adapter(tmp_path: Path) -> None:
    write_file(tmp_path / "model.safetensors", "w")
    write_file(tmp_path / "adapter_model.safetensors", "q.lora_A.weight")
    (tmp_path / "adapter_config.json").write_text("{}")
    checkpoint = open_model(str(tmp_path))
    assert list(checkpoint.tensors) == ["w"]
    assert checkpoint.auxiliary_files() == []
    assert checkpoint.not_read == {
        "adapter_config.json": "an adapter",
        "adapter_model.safetensors": "an adapter",
    }


@pytest.mark.parametrize("piece", [".", "shared.safetensors", "tasks", "tasks/a.safetensors"])
def test_pieces_of_a_store_are_no_models(tmp_path: Path, piece: str) -> None:
    (tmp_path / "tasks").mkdir()
    (tmp_path / "store.json").write_text("{}")
    write_file(tmp_path / "shared.safetensors", "w")
    write_file(tmp_path / "tasks" / "a.safetensors", "w")
    with pytest.raises(InputError, match=r"is a (?:piece of a )?store, .*tallies unpack"):
        open_model(str(tmp_path / piece))
