"""Adapters of kohya's scripts, diffusers and LyCORIS are read by the names of their tensors."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save_file

from tallies.checkpoint.adapters.opening import open_adapter
from tallies.checkpoint.adapters.other_names import take_apart
from tallies.checkpoint.adapters.placing import place
from tallies.checkpoint.changes import Magnitudes
from tallies.checkpoint.checkpoint import Checkpoint
from tallies.errors import InputError
from tests.reference import adapters as reference
from tests.reference.dtype import narrow
from tests.support import adapters
from tests.support.checkpoints import Array, Model, assert_same_tensors, write
from tests.support.placed import decoded, values

RNG = np.random.default_rng(0)


def floats(*shape: int) -> Array:
    return RNG.standard_normal(shape).astype(np.float32)


def changed(path: Path, base: Model, tensors: Model, metadata: Any = None) -> Model:
    """The base with an adapter's file on it."""
    path.mkdir(exist_ok=True)
    file = path / "style.safetensors"
    save_file(tensors, file, metadata=metadata)
    placed = place(Checkpoint.open(write(path / "base", base)), open_adapter(file))
    found = values(placed)
    read = decoded(placed)
    if any(isinstance(one, Magnitudes) for t in placed.tensors.values() for one in t.changes):
        for name, array in read.items():
            np.testing.assert_allclose(array, found[name], rtol=3e-7)
    else:
        assert_same_tensors(read, found)
    return found


def unet() -> Model:
    """A corner of a UNet with a convolution, in the names of diffusers."""
    return {
        "down_blocks.0.resnets.0.conv1.weight": floats(6, 4, 3, 3),
        "down_blocks.0.attentions.0.proj_in.weight": floats(6, 4, 1, 1),
        "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q.weight": floats(4, 6),
        "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_out.0.weight": floats(6, 4),
        "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_out.0.bias": floats(6),
        "mid_block.resnets.0.conv1.weight": floats(4, 6, 3, 3),
    }


TARGETS = ("conv1", "proj_in", "to_q", "to_out.0")


@pytest.mark.parametrize("kind", ["lora", "loha", "lokr", "lokr_low", "diff"])
@pytest.mark.parametrize("alpha", [None, 1.5])
def test_kinds_of_changes(tmp_path: Path, kind: str, alpha: float | None) -> None:
    base = unet()
    made = adapters.kohya(base, TARGETS, kind=kind, prefix="lora_unet", alpha=alpha, rank=2)
    found = changed(tmp_path, base, made.tensors)
    assert_same_tensors(found, adapters.merged(base, made))
    changed_names = {name for name in base if not np.array_equal(found[name], base[name])}
    assert changed_names == made.changes.keys() and len(changed_names) == 5


@given(
    kind=st.sampled_from(["lora", "loha", "lokr", "lokr_low", "diff"]),
    rows=st.integers(1, 9),
    columns=st.integers(1, 9),
    kernel=st.sampled_from([(), (1, 1), (3, 3), (1, 2, 3)]),
    rank=st.integers(1, 5),
    dtype=st.sampled_from([adapters.F32, adapters.F16, adapters.BF16]),
    base_dtype=st.sampled_from([adapters.F32, adapters.F16, adapters.BF16]),
)
def test_shapes_ranks_and_dtypes(
    kind: str,
    rows: int,
    columns: int,
    kernel: tuple[int, ...],
    rank: int,
    dtype: Any,
    base_dtype: Any,
) -> None:
    size = 2 if kind.startswith("lokr") else 1  # LoKr's first factor is of 2 x 2
    base = {"m.conv.weight": narrow(floats(size * rows, size * columns, *kernel), base_dtype)}
    made = adapters.kohya(base, ["conv"], kind=kind, prefix="lora_unet", rank=rank, dtype=dtype)
    with tempfile.TemporaryDirectory() as path:
        found = changed(Path(path), base, made.tensors)
    assert_same_tensors(found, adapters.merged(base, made))


Q = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"
OUT = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_out.0"
OF_TEXT = "text_model.encoder.layers.0.self_attn.q_proj"


@pytest.mark.parametrize(
    ("stem", "down", "up", "target"),
    [
        (f"unet.{Q}", ".lora_A.weight", ".lora_B.weight", Q),
        (f"unet.{Q}", ".lora.down.weight", ".lora.up.weight", Q),
        (f"{Q}", ".lora_A.default.weight", ".lora_B.default.weight", Q),
        (f"diffusion_model.{Q}", ".lora_A", ".lora_B", Q),
        (
            f"unet.{Q}".replace(".to_q", ".processor.to_q"),
            "_lora.down.weight",
            "_lora.up.weight",
            Q,
        ),
        (
            f"unet.{OUT}".replace(".to_out.0", ".processor.to_out"),
            "_lora.down.weight",
            "_lora.up.weight",
            OUT,
        ),
        (
            f"text_encoder.{OF_TEXT}",
            ".lora_linear_layer.down.weight",
            ".lora_linear_layer.up.weight",
            OF_TEXT,
        ),
        (
            f"text_encoder.{OF_TEXT}".replace("q_proj", "to_q"),
            "_lora.down.weight",
            "_lora.up.weight",
            OF_TEXT,
        ),
        (f"lora_te_{OF_TEXT.replace('.', '_')}", ".lora_down.weight", ".lora_up.weight", OF_TEXT),
        (f"lycoris_{Q.replace('.', '_')}", ".lora_down.weight", ".lora_up.weight", Q),
    ],
)
def test_names_of_factors(tmp_path: Path, stem: str, down: str, up: str, target: str) -> None:
    base = {f"{Q}.weight": floats(4, 6), f"{OUT}.weight": floats(4, 6)}
    base[f"{OF_TEXT}.weight"] = floats(4, 6)
    a, b = floats(2, 6), floats(4, 2)
    found = changed(tmp_path, base, {stem + down: a, stem + up: b})
    weight = base[f"{target}.weight"]
    expected = reference.added(reference.product(b, a), 1.0)(weight)
    assert_same_tensors(found, {**base, f"{target}.weight": expected})


@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.int64, adapters.BF16])
def test_alpha_of_any_dtype(tmp_path: Path, dtype: Any) -> None:
    base = {"w.weight": floats(4, 6)}
    a, b = floats(2, 6), floats(4, 2)
    tensors = {"w.lora_down.weight": a, "w.lora_up.weight": b, "w.alpha": np.array(3, dtype)}
    found = changed(tmp_path, base, tensors)
    expected = reference.added(reference.product(b, a), 1.5)(base["w.weight"])
    assert_same_tensors(found, {"w.weight": expected})


def test_settings_of_diffusers_in_the_metadata(tmp_path: Path) -> None:
    base = {f"{Q}.weight": floats(4, 6), f"{OUT}.weight": floats(4, 6)}
    a, b = floats(2, 6), floats(4, 2)
    tensors = {
        f"unet.{module}.{piece}.weight": one
        for module in (Q, OUT)
        for piece, one in (("lora_A", a), ("lora_B", b))
    }
    settings = {"unet.r": 2, "unet.lora_alpha": 3, "unet.alpha_pattern": {"to_q": 8}}
    found = changed(tmp_path, base, tensors, {"lora_adapter_metadata": json.dumps(settings)})
    product = reference.product(b, a)
    for module, scale in ((Q, 4.0), (OUT, 1.5)):
        expected = reference.added(product, scale)(base[f"{module}.weight"])
        np.testing.assert_array_equal(found[f"{module}.weight"], expected)


@pytest.mark.parametrize(
    ("shape", "of_columns"), [((4, 1), False), ((1, 6), True), ((4,), False), ((4, 1, 1, 1), False)]
)
def test_dora(tmp_path: Path, shape: tuple[int, ...], of_columns: bool) -> None:
    base = {"w.weight": floats(4, 6)}
    a, b, m = floats(2, 6), floats(4, 2), np.abs(floats(*shape)) + 1
    tensors = {"w.lora_down.weight": a, "w.lora_up.weight": b, "w.dora_scale": m}
    found = changed(tmp_path, base, tensors)
    made = reference.added(reference.product(b, a), 1.0)(base["w.weight"])
    expected = reference.magnitudes(m, of_columns=of_columns)(made)
    assert_same_tensors(found, {"w.weight": expected})


def test_biases_norms_and_differences(tmp_path: Path) -> None:
    base = {"w.weight": floats(4, 6), "w.bias": floats(4), "n.weight": floats(6)}
    base["n.bias"] = floats(6)
    tensors = {
        "w.lora_A.weight": floats(2, 6),
        "w.lora_B.weight": floats(4, 2),
        "w.lora_B.bias": floats(4),
        "w.alpha": np.array(4, np.float32),
        "n.w_norm": floats(6),
        "n.b_norm": floats(6),
    }
    found = changed(tmp_path, base, tensors)
    np.testing.assert_array_equal(found["w.bias"], base["w.bias"] + 2 * tensors["w.lora_B.bias"])
    np.testing.assert_array_equal(found["n.weight"], base["n.weight"] + tensors["n.w_norm"])
    np.testing.assert_array_equal(found["n.bias"], base["n.bias"] + tensors["n.b_norm"])
    tensors = {"w.diff": floats(4, 6), "w.diff_b": floats(4)}
    found = changed(tmp_path / "diff", base, tensors)
    np.testing.assert_array_equal(found["w.weight"], base["w.weight"] + tensors["w.diff"])
    np.testing.assert_array_equal(found["w.bias"], base["w.bias"] + tensors["w.diff_b"])


A, B = ("w.lora_down.weight", (2, 6)), ("w.lora_up.weight", (4, 2))


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ([A], "'w.lora_down.weight' stands alone, expected the other factor"),
        ([B], "'w.lora_up.weight' stands alone, expected the other factor"),
        ([A, ("w.lora_up.weight", (4, 3))], r"shape \[2, 6\]: the ranks 3 and 2 must be equal"),
        ([A, ("w.lora_up.weight", (4,))], r"has shape \[4\], expected a matrix"),
        ([A, B, ("w.lora_mid.weight", (2, 2, 3, 3))], "mid.* core of a Tucker decomposition"),
        ([A, B, ("w.hada_t1", (2, 2, 3, 3))], "hada_t1' is the core of a Tucker decomposition"),
        ([("w.hada_w1_a", (4, 2)), ("w.hada_w1_b", (2, 6))], "LoHa without hada_w2_a"),
        ([("w.lokr_w1", (2, 2))], "LoKr without lokr_w2 or lokr_w2_a"),
        ([("w.lokr_w1", (2, 2)), ("w.lokr_w2_b", (2, 3))], "LoKr without lokr_w2 or lokr_w2_a"),
        ([A, B, ("w.dora_scale", (1, 5))], r"shape \[1, 5\], expected the norms of 4 rows or 6"),
        ([A, B, ("v.alpha", ())], "'v.alpha' stands alone"),
        ([A, B, ("w.alpha", (2,))], r"'w.alpha' is F32 \[2\], expected one number"),
        ([A, B, ("w.oft_blocks", (2, 2))], "of the kind OFT or BOFT, expected LoRA, LoHa or LoKr"),
        ([("lora_unet_w.a1.weight", (2, 2))], "of the kind GLoRA, expected LoRA, LoHa or LoKr"),
        ([A, B, ("w.a1.weight", (2, 2))], "'w.a1.weight' is a piece .* not known"),
        ([A, ("w.lora_A.weight", (2, 6))], "are the same piece of one module"),
        ([A, B, ("w.dora_scale", (4, 1)), ("w.lokr_t2", (1, 1))], "Tucker"),
    ],
)
def test_refusals(tmp_path: Path, entries: list[tuple[str, tuple[int, ...]]], message: str) -> None:
    file = tmp_path / "style.safetensors"
    save_file({name: floats(*shape) for name, shape in entries}, file)
    with pytest.raises(InputError, match=rf"style\.safetensors: .*{message}") as refused:
        open_adapter(file)
    assert "merge_and_unload" in str(refused.value)


def test_a_scale_that_is_no_number(tmp_path: Path) -> None:
    file = tmp_path / "style.safetensors"
    alpha = np.array(np.nan, np.float32)
    tensors = {name: floats(*shape) for name, shape in (A, B)}
    save_file({**tensors, "w.alpha": alpha}, file)
    with pytest.raises(InputError, match=r"'w.alpha' is nan, expected a finite number"):
        open_adapter(file)


def test_norms_of_the_input_channels_of_a_convolution_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "style.safetensors"
    tensors = {
        "w.lora_down.weight": floats(2, 5, 3, 3),
        "w.lora_up.weight": floats(4, 2, 1, 1),
        "w.dora_scale": floats(1, 5, 1, 1),
    }
    save_file(tensors, file)
    with pytest.raises(InputError, match="norms of a convolution's input channels are not read"):
        open_adapter(file)


def test_embeddings_of_new_tokens_are_left_out_with_a_warning(tmp_path: Path) -> None:
    file = tmp_path / "style.safetensors"
    tensors = {name: floats(*shape) for name, shape in (A, B)}
    save_file({**tensors, "bundle_emb.new.string_to_param.*": floats(2, 3)}, file)
    (warning,) = open_adapter(file).warnings
    assert "1 embedding of new tokens" in warning and "textual inversion" in warning


def test_kinds_are_named(tmp_path: Path) -> None:
    base = {"a.weight": floats(4, 6), "b.weight": floats(4, 6)}
    lora = adapters.kohya(base, ["a"], prefix="lora_unet", rank=2)
    loha = adapters.kohya(base, ["b"], kind="loha", prefix="lora_unet", rank=2)
    file = tmp_path / "style.safetensors"
    save_file({**lora.tensors, **loha.tensors}, file)
    assert open_adapter(file).kind == "LoRA and LoHa"


def test_a_name_of_a_model_is_none_of_an_adapter() -> None:
    assert take_apart("model.layers.0.self_attn.q_proj.weight") is None
    assert take_apart("w.lora_A.bias") is None
