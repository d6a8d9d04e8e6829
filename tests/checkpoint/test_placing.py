"""Edits of adapters find the tensors of a model, and are refused where they do not fit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tallies.checkpoint.adapters.adapter import Adapter, Edit
from tallies.checkpoint.adapters.names import Names, plain
from tallies.checkpoint.adapters.placing import place
from tallies.checkpoint.changes import Added, Change, Magnitudes, Product, Rows
from tallies.checkpoint.checkpoint import Checkpoint
from tallies.checkpoint.tensors import TensorInfo
from tallies.errors import InputError
from tests.support.checkpoints import write

Q = "model.layers.0.self_attn.q_proj.weight"


def info(name: str, *shape: int, dtype: str = "F32") -> TensorInfo:
    n_bytes = 4 * int(np.prod(shape))
    return TensorInfo(name, dtype, shape, Path("adapter_model.safetensors"), 0, n_bytes)


def product(rows: int, columns: int, rank: int = 2) -> Product:
    return Product(info("q.lora_B.weight", rows, rank), info("q.lora_A.weight", rank, columns), 2.0)


def edit(name: str, change: Change | TensorInfo) -> Edit:
    return Edit(name, change, info("q.lora_A.weight", 2, 3))


def adapter(*edits: Edit) -> Adapter:
    return Adapter(Path("lora"), (Path("lora/adapter_model.safetensors"),), "LoRA", edits)


def model(path: Path, config: object = None, **shapes: tuple[int, ...]) -> Checkpoint:
    names = {name.replace("__", "."): shape for name, shape in shapes.items()}
    arrays = {name: np.zeros(shape, np.float32) for name, shape in names.items()}
    return Checkpoint.open(write(path / "base", arrays, config=config))


def named(path: Path, *names: str) -> Checkpoint:
    return Checkpoint.open(
        write(path / "base", {one: np.zeros((4, 3), np.float32) for one in names})
    )


@pytest.mark.parametrize(
    ("stored", "trained"),
    [
        (Q, Q),
        (Q, f"base_model.model.{Q}"),
        (Q, "base_model.model.model.layers.0.self_attn.q_proj.base_layer.weight"),
        (Q, f"_orig_mod.{Q}"),
        (f"_orig_mod.{Q}", Q),
        (Q, "layers.0.self_attn.q_proj.weight"),
        ("layers.0.self_attn.q_proj.weight", Q),
        ("model.language_model.layers.0.self_attn.q_proj.weight", Q),
        ("language_model.model.layers.0.self_attn.q_proj.weight", Q),
        (Q, "model.language_model.layers.0.self_attn.q_proj.weight"),
        ("visual.blocks.0.attn.qkv.weight", "model.visual.blocks.0.attn.qkv.weight"),
        ("encoder.layer.0.output.dense.weight", "bert.encoder.layer.0.output.dense.weight"),
        ("bert.encoder.layer.0.output.dense.weight", "encoder.layer.0.output.dense.weight"),
    ],
)
def test_an_edit_finds_its_tensor(tmp_path: Path, stored: str, trained: str) -> None:
    base = named(tmp_path, stored, "model.norm.weight")
    change = product(4, 3)
    placed = place(base, adapter(edit(trained, change)))
    assert placed.tensors[stored].changes == (change,)
    assert placed.tensors["model.norm.weight"].changes == ()
    assert base.tensors[stored].changes == ()
    assert placed.files == (*base.files, Path("lora/adapter_model.safetensors"))


def test_the_text_model_is_not_taken_for_the_vision_tower(tmp_path: Path) -> None:
    text, vision = (f"{one}.layers.0.self_attn.q_proj.weight" for one in ("model", "visual"))
    base = named(tmp_path, text, vision)
    placed = place(base, adapter(edit(f"base_model.model.{text}", product(4, 3))))
    assert placed.tensors[text].changes and not placed.tensors[vision].changes
    with pytest.raises(InputError, match=r"may be any of 'model\.layers.*, 'visual\.layers"):
        place(base, adapter(edit("layers.0.self_attn.q_proj.weight", product(4, 3))))


def test_changes_follow_one_another(tmp_path: Path) -> None:
    base = named(tmp_path, Q)
    changes = (product(4, 3), Magnitudes(info("m", 4), 3), Added(info("d", 4, 3)))
    first = place(base, adapter(*(edit(Q, one) for one in changes)))
    assert first.tensors[Q].changes == changes
    second = place(first, adapter(edit(Q, changes[0])))
    assert second.tensors[Q].changes == (*changes, changes[0])
    assert len(second.adapters) == 2
    saved = info("base_model.model.x", 4, 3)
    replaced = place(second, adapter(edit(Q, saved)))
    assert replaced.tensors[Q].stored_as == saved.name
    assert replaced.tensors[Q].changes == ()
    assert (replaced.tensors[Q].name, replaced.tensors[Q].path) == (Q, saved.path)


@pytest.mark.parametrize("target", ["lm_head.weight", "model.embed_tokens.weight"])
def test_tied_names_change_together(tmp_path: Path, target: str) -> None:
    names = ("lm_head.weight", "model.embed_tokens.weight")
    arrays = {name: np.zeros((6, 3), np.float32) for name in names}
    config = {"tie_word_embeddings": True}
    both = Checkpoint.open(write(tmp_path / "both", arrays, config=config))
    placed = place(both, adapter(edit(target, product(6, 3))))
    assert [len(placed.tensors[name].changes) for name in names] == [1, 1]
    del arrays["lm_head.weight"]
    alone = Checkpoint.open(write(tmp_path / "alone", arrays, config=config))
    placed = place(alone, adapter(edit(target, product(6, 3))))
    assert len(placed.tensors["model.embed_tokens.weight"].changes) == 1


def test_an_untied_head_that_is_absent_is_refused(tmp_path: Path) -> None:
    base = model(tmp_path, {"tie_word_embeddings": False}, model__embed_tokens__weight=(6, 3))
    with pytest.raises(InputError, match=r"'lm_head\.weight', which .* lacks.*merge_and_unload"):
        place(base, adapter(edit("lm_head.weight", product(6, 3))))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (product(5, 3), r"shape \[5, 3\], but 'w' in .*model\.safetensors has shape \[4, 3\]"),
        (product(3, 4), r"shape \[3, 4\], but 'w'"),
        (
            Product(info("b", 4, 2), info("a", 3, 3)),
            r"'b' of shape \[4, 2\] and 'a' of shape \[3, 3\] have no product: the ranks 2 and 3",
        ),
        (Product(info("b", 4), info("a", 3)), r"have no product"),
        (Product(info("b", 1, 4, 2), info("a", 1, 2, 3)), r"shape \[1, 4, 3\], but 'w'"),
        (Product(info("b", 4, 2, dtype="I32"), info("a", 2, 3)), r"'b' is I32, expected a float"),
        (Added(info("d", 4)), r"shape \[4\], but 'w'"),
        (Magnitudes(info("m", 3), 3), r"shape \[3\], but 'w'"),
        (Rows((0, 4), info("t", 2, 3)), r"the token 4, but 'w' in .*model\.safetensors has 4 rows"),
        (Rows((0, 3), info("t", 2, 4)), r"shape \[2, 4\], but 'w'"),
        (info("saved", 5, 3), r"shape \[5, 3\], but 'w'"),
    ],
)
def test_shapes_that_do_not_fit(tmp_path: Path, change: Change | TensorInfo, message: str) -> None:
    base = model(tmp_path, w=(4, 3))
    with pytest.raises(InputError, match=rf"adapter_model\.safetensors: .*{message}") as refused:
        place(base, adapter(edit("w", change)))
    assert "merge_and_unload" in str(refused.value)


def test_a_convolution_is_a_matrix(tmp_path: Path) -> None:
    base = model(tmp_path, conv__weight=(4, 3, 3, 3))
    placed = place(base, adapter(edit("conv.weight", product(4, 27))))
    assert placed.tensors["conv.weight"].changes == (product(4, 27),)


def test_the_first_reading_that_fits_counts(tmp_path: Path) -> None:
    base = model(tmp_path, w=(4, 3), square=(3, 3))
    plain, turned = product(3, 4), product(4, 3)
    both = Edit("w", plain, plain.left, (Edit("w", turned, plain.left),))
    assert place(base, adapter(both)).tensors["w"].changes == (turned,)
    elsewhere = Edit("v", plain, plain.left, (Edit("w", plain, plain.left),))
    with pytest.raises(InputError, match=r"changes a tensor of shape \[3, 4\], but 'w'"):
        place(base, adapter(elsewhere))
    first, second = product(3, 3, 1), product(3, 3, 2)
    both = Edit("square", first, first.left, (Edit("square", second, first.left),))
    assert place(base, adapter(both)).tensors["square"].changes == (first,)


def test_square_matrices_are_stored_as_those_beside_them(tmp_path: Path) -> None:
    base = model(tmp_path, w=(4, 3), v=(3, 4), square=(3, 3), lm_head__weight=(3, 4))

    def either(name: str, rows: int, columns: int) -> Edit:
        plain, turned = product(rows, columns), product(columns, rows, 3)
        return Edit(name, plain, plain.left, (Edit(name, turned, plain.left),))

    square = either("square", 3, 3)
    changes = place(base, adapter(either("w", 3, 4), square)).tensors["square"].changes
    assert changes == (product(3, 3, 3),)
    changes = place(base, adapter(either("w", 4, 3), square)).tensors["square"].changes
    assert changes == (product(3, 3),)
    head = either("lm_head.weight", 3, 4)
    changes = place(base, adapter(either("w", 3, 4), square, head)).tensors["square"].changes
    assert changes == (product(3, 3, 3),)
    with pytest.raises(InputError, match="square matrix 'square', which may be stored with rows"):
        place(base, adapter(either("w", 3, 4), either("v", 3, 4), square))


def test_an_edit_without_a_tensor_is_named(tmp_path: Path) -> None:
    base = named(tmp_path, Q)
    absent = Q.replace("q_proj", "q_prj")
    with pytest.raises(InputError, match=rf"changes '{absent}', which .* did you mean '{Q}'"):
        place(base, adapter(edit(Q, product(4, 3)), edit(absent, product(4, 3))))
    with pytest.raises(InputError, match="lora: the adapter changes no tensor"):
        place(base, adapter())


def test_two_names_for_one_tensor_are_refused(tmp_path: Path) -> None:
    base = named(tmp_path, Q)
    edits = (edit(Q, product(4, 3)), edit(f"text_encoder_2.{Q}", product(4, 3)))
    with pytest.raises(InputError, match=rf"both change '{Q}'"):
        place(base, adapter(*edits))


def test_embeddings_of_a_larger_vocabulary_replace_those_of_the_model(tmp_path: Path) -> None:
    names = ("lm_head.weight", "model.embed_tokens.weight", "model.norm.weight")
    base = Checkpoint.open(write(tmp_path / "base", {n: np.zeros((6, 3), "f4") for n in names}))
    saved = info("saved", 8, 3)
    placed = place(base, adapter(*(edit(name, saved) for name in names[:2])))
    assert [placed.tensors[name].shape for name in names] == [(8, 3), (8, 3), (6, 3)]
    for name, shape in ((names[2], (8, 3)), (names[0], (6, 4))):
        with pytest.raises(InputError, match="changes a tensor of shape"):
            place(base, adapter(edit(name, info("saved", *shape))))


@pytest.mark.parametrize("inner", ["text_model.encoder.layers.0", "encoder.layers.0"])
@pytest.mark.parametrize(
    "name",
    [
        "text_encoder.text_model.encoder.layers.0.fc1.weight",
        "text_encoder.encoder.layers.0.fc1.weight",
        "encoder.layers.0.fc1.weight",
        "text_model.encoder.layers.0.fc1.weight",
        "lora_te_text_model_encoder_layers_0_fc1.weight",
    ],
)
def test_modules_of_a_text_encoder_with_and_without_their_prefix(inner: str, name: str) -> None:
    stored = f"text_encoder/{inner}.fc1.weight"
    assert Names([stored, "unet/conv_in.weight"]).find(name) == [stored]


def test_names_of_folders() -> None:
    names = Names(["unet/a.b.weight", "vae/c.weight", "vae/a.d.weight", "vae/encoder.a.b.weight"])
    assert names.find("unet.a.b.weight") == ["unet/a.b.weight"]
    assert names.find("a.b.weight") == ["unet/a.b.weight"]
    assert names.find("unet.a.d.weight") == []
    assert names.find("text.c.weight") == []
    assert Names(["norm.weight"]).find("vision.norm.weight") == []
    assert Names(["norm.weight"]).find("model.norm.weight") == ["norm.weight"]
    assert Names(["conv_in.weight"]).find("unet.conv_in.weight") == ["conv_in.weight"]
    assert plain("unet/a.module.b") == "unet.a.b"
