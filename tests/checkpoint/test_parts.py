"""Sub-directories that a model declares are parts of it; all others stay out."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tallies.checkpoint.checkpoint import Checkpoint
from tallies.checkpoint.opening import open_model
from tallies.errors import InputError
from tests.support.entries import write
from tests.support.handmade import write_file


def write_files(root: Path, *names: str) -> None:
    """Write files; one of safetensors has a tensor ``w``."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        if name.endswith(".safetensors"):
            write_file(root / name, "w")
        else:
            (root / name).write_text("{}")


def write_modules(root: Path, *paths: str) -> None:
    root.mkdir(exist_ok=True)
    (root / "modules.json").write_text(json.dumps([{"path": path} for path in paths]))


def folders(checkpoint: Checkpoint) -> list[str]:
    return [part.folder for part in checkpoint.parts]


def test_modules_of_sentence_transformers(tmp_path: Path) -> None:
    write_modules(tmp_path, "", "1_Pooling", "2_Dense", "3_Normalize")
    write_files(
        tmp_path,
        *("model.safetensors", "config.json", "1_Pooling/config.json", "2_Dense/config.json"),
        "2_Dense/model.safetensors",
    )
    checkpoint = Checkpoint.open(tmp_path)
    assert folders(checkpoint) == ["", "2_Dense"]
    assert list(checkpoint.tensors) == ["2_Dense/w", "w"]
    assert checkpoint.tensors["2_Dense/w"].path == tmp_path / "2_Dense" / "model.safetensors"
    assert checkpoint.files == (
        tmp_path / "model.safetensors",
        tmp_path / "2_Dense" / "model.safetensors",
    )
    assert list(map(str, checkpoint.auxiliary_files())) == [
        *("1_Pooling/config.json", "2_Dense/config.json", "config.json", "modules.json"),
    ]
    assert checkpoint.not_read == {}


def test_modules_without_weights_beside(tmp_path: Path) -> None:
    write_modules(tmp_path, "0_Transformer", "1_Pooling")
    write_files(tmp_path, "0_Transformer/model.safetensors", "1_Pooling/config.json")
    assert folders(Checkpoint.open(tmp_path)) == ["0_Transformer"]


@pytest.mark.parametrize("text", ["{}", "[1]", '[{"path": 1}]', "[{}]", "null", '[{"path": "x"}]'])
def test_modules_that_name_no_directory(tmp_path: Path, text: str) -> None:
    write_files(tmp_path, "model.safetensors")
    (tmp_path / "modules.json").write_text(text)
    (tmp_path / "model_index.json").write_text(text)
    assert folders(Checkpoint.open(tmp_path)) == [""]


def test_router_leads_to_its_modules(tmp_path: Path) -> None:
    write_modules(tmp_path, "", "1_Router")
    router = {"types": {"query_0_Dense": "Dense"}, "structure": {"query": ["query_0_Dense"]}}
    write_files(
        tmp_path,
        *("model.safetensors", "1_Router/query_0_Dense/model.safetensors"),
        *("document_0_Static/model.safetensors", "1_Router/stray/model.safetensors"),
    )
    (tmp_path / "1_Router" / "router_config.json").write_text(json.dumps(router))
    router = {"types": {"document_0_Static": "Static"}, "structure": {"document": []}}
    (tmp_path / "router_config.json").write_text(json.dumps(router))
    checkpoint = Checkpoint.open(tmp_path)
    assert folders(checkpoint) == ["", "document_0_Static", "1_Router/query_0_Dense"]
    assert checkpoint.tensors.keys() == {"w", "document_0_Static/w", "1_Router/query_0_Dense/w"}
    assert list(checkpoint.not_read) == ["1_Router/stray/"]


def test_pipeline_of_diffusers(tmp_path: Path) -> None:
    index = {
        "_class_name": "StableDiffusionPipeline",
        "feature_extractor": [None, None],
        "scheduler": ["diffusers", "PNDMScheduler"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
        "requires_safety_checker": True,
    }
    write_files(
        tmp_path,
        *("scheduler/scheduler_config.json", "text_encoder/model.safetensors"),
        *("unet/config.json", "unet/diffusion_pytorch_model.safetensors"),
        *("unet/diffusion_pytorch_model.fp16.safetensors", "unet/diffusion_pytorch_model.bin"),
        *("vae/diffusion_pytorch_model.safetensors", "v1-5-pruned.safetensors"),
        *("feature_extractor/model.safetensors", "vae_decoder/model.onnx"),
    )
    (tmp_path / "model_index.json").write_text(json.dumps(index))
    checkpoint = Checkpoint.open(tmp_path)
    parts = {part.folder: part.stem for part in checkpoint.parts}
    assert parts == {
        "text_encoder": "model",
        "unet": "diffusion_pytorch_model",
        "vae": "diffusion_pytorch_model",
    }
    assert checkpoint.tensors.keys() == {"text_encoder/w", "unet/w", "vae/w"}
    assert [*map(str, checkpoint.auxiliary_files())] == [
        *("model_index.json", "scheduler/scheduler_config.json", "unet/config.json"),
    ]
    assert checkpoint.not_read == {
        "feature_extractor/": "weights that no file of the model declares to be a part of it",
        "unet/diffusion_pytorch_model.bin": "weights in another format",
        "unet/diffusion_pytorch_model.fp16.safetensors": "the variant fp16",
        "v1-5-pruned.safetensors": "a copy of the pipeline in one file",
        "vae_decoder/": "weights in another format",
    }


def test_part_behind_a_link(tmp_path: Path) -> None:
    write_files(tmp_path / "elsewhere", "model.safetensors", "config.json")
    root = tmp_path / "model"
    write_modules(root, "", "2_Dense")
    write_files(root, "model.safetensors")
    (root / "2_Dense").symlink_to(tmp_path / "elsewhere")
    (root / "stranger").symlink_to(tmp_path / "elsewhere")
    checkpoint = Checkpoint.open(root)
    assert checkpoint.tensors.keys() == {"w", "2_Dense/w"}
    assert [*map(str, checkpoint.auxiliary_files())] == ["2_Dense/config.json", "modules.json"]
    assert checkpoint.not_read == {"stranger/": "a link to a directory"}


@pytest.mark.parametrize(
    ("names", "left_out", "why"),
    [
        (["checkpoint-500/model.safetensors", "checkpoint-500/trainer_state.json"], 0, "training"),
        (["global_step12/mp_rank_00_model_states.pt"], 0, "a checkpoint of training"),
        (["pytorch_model_fsdp_0/__0_0.distcp"], 0, "a checkpoint of training"),
        (["onnx/model.onnx", "onnx/config.json"], 0, "an export to another format"),
        (["openvino/openvino_model.bin", "openvino/openvino_model.xml"], 0, "an export"),
        (["coreml/x.mlpackage/Data/weight.bin"], 0, "an export"),
        (["original/consolidated.00.pth", "original/params.json"], 0, "authors' own code"),
        ([".git/objects/pack/x.pack"], 0, "hidden"),
        (["style/adapter_config.json", "style/adapter_model.safetensors"], 0, "an adapter"),
        (["last/optimizer.pt", "last/notes.txt"], 0, "a checkpoint of training"),
        (["voices/one.pt"], 0, "weights that no file of the model declares"),
        (["exported/model.gguf"], 0, "weights in another format"),
        (["optimizer.bin"], 1, "a state of training"),
        (["training_args.bin"], 1, "a state of training"),
        (["trainer_state.json"], 1, "a state of training"),
        (["adapter_config.json"], 1, "an adapter"),
        (["adapter_model.safetensors"], 1, "an adapter"),
        (["model.fp16.safetensors"], 1, "the variant fp16"),
        (["pytorch_model.bin"], 1, "weights in another format"),
        (["flax_model.msgpack"], 1, "weights in another format"),
        (["openvino_model.bin"], 1, "weights in another format"),
        (["consolidated.safetensors"], 1, "not of the model in model.safetensors"),
        (["model-00001-of-00003.safetensors"], 1, "not of the model in model.safetensors"),
    ],
)
def test_left_out(tmp_path: Path, names: list[str], left_out: int, why: str) -> None:
    write_files(tmp_path, "model.safetensors", "config.json", *names)
    checkpoint = Checkpoint.open(tmp_path)
    assert list(checkpoint.tensors) == ["w"]
    assert checkpoint.auxiliary_files() == [Path("config.json")]
    key = names[0] if left_out else names[0].partition("/")[0] + "/"
    assert list(checkpoint.not_read) == [key]
    assert why in checkpoint.not_read[key]


def test_small_files_that_stand_for_others_are_refused(tmp_path: Path) -> None:
    write_files(tmp_path, "model.safetensors")
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 17\n"
    (tmp_path / "tokenizer.json").write_text(pointer)
    with pytest.raises(InputError, match=r"tokenizer\.json: is a Git LFS pointer"):
        Checkpoint.open(tmp_path).auxiliary_files()


def test_small_files_of_a_directory_without_weights(tmp_path: Path) -> None:
    write_modules(tmp_path, "", "1_Pooling", "2_Dense")
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 17\n"
    write_files(
        tmp_path,
        *("tokenizer.json", "1_Pooling/config.json", "2_Dense/config.json", "model-q4.gguf"),
        *("adapter_config.json", "hf_quant_config.json", "checkpoint-5/config.json"),
    )
    (tmp_path / "model.safetensors").write_text(pointer)
    (tmp_path / "2_Dense" / "model.safetensors").write_text(pointer)
    donor = Checkpoint.open_small_files(tmp_path)
    assert [*map(str, donor.auxiliary_files())] == [
        *("1_Pooling/config.json", "2_Dense/config.json", "modules.json", "tokenizer.json"),
    ]


def test_each_part_has_its_own_configuration(tmp_path: Path) -> None:
    """Scales and their dtype follow the config.json beside them."""
    (tmp_path / "model_index.json").write_text(
        json.dumps({"a": ["transformers", "A"], "b": ["transformers", "B"]})
    )
    for folder, dtype in (("a", "float16"), ("b", "float32")):
        (tmp_path / folder).mkdir()
        write(
            tmp_path / folder / "model.safetensors",
            [("w", "F8_E4M3", (2, 2)), ("w_scale", "F32", ())],
        )
        (tmp_path / folder / "config.json").write_text(json.dumps({"dtype": dtype}))
    checkpoint = open_model(str(tmp_path))
    assert {name: one.decoded_dtype for name, one in checkpoint.tensors.items()} == {
        "a/w": "F16",
        "b/w": "F32",
    }
    assert checkpoint.left_out == ("a/w_scale", "b/w_scale")
    (tmp_path / "b" / "config.json").write_text('{"quantization_config": {"quant_method": "awq"}}')
    with pytest.raises(InputError, match=r"b/config\.json: has a quantization_config \('awq'\)"):
        open_model(str(tmp_path))
